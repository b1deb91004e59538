"""One learning rate that finds itself, on digits: orthogonality against distance.

What is on trial: whether a rate that is adapted until neighbouring gradients are
orthogonal needs no tuning, with the whole training set and with mini-batches. The
published formulas of ELRA could not be read; "cosine" and "secant" are this book's
reading of its abstract (see chapters/shelf/elra.ipynb). They start at a rate of 1e-6,
as does escape velocity (`FreeSteepestDescent` in the Euclidean norm) at a length of
1e-6. SGD has the best of four rates, found with one seed.

Declared before these runs, after a look at one seed:
1. With the whole set the secant ends with a loss of at most twice tuned SGD's.
2. With batches of 64 and of 8 both end with rates below a tenth of SGD's best, and with
   a larger loss than SGD.
3. The cosine with the whole set loses the network in at least one of five seeds.

    python experiments/elra.py    # about two minutes

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from itertools import repeat
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from store import RESULTS, Store, provenance
from torch import Tensor

from anthology import lab, norms, optim

PATH = RESULTS / "elra.json"
STEPS, SEARCH_SEED, SEEDS = 400, 0, (1, 2, 3, 4, 5)
SIZES, RATES = (1437, 64, 8), (0.1, 0.3, 0.6, 1.2)
RULES = ("cosine", "secant", "escape")
START = 1e-6
digits = cache(lab.digits)


def adapted(rule: str, rate: float, old: Tensor, g: Tensor) -> float:
    """The next rate, from two neighbouring gradients."""
    dot, square = float(old @ g), float(old @ old)
    if rule == "cosine":
        return rate * (1 + dot / math.sqrt(square * float(g @ g)) / 2)
    return rate * (min(2.0, square / (square - dot)) if square > dot else 2.0)


class OneRate(torch.optim.SGD):
    """Gradient descent whose rate follows from its last two gradients."""

    def __init__(self, params: Any, rule: str, lr: float) -> None:
        super().__init__(params, lr)
        self.rule, self.old = rule, None

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        g = torch.cat([p.grad.flatten() for p in group["params"]])
        if self.old is not None:
            group["lr"] = adapted(self.rule, group["lr"], self.old, g)
        self.old = g
        super().step()


def make(rule: str, params: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """The contestants."""
    if rule == "SGD":
        return torch.optim.SGD(params, lr)
    if rule == "escape":
        return optim.FreeSteepestDescent(
            params, 1.0, norm=norms.L2(), across="l2", d0=lr
        )
    return OneRate(params, rule, lr)


def train(
    size: int, rule: str, lr: float, seed: int, steps: int = STEPS
) -> dict[str, Any]:
    """One run: the loss on all training digits, the last rate or length, the largest."""
    data, net = digits(), lab.mlp((64, 64, 10), seed=seed)
    params = list(net.parameters())
    optimizer = make(rule, params, lr)
    whole = size == len(data.y)
    source = repeat((data.x, data.y)) if whole else data.batches(size, seed=seed)
    rates = []
    for _ in range(steps):
        x, y = next(source)
        optimizer.zero_grad()
        lab.cross_entropy(net(x), y).backward()
        optimizer.step()
        d = getattr(optimizer, "d", None)
        rates.append(float(optimizer.param_groups[0]["lr"] if d is None else d))
    return {
        "loss": round(lab.mean_loss(net, data.x, data.y), 5),
        "accuracy": round(lab.accuracy(net, *data.test), 4),
        "last": float(f"{mean(rates[-20:]):.4g}"),
        "largest": float(f"{max(rates):.4g}"),
        "rates": [float(f"{rate:.3g}") for rate in rates[::10]],
    }


def best(runs: dict[str, Any], size: int) -> float:
    """SGD's rate: the one with the least loss of the search."""
    found = {lr: runs[f"{size}/SGD/{lr}/{SEARCH_SEED}"]["loss"] for lr in RATES}
    return min(found, key=lambda lr: found[lr])


def stored() -> dict[str, dict[str, Any]]:
    """What has been run."""
    return Store(PATH, provenance("elra.py")).runs


def came_of(
    runs: dict[str, Any], size: int, rule: str, what: str = "loss"
) -> list[float]:
    """One number of each of the five runs."""
    lr = START if rule in RULES else best(runs, size)
    return [runs[f"{size}/{rule}/{lr}/{seed}"][what] for seed in SEEDS]


def main() -> None:
    """Make the runs that are missing, and tell the means."""
    store = Store(PATH, provenance("elra.py"))

    def need(*run: Any) -> None:
        store.once("/".join(map(str, run)), lambda: train(*run))

    for size in SIZES:
        for lr in RATES:
            need(size, "SGD", lr, SEARCH_SEED)
        for rule in (*RULES, "SGD"):
            lr = START if rule in RULES else best(store.runs, size)
            for seed in SEEDS:
                need(size, rule, lr, seed)
            told = {x: came_of(store.runs, size, rule, x) for x in ("loss", "last")}
            print(size, rule, lr, {x: round(mean(v), 5) for x, v in told.items()})


if __name__ == "__main__":
    main()
