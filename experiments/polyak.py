"""Polyak's step on digits, with some of the labels drawn by lot.

What is on trial: Sprunger's reason for seeking roots (a model with enough capacity
reaches the loss zero, so its roots are its minima), and his finding that the step is
strong in regression and able to train classifiers.

A perceptron learns digits by cross-entropy ("classes") or by the square error of the
ten outputs ("regression"), in batches of 64. A share of the labels is replaced by
labels drawn evenly. Three rules: the full step, as long as the loss asks for; the same
of length 0.1 at most; and SGD, whose rate is the best of four with one seed.

Declared before these runs, after a look at one seed of the classifier:
1. Without noise the full step ends within 0.01 of SGD's accuracy, in both tasks.
2. With noise in a fifth of the labels the full step guesses (accuracy below 0.3) as
   a classifier; the cap brings it within 0.02 of SGD.
3. As a regression the full step survives the same noise: above 0.9.

    python experiments/polyak.py    # about three minutes

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
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

PATH = RESULTS / "polyak.json"
STEPS, SIZE, SEARCH_SEED, SEEDS = 400, 64, 0, (1, 2, 3, 4, 5)
SHARES = {"classes": (0.0, 0.05, 0.2), "regression": (0.0, 0.2)}
RATES = {"classes": (0.1, 0.3, 0.6, 1.2), "regression": (1.0, 2.0, 4.0, 8.0)}
CAPS = {"full": 1e9, "capped": 0.1}
digits = cache(lab.digits)


def square_error(out: Tensor, y: Tensor) -> Tensor:
    """The mean over images and outputs."""
    return (out - torch.nn.functional.one_hot(y, 10)).square().mean()


LOSSES = {"classes": lab.cross_entropy, "regression": square_error}


def noisy(y: Tensor, share: float) -> Tensor:
    """Labels of which a share is drawn evenly, the same for every rule."""
    lot = torch.Generator().manual_seed(17)
    drawn = torch.rand(len(y), generator=lot) < share
    return torch.where(drawn, torch.randint(0, 10, (len(y),), generator=lot), y)


def batches(y: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Training batches with these labels, in a new order each epoch."""
    x, order = digits().x, torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randperm(len(y), generator=order)
        for part in chosen[: len(y) - len(y) % SIZE].split(SIZE):
            yield x[part], y[part]


def train(
    task: str, share: float, rule: str, lr: float, seed: int, steps: int = STEPS
) -> dict[str, float]:
    """One run: accuracy on unseen digits, last losses, the longest step."""
    net = lab.mlp((64, 64, 10), seed=seed)
    params, longest, losses = list(net.parameters()), 0.0, []
    if rule == "SGD":
        step: Any = torch.optim.SGD(params, lr)
    else:
        step = optim.SteepestDescent(
            params, lr, norm=norms.L2(), across="l2", step="polyak"
        )
    vector = torch.nn.utils.parameters_to_vector
    source = batches(noisy(digits().y, share), seed)
    for _ in range(steps):
        x, y = next(source)
        step.zero_grad()
        loss = LOSSES[task](net(x), y)
        loss.backward()
        before = vector(params).detach()
        step.step(lambda loss=loss: loss.detach())
        longest = max(longest, float((vector(params).detach() - before).norm()))
        losses.append(loss.item())
    return {
        "accuracy": round(lab.accuracy(net, *digits().test), 4),
        "loss": round(mean(losses[-22:]), 5),  # one epoch
        "longest": round(longest, 3),
    }


def best(runs: dict[str, Any], task: str, share: float) -> float:
    """SGD's rate: the one with the best accuracy of the search."""
    found = {
        lr: runs[f"{task}/{share}/SGD/{lr}/{SEARCH_SEED}"]["accuracy"]
        for lr in RATES[task]
    }
    return max(found, key=lambda lr: found[lr])


def stored() -> dict[str, dict[str, float]]:
    """What has been run."""
    return Store(PATH, provenance("polyak.py")).runs


def came_of(
    runs: dict[str, Any], task: str, share: float, rule: str, what: str = "accuracy"
) -> list[float]:
    """One number of each of the five runs."""
    lr = CAPS[rule] if rule in CAPS else best(runs, task, share)
    return [runs[f"{task}/{share}/{rule}/{lr}/{seed}"][what] for seed in SEEDS]


def main() -> None:
    """Make the runs that are missing, and tell the means."""
    store = Store(PATH, provenance("polyak.py"))

    def need(*run: Any) -> None:
        store.once("/".join(map(str, run)), lambda: train(*run))

    for task, shares in SHARES.items():
        for share in shares:
            for lr in RATES[task]:
                need(task, share, "SGD", lr, SEARCH_SEED)
            rates = {**CAPS, "SGD": best(store.runs, task, share)}
            for rule, lr in rates.items():
                for seed in SEEDS:
                    need(task, share, rule, lr, seed)
                told = came_of(store.runs, task, share, rule)
                print(task, share, rule, lr, round(mean(told), 4), flush=True)


if __name__ == "__main__":
    main()
