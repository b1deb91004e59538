"""How the best rate of three rules grows with the batch: which rule of scaling holds.

What is on trial. A step on a mini-batch is longer than the slope behind it, by the
root of 1 + N/B, with N the noise scale. If a loss is worth at most so long a step, then
the best *length* of a step grows like the square root of B while B is far below N, and
so does the rate of a rule for which the rate is the length. Plain gradient descent
multiplies a gradient that is itself longer the smaller the batch, so its best rate
grows like B. Above N nothing grows.

Predictions, written before the first run, as slopes of log(best rate) by log(B):
for B from 1 to 64 SGD has 0.8 to 1.2, normalised SGD and Adam 0.35 to 0.65; from 256
to 1024 all three have less than they had. The first budget, "steps", contradicted
them. The second, "samples", was added then, with the same predictions before its
first run, for B from 4 to 64. B = 4 was begun and given up for the time it takes, and
the range moved to 16 to 256: when B = 64, whose runs are the same in both, was known.

Problem. `digits` of problems.py: a perceptron with two hidden layers, 300 steps
("steps") or 19,200 images ("samples"), so 300 steps at B = 64 in both. The rate falls
linearly to zero, no momentum in the first two, published averages in Adam.
The measure is the cross-entropy of unseen digits, the mean of three seeds. Rates are a
factor of two apart; the search goes on until the best one has two neighbours on either
side, and the best rate is that of a parabola through the best and its neighbours.
Every run is stored, none is selected.

    python experiments/sgd.py   # about five minutes on one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from problems import _digits
from store import RESULTS, Store, provenance

from anthology import lab, optim

PATH = RESULTS / "sgd.json"
SIZES = {"steps": (1, 4, 16, 64, 256, 1024), "samples": (16, 64, 256)}
SPANS = {"steps": (1, 64), "samples": (16, 256)}  # of what was predicted
SEEDS, STEPS, SAMPLES = (0, 1, 2), 300, 19200
RULES = {
    "SGD": (optim.SGD, {}, -1),
    "normalised SGD": (optim.SGD, {"normalised": True}, -3),
    "Adam": (optim.Adam, {}, -7),
}  # the class, its options, and log2 of the rate the search begins with


def run(budget: str, rule: str, size: int, power: int, seed: int) -> float | None:
    """Cross-entropy of unseen digits after a run at the peak rate 2**power, if any."""
    steps = STEPS if budget == "steps" else SAMPLES // size
    problem = _digits(size=size)("digits", "cpu")
    net = problem.model(seed=seed)
    kind, options, _ = RULES[rule]
    optimizer = kind(net.parameters(), lr=2.0**power, **options)
    look = problem.evaluate(net)
    batches = problem.batches(seed=seed)
    done = lab.fit(net, optimizer, batches, steps, evaluate=look, schedule="linear")
    lost = done.metric is None or not math.isfinite(done.metric)
    return None if lost else float(f"{done.metric:.5g}")


def stem(budget: str, rule: str, size: int) -> str:
    """How the keys of runs begin; where both budgets agree, they share theirs."""
    return f"{'steps' if size * STEPS == SAMPLES else budget}/{rule}/{size}"


class Study:
    """The stored runs, and those that are missing if `fresh` ones may be made."""

    def __init__(self, fresh: bool = False) -> None:
        self.fresh = fresh
        self.store = Store(PATH, provenance("sgd.py") | {"seeds": list(SEEDS)})

    def loss(self, budget: str, rule: str, size: int, power: int) -> float:
        """The mean over seeds; infinite where one run was lost."""
        found = [self.one(budget, rule, size, power, seed) for seed in SEEDS]
        return sum(found) / len(found)

    def one(self, budget: str, rule: str, size: int, power: int, seed: int) -> float:
        """A stored run, made now where that is allowed."""
        key = f"{stem(budget, rule, size)}/{power}/{seed}"
        if self.fresh:
            self.store.once(key, lambda: run(budget, rule, size, power, seed))
        found = self.store.runs[key]
        return math.inf if found is None else found

    def tried(self, budget: str, rule: str, size: int) -> list[int]:
        """The powers of two that were tried as rates, in order."""
        at = f"{stem(budget, rule, size)}/"
        return sorted(
            {int(k.split("/")[3]) for k in self.store.runs if k.startswith(at)}
        )

    def best(self, budget: str, rule: str, size: int) -> float:
        """log2 of the best rate, by a parabola through three points."""
        at = (budget, rule, size)
        middle = min(self.tried(*at), key=lambda p: self.loss(*at, p))
        low, mid, high = (self.loss(*at, middle + k) for k in (-1, 0, 1))
        return middle + (low - high) / (2 * (low - 2 * mid + high))

    def slope(self, budget: str, rule: str, low: int, high: int) -> float:
        """Of log(best rate) by log(B), by least squares, for B from low to high."""
        sizes = [size for size in SIZES[budget] if low <= size <= high]
        x = torch.tensor([math.log2(size) for size in sizes])
        y = torch.tensor([self.best(budget, rule, size) for size in sizes])
        x = x - x.mean()
        return float((x * y).sum() / (x * x).sum())

    def search(self, budget: str, rule: str, size: int) -> None:
        """Try rates until the best has two neighbours on either side."""
        at, middle = (budget, rule, size), RULES[rule][2]
        while True:
            around = {k: self.loss(*at, middle + k) for k in range(-2, 3)}
            best = middle + min(around, key=lambda k: around[k])
            if best == middle:
                return
            middle = best


def main() -> None:
    torch.set_num_threads(1)
    study = Study(fresh=True)
    for budget, sizes in SIZES.items():
        for size in sizes:
            for rule in RULES:
                study.search(budget, rule, size)
        for rule in RULES:
            best = [study.best(budget, rule, size) for size in sizes]
            low, high = SPANS[budget]
            slope = study.slope(budget, rule, low, high)
            rates = ", ".join(f"2^{power:.2f}" for power in best)
            print(f"{budget}, {rule}: slope {slope:.2f} from {low} to {high}; {rates}")


if __name__ == "__main__":
    main()
