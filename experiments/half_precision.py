"""Half precision: Kronecker factors with a root and without, and Adam's averages.

What is on trial is a sentence of Lin et al. 2024, in our words: *without roots the
factors can be kept and multiplied in half precision, where roots fail*.

    python experiments/half_precision.py    # about five minutes of one core

``race``: a perceptron 64-32-32-10 without biases on the digits, 150 batches of 64; the
training loss at the end. *free* is SIRFShampoo, *root* its twin with averages of GGᵀ and
GᵀG under inverse fourth roots, all with everything but the decomposition in one
precision. "root" has the ε of Distributed Shampoo, 1e-12 beside the eigenvalues,
"damped" 1e-4 of the largest entry. Each precision tries the same rates at search seed
100, then runs five seeds at its own best one and at that of float32.

``cures``: factors of bfloat16 rounded at random, or with what was rounded off kept
beside them, or kept in float32 and rounded for products only.

``adam``: the same perceptron with biases, 600 batches, with one of Adam's tensors in
bfloat16. ``times``: seconds of the processor, every kind once in each round.

Written down before the first run, after single trials with seed 0:

1. At γ = 0.01 and 0.02, below √64/256, free in bfloat16 ends above 1.2 times the loss
   of float32 at the rates of float32; at 0.05 within 10 % of it.
2. Free in float16 ends within 10 % of float32 at every γ.
3. Root in bfloat16 and in float16 ends above ten times the loss of float32.
4. Damped, it ends within a factor of two in bfloat16 and within 20 % in float16.
5. With a learning rate of its own, free in bfloat16 at γ = 0.01 is no worse than
   float32: a factor that stands still is gradient descent, which wants a larger rate.
6. Each cure ends within 10 % of float32 at γ = 0.01.
7. Adam with m in bfloat16 ends within 10 % of Adam; with v in bfloat16 above 1.2 times
   its loss, and rounded at random within 10 %; weights in bfloat16 above 1.2 times,
   rounded at random or compensated within 20 %.
8. A decomposition in float32 takes over 16 times as long as a product in bfloat16.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab, optim
from anthology.linalg import inverse_root
from anthology.optim.core.rounding import stochastic
from experiments.store import RESULTS, Store, provenance

PATH = RESULTS / "half_precision.json"
DTYPES = ("float32", "bfloat16", "float16")
GAMMAS = {"free": (0.01, 0.02, 0.03, 0.05), "root": (0.01,), "damped": (0.01, 0.05)}
FAST = (0.03, 0.1, 0.3)
RATES = {"free": (0.01, 0.03, 0.1), "root": FAST, "damped": FAST}
CURES = ("stochastic", "compensated", "products")
ADAM = ("none", "exp_avg", "exp_avg_sq", "exp_avg_sq at random")
WEIGHTS = ("nearest", "stochastic", "compensated")
SEEDS, SEARCH_SEED = range(5), 100
MOMENTUM, BATCH, DAMPING = 0.9, 64, 1e-3


class Factors:
    """The two factors of one matrix, and the steps they make of its gradients.

    ``kind`` is "free", "root" or "damped", ``dtype`` the precision of all but a
    decomposition, ``gamma`` the rate of the factors and ``keep`` how new factors of
    "free" are rounded: "nearest" or one of the `CURES`.
    """

    def __init__(
        self,
        shape: Iterable[int],
        kind: str = "free",
        dtype: torch.dtype = torch.bfloat16,
        gamma: float = 0.01,
        keep: str = "nearest",
    ) -> None:
        self.kind, self.dtype, self.gamma, self.keep = kind, dtype, gamma, keep
        self.wide = torch.promote_types(dtype, torch.float32)
        first = torch.eye if kind == "free" else lambda d, **k: torch.zeros(d, d, **k)
        home = self.wide if keep == "products" else dtype
        self.kept = [first(d, dtype=home) for d in shape]
        self.momenta = [torch.zeros(d, d, dtype=dtype) for d in shape]
        self.rests = [torch.zeros(d, d, dtype=dtype) for d in shape]
        self.steps = 0

    def step(self, gradient: Tensor) -> Tensor:
        """The preconditioned gradient, after an update of the factors."""
        self.steps += 1
        made = self._free if self.kind == "free" else self._root
        return made(gradient.to(self.dtype)).to(gradient.dtype)

    def _free(self, g: Tensor) -> Tensor:
        c, k = (x.to(self.dtype) for x in self.kept)
        a = c.T @ (g * math.sqrt(BATCH / g.numel())) @ k
        grams = (a @ a.T * len(a), a.T @ a * len(a.T))
        for n, (f, gram, other) in enumerate(((c, grams[0], k), (k, grams[1], c))):
            trace = other.to(self.wide).square().sum().div(len(other)).to(self.dtype)
            curved = gram + DAMPING * trace * (f.T @ f)
            step = curved - torch.eye(len(f), dtype=self.dtype)
            m = self.momenta[n] = 0.5 * self.momenta[n] + 0.25 * step
            size = m.to(self.wide).norm().clamp(min=1).to(self.dtype)
            self._write(n, f @ (m / size))
        c, k = (x.to(self.dtype) for x in self.kept)
        return c @ (c.T @ g @ k) @ k.T

    def _write(self, n: int, change: Tensor) -> None:
        """K − γ·change, rounded to where K is kept."""
        old = self.kept[n].to(self.wide) + self.rests[n].to(self.wide)
        new = old - self.gamma * change.to(self.wide)
        if self.keep == "stochastic":
            self.kept[n] = stochastic(new)
        else:
            self.kept[n] = new.to(self.kept[n].dtype)
        if self.keep == "compensated":
            self.rests[n] = (new - self.kept[n].to(self.wide)).to(self.dtype)

    def _root(self, g: Tensor) -> Tensor:
        weight = 1 - (1 - self.gamma) ** self.steps
        roots = []
        for n, gram in enumerate((g @ g.T, g.T @ g)):
            self.kept[n] = self.kept[n] + self.gamma * (gram - self.kept[n])
            f = self.kept[n].to(self.wide) / weight
            top = f.abs().max()
            if self.kind == "damped" and top > 0:
                root = inverse_root(f / top, 4, epsilon=1e-4) * top**-0.25
            else:
                root = inverse_root(f, 4, epsilon=1e-12)
            roots.append(root.to(self.dtype))
        return roots[0] @ g @ roots[1]


def rounded(x: Tensor, bits: int) -> Tensor:
    """To so many significant bits, the nearest, ties to even; any exponent."""
    m, e = torch.frexp(x)
    return torch.ldexp(torch.round(m * 2.0**bits) / 2.0**bits, e)


def gain_errors(bits: int, ratio: float, seed: int, size: int = 32) -> list[float]:
    """The worst relative error of a gain when a matrix is rounded, or its factor.

    The eigenvalues of the matrix have this ``ratio`` of largest to smallest; gains are
    those of its inverse fourth root with ε = 1e-12, and of KKᵀ, its inverse.
    """
    draw = torch.Generator().manual_seed(seed)
    square = torch.randn(size, size, dtype=torch.float64, generator=draw)
    q = torch.linalg.qr(square)[0]
    h = torch.logspace(0, -math.log10(ratio), size, dtype=torch.float64)
    root = inverse_root(rounded(q * h @ q.T, bits), 4, epsilon=1e-12)
    k = rounded(q * h**-0.5 @ q.T, bits)
    gains = ((root, h**0.25), (k @ k.T, h))
    return [float(((q.T @ x @ q).diagonal() * y - 1).abs().max()) for x, y in gains]


def step_errors(
    history: Iterable[Tensor], kind: str, gamma: float, keep: str = "nearest"
) -> tuple[Tensor, Factors]:
    """How far steps in bfloat16 are from those in float64, relative; and the factors."""
    grads = list(history)
    exact = Factors(grads[0].shape, kind, torch.float64, gamma)
    short = Factors(grads[0].shape, kind, torch.bfloat16, gamma, keep)
    found = []
    for g in grads:
        true = exact.step(g)
        found.append((short.step(g) - true).norm() / true.norm())
    return torch.stack(found), short


def batches(
    seed: int, steps: int, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Of the digits, drawn with replacement."""
    data, draw = lab.digits(device="cpu"), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(data.x), (BATCH,), generator=draw)
        yield data.x[batch].to(dtype), data.y[batch]


def final(net: nn.Module, dtype: torch.dtype = torch.float32) -> float | None:
    """The loss on all digits trained on; None where it is not finite."""
    data = lab.digits(device="cpu")
    with torch.no_grad():
        loss = float(lab.cross_entropy(net(data.x.to(dtype)).float(), data.y))
    return round(loss, 5) if math.isfinite(loss) else None


def race(
    kind: str,
    dtype: str,
    gamma: float,
    lr: float,
    seed: int,
    keep: str = "nearest",
    steps: int = 150,
) -> float | None:
    """The loss after a run of factors in one precision."""
    net = lab.mlp([64, 32, 32, 10], bias=False, seed=seed)
    weights = list(net.parameters())
    how = (kind, getattr(torch, dtype), gamma, keep)
    factors = [Factors(w.shape, *how) for w in weights]
    balls = [torch.zeros_like(w) for w in weights]
    damp = 1.0 if kind == "free" else 1 - MOMENTUM  # heavy ball; or an average
    for x, y in batches(seed, steps, torch.float32):
        grads = torch.autograd.grad(lab.cross_entropy(net(x), y), weights)
        if not all(bool(g.isfinite().all()) for g in grads):
            return None
        with torch.no_grad():
            for w, g, f, ball in zip(weights, grads, factors, balls, strict=True):
                try:
                    ball.mul_(MOMENTUM).add_(f.step(g), alpha=damp)
                except torch.linalg.LinAlgError:
                    return None
                w.sub_(lr * ball)
    return final(net)


def adam(kept: str, seed: int, steps: int = 600, lr: float = 3e-3) -> float | None:
    """The loss of Adam with one of its averages rounded to bfloat16 after each step."""
    net = lab.mlp([64, 32, 32, 10], seed=seed)
    optimizer = torch.optim.Adam(net.parameters(), lr)
    name, _, at_random = kept.partition(" ")
    torch.manual_seed(seed)
    for x, y in batches(seed, steps, torch.float32):
        optimizer.zero_grad()
        lab.cross_entropy(net(x), y).backward()
        optimizer.step()
        for state in optimizer.state.values() if name != "none" else ():
            x = state[name]
            x.copy_(stochastic(x) if at_random else x.bfloat16())
    return final(net)


def second_moment(dtype: torch.dtype, beta2: float) -> tuple[float, float]:
    """Adam's v after 800 gradients of 1, and after 800 more of 0.01."""
    p, seen = nn.Parameter(torch.ones(1, dtype=dtype)), []
    optimizer = torch.optim.Adam([p], 1e-4, (0.9, beta2))
    for k in range(1600):
        p.grad = torch.full_like(p, 1.0 if k < 800 else 0.01)
        optimizer.step()
        seen.append(float(optimizer.state[p]["exp_avg_sq"]))
    return seen[799], seen[-1]


def weights(
    rounding: str, seed: int, steps: int = 600, lr: float = 3e-3
) -> float | None:
    """The loss of Adam on a network in bfloat16, its averages in float32."""
    net = lab.mlp([64, 32, 32, 10], seed=seed).bfloat16()
    torch.manual_seed(seed)
    optimizer = optim.Adam([{"params": net.parameters(), "rounding": rounding}], lr)
    for x, y in batches(seed, steps, torch.bfloat16):
        optimizer.zero_grad()
        lab.cross_entropy(net(x).float(), y).backward()
        optimizer.step()
    return final(net, torch.bfloat16)


def times(size: int = 256, rounds: int = 9) -> dict[str, list[float]]:
    """Milliseconds of the processor for products, decompositions and steps."""
    torch.manual_seed(0)
    a = torch.randn(size, size)
    gram = a @ a.T
    half = {name: a.to(getattr(torch, name)) for name in DTYPES}
    work: dict[str, Callable[[], Any]] = {"eigh": lambda: torch.linalg.eigh(gram)}
    for name, x in half.items():
        work[f"product {name}"] = lambda x=x: x @ x

    def step(optimizer: torch.optim.Optimizer) -> Callable[[], Any]:
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = 1e-2 * torch.randn_like(p)
        return optimizer.step

    def fresh() -> list[nn.Parameter]:
        return [nn.Parameter(torch.zeros(size, size))]

    work["Shampoo"] = step(optim.Shampoo(fresh()))
    for name in DTYPES[:2]:
        made = optim.SIRFShampoo(fresh(), batch_size=1, factor_dtype=name)
        work[f"SIRFShampoo {name}"] = step(made)
    found: dict[str, list[float]] = {name: [] for name in work}
    for n in range(rounds + 1):
        for name, run in work.items():
            repeats = 20 if name.startswith("product") else 1
            start = time.process_time()
            for _ in range(repeats):
                run()
            if n:  # the first round warms up
                spent = 1e3 * (time.process_time() - start) / repeats
                found[name].append(round(spent, 4))
    return found


def key(*words: object) -> str:
    """Under which a run is stored."""
    return " ".join(map(str, words))


def stored() -> dict[str, Any]:
    """What has been run."""
    return Store(PATH, provenance("half_precision.py")).runs


def best(runs: dict[str, Any], kind: str, dtype: str, gamma: float) -> float:
    """The learning rate with the least loss at the search seed."""
    tried = {
        lr: runs[key("race", kind, dtype, gamma, lr, SEARCH_SEED)] for lr in RATES[kind]
    }
    return min(tried, key=lambda lr: math.inf if tried[lr] is None else tried[lr])


def five(
    runs: dict[str, Any], kind: str, dtype: str, gamma: float, own: bool = False
) -> list[float]:
    """The losses of the seeds at the learning rate of float32, or at its own.

    100 stands for a run that diverged.
    """
    lr = best(runs, kind, dtype if own else "float32", gamma)
    found = [runs[key("race", kind, dtype, gamma, lr, seed)] for seed in SEEDS]
    return [100.0 if loss is None else min(loss, 100.0) for loss in found]


def middle(losses: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(mean(map(math.log, losses)))


def verdicts(runs: dict[str, Any]) -> list[tuple[str, list[float], bool]]:
    """Each prediction, the ratios of losses it speaks of, and whether it holds."""
    b, h, anything = "bfloat16", "float16", math.inf

    def over(kind: str, dtype: str, gammas: Iterable[float], own: bool = False) -> Any:
        pairs = [
            (five(runs, kind, dtype, g, own), five(runs, kind, "float32", g))
            for g in gammas
        ]
        return [middle(x) / middle(y) for x, y in pairs]

    def ran(name: str, kept: str) -> float:
        return middle(runs[key(name, kept, seed)] for seed in SEEDS)

    lr = best(runs, "free", "float32", 0.01)
    wide = middle(five(runs, "free", "float32", 0.01))
    cured = [
        [runs[key("cure", "free", b, 0.01, lr, seed, keep)] for seed in SEEDS]
        for keep in CURES
    ]
    kept = [ran("adam", name) / ran("adam", "none") for name in ADAM[1:]]
    rounded = [ran("weights", name) / ran("adam", "none") for name in WEIGHTS]
    taken = runs["times"]
    pairs = zip(taken["eigh"], taken["product bfloat16"], strict=True)
    said: list[tuple[str, list[float], float, float]] = [
        (
            "bf16 at 0.01, 0.02: > 1.2",
            over("free", b, (0.01, 0.02)),
            1.2,
            anything,
        ),
        ("bf16 at 0.05: ± 10 %", over("free", b, (0.05,)), 0.9, 1.1),
        (
            "f16 at four rates: ± 10 %",
            over("free", h, GAMMAS["free"]),
            0.9,
            1.1,
        ),
        (
            "root, bf16 and f16: > 10",
            over("root", b, (0.01,)) + over("root", h, (0.01,)),
            10,
            anything,
        ),
        (
            "damped, bf16: < 2",
            over("damped", b, (0.01, 0.05)),
            0.5,
            2,
        ),
        ("damped, f16: ± 20 %", over("damped", h, (0.01, 0.05)), 0.8, 1.2),
        (
            "bf16 at 0.01, own η: ≤ 1",
            over("free", b, (0.01,), True),
            0,
            1,
        ),
        ("three cures: ± 10 %", [middle(x) / wide for x in cured], 0.9, 1.1),
        ("Adam, m in bf16: ± 10 %", kept[:1], 0.9, 1.1),
        ("Adam, v in bf16: > 1.2", kept[1:2], 1.2, anything),
        ("Adam, v at random: ± 10 %", kept[2:], 0.9, 1.1),
        ("weights in bf16: > 1.2", rounded[:1], 1.2, anything),
        ("weights, cured: ± 20 %", rounded[1:], 0.8, 1.2),
        (
            "eigh, in products: > 16",
            [median(x / y for x, y in pairs)],
            16,
            anything,
        ),
    ]
    return [(what, x, all(low <= y <= high for y in x)) for what, x, low, high in said]


def main() -> None:
    """Make the runs that are missing."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("half_precision.py"))
    runs = store.runs

    def need(name: str, call: Callable[..., Any], *run: Any) -> None:
        store.once(key(name, *run), lambda: call(*run))

    for kind, rates in RATES.items():
        for dtype, gamma in product(DTYPES, GAMMAS[kind]):
            for lr in rates:
                need("race", race, kind, dtype, gamma, lr, SEARCH_SEED)
            chosen = {best(runs, kind, x, gamma) for x in ("float32", dtype)}
            for lr, seed in product(sorted(chosen), SEEDS):
                need("race", race, kind, dtype, gamma, lr, seed)
    lr = best(runs, "free", "float32", 0.01)
    for keep, seed in product(CURES, SEEDS):
        need("cure", race, "free", "bfloat16", 0.01, lr, seed, keep)
    for kept, seed in product(ADAM, SEEDS):
        need("adam", adam, kept, seed)
    for rounding, seed in product(WEIGHTS, SEEDS):
        need("weights", weights, rounding, seed)
    store.once("times", times)


if __name__ == "__main__":
    main()
