"""How fast gradients change along a run of Scion, layer by layer.

On trial is the assumption of Gluon (arXiv 2505.13416): for each layer the change of its
gradient, in the dual norm, over its own step, in its norm, is at most L₀ + L₁‖G‖, with
‖G‖ the dual norm of its gradient. Measured along runs on all of 600 digits at once,
without the noise of mini-batches, so what is seen is the loss itself.

    python experiments/scion_smoothness.py    # about a minute of one quiet core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from store import RESULTS, Store, provenance

from anthology import lab, norms, optim

PATH = RESULTS / "scion_smoothness.json"
RATES = (0.001, 0.004)  # the second learns the digits by heart
SEEDS = (0, 1, 2)
STEPS, EVERY = 150, 2

# The expectation is that of the paper. Two seeds of each rate had been looked at while
# the script was tried: a line looked likely at the larger rate and not at the smaller.
EXPECTED = (
    "L̂ is a straight line in ‖G‖ along a run, with its own numbers for a layer",
)


def curvature(rate: float, seed: int, steps: int = STEPS) -> list[list[list[float]]]:
    """For each matrix the pairs (‖G‖, L̂) at every other step."""
    data = lab.digits()
    x, y = data.x[:600].double(), data.y[:600]
    net = lab.mlp([64, 32, 32, 10], seed=seed).double()
    rule = optim.Scion(norms.metrize(net), rate, momentum=0.9)
    groups = rule.param_groups
    layers = [
        (norms.from_spec(group["norm"]), p)
        for group in groups
        for p in group["params"]
        if p.ndim == 2
    ]
    found: list[list[list[float]]] = [[] for _ in layers]
    old: list[Any] = []
    for k in range(steps):
        for group in groups:
            group["lr"] = rate * (1 - k / steps)
        rule.zero_grad()
        lab.cross_entropy(net(x), y).backward()
        new = [(p.grad.clone(), p.detach().clone()) for _, p in layers]
        if old and k % EVERY == 0:
            for row, (norm, _), (G, W), (G0, W0) in zip(
                found, layers, new, old, strict=True
            ):
                ratio = norm.dual(G - G0) / norm.norm(W - W0)
                row.append([float(f"{float(v):.4g}") for v in (norm.dual(G), ratio)])
        old = new
        rule.step()
    return found


def stored() -> dict[str, Any]:
    """What has been run."""
    runs: dict[str, Any] = Store(PATH, provenance("scion_smoothness.py")).runs
    return runs


def main() -> None:
    """Make the runs that are missing."""
    store = Store(PATH, provenance("scion_smoothness.py"))
    store.content.setdefault("expected", EXPECTED)
    for rate in RATES:
        for seed in SEEDS:
            if f"{rate}/{seed}" not in store.runs:
                store.runs[f"{rate}/{seed}"] = curvature(rate, seed)
                store.save()
                print(rate, seed, flush=True)


if __name__ == "__main__":
    main()
