"""The factors of SIRFShampoo over long runs: invertible, and in bfloat16.

``python experiments/sirf_factors.py`` takes some minutes on one CPU core and stores

- ``invertible``: for each structure, the smallest and the largest eigenvalue of CCᵀ
  and KKᵀ after 1000 random gradients of size 3 in double precision, at β = 1/2;
- ``half precision``: the loss of a perceptron on digits after 150 steps with the
  factors in float32 and in bfloat16, at two rates of the factors, five seeds each.

The claims `sirf-positive` and `sirf-half-precision` rest on it; their tests repeat one
point of each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab
from anthology.linalg import STRUCTURES, structure
from anthology.optim import SIRFShampoo
from experiments.store import RESULTS, Store, provenance

STORE = RESULTS / "sirf_factors.json"
SHAPE, STEPS = (4, 3), 1000
DTYPES, RATES, SEEDS = ("float32", "bfloat16"), (0.01, 0.05), range(5)


def eigenvalues(name: str, steps: int = STEPS) -> tuple[float, float]:
    """The smallest and the largest of CCᵀ and KKᵀ; NaN where one is not finite."""
    torch.manual_seed(0)
    p = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    optimizer = SIRFShampoo([p], 0.0, 0.5, batch_size=1, structures=name)
    for _ in range(steps):
        p.grad = 3 * torch.randn(SHAPE).double()
        optimizer.step()
    found = []
    for n, dim in enumerate(SHAPE):
        factor = structure(name, dim).dense(optimizer.state[p][f"factor_{n}"])
        found.append(torch.linalg.eigvalsh(factor @ factor.T))
    both = torch.cat(found)
    return float(both.min()), float(both.max())


def loss(dtype: str, factor_lr: float, seed: int) -> float:
    """Of a perceptron 64-32-32-10 on the digits it was trained on."""
    data, net = lab.digits(device="cpu"), lab.mlp([64, 32, 32, 10], seed=seed)
    optimizer = SIRFShampoo(
        net.parameters(), 0.01, factor_lr, batch_size=64, factor_dtype=dtype
    )
    generator = torch.Generator().manual_seed(seed)
    for _ in range(150):
        batch = torch.randint(len(data.x), (64,), generator=generator)
        optimizer.zero_grad()
        lab.cross_entropy(net(data.x[batch]), data.y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return float(lab.cross_entropy(net(data.x), data.y))


def key(*words: object) -> str:
    """Under which a run is stored."""
    return " ".join(map(str, words))


def main() -> None:
    """Run what is not stored."""
    torch.set_num_threads(1)
    store = Store(STORE, provenance("sirf_factors.py"))
    for name in STRUCTURES:
        store.once(key("invertible", name), lambda name=name: eigenvalues(name))
    for seed in SEEDS:
        for rate in RATES:
            for dtype in DTYPES:
                run = (dtype, rate, seed)
                store.once(key("half precision", *run), lambda run=run: loss(*run))


if __name__ == "__main__":
    main()
