"""Who competes in first_rates.py, with which rates, and what was expected.

A *contestant* is a class and what it is given: `model.parameters()` ("plain") or
`metrize(model)`, for classes that read norms or roles.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from problems import Problem
from torch import nn

from anthology import optim
from anthology.norms import metrize

GRID = [float(f"{d}e{e}") for e in range(-5, 3) for d in (1, 3)]

# Out of the box before this was measured: torch's and published defaults, or, where
# there are none, those that the classes of this package had.
PUBLISHED = {
    "FreeSteepestDescent": 0.5,
    "SGD": 1e-3,
    "Signum": 1e-3,
    "Lion": 1e-4,
    "Adam": 1e-3,
    "AdamW": 1e-3,
    "Shampoo": 1e-2,
    "SOAP": 3e-3,
    "KrADagrad": 1e-2,
    "Muon": 1e-3,
    "Scion": 1e-3,
    "Prodigy": 1.0,
    "RootFreeRMSProp": 1e-3,
    "RootFreeAdamW": 1e-3,
    "SIRFShampoo": 1e-3,
}
# The ends of the ranges of rates, in which those lie.
RANGES = {
    "SteepestDescent": (3e-3, 3e-1),
    "FreeSteepestDescent": (1e-1, 3e0),
    "SGD": (1e-3, 3e0),
    "Signum": (1e-4, 3e-2),
    "Lion": (1e-4, 3e-2),
    "Adam": (3e-4, 1e-1),
    "AdamW": (3e-4, 1e-1),
    "Shampoo": (1e-2, 3e0),
    "SOAP": (3e-4, 1e-1),
    "KrADagrad": (1e-2, 1e0),
    "Muon": (1e-3, 1e-1),
    "Scion": (3e-4, 1e-2),
    "Prodigy": (3e-2, 3e0),
    "RootFreeRMSProp": (1e-3, 1e0),
    "RootFreeAdamW": (1e-3, 1e1),
    "SIRFShampoo": (1e-3, 1e0),
}
METRIZED = ("SteepestDescent", "FreeSteepestDescent", "Muon", "Scion")
# A second setting that a class has, what is tried of it, and the one that was chosen.
SECOND = {
    "Muon": ("adamw_lr", (3e-4, 3e-3, 1e-2, 3e-2)),
    "Scion": ("radius", (1.0, 30.0, 100.0)),
}
CHOSEN: dict[str, float] = {"Muon": 3e-3, "Scion": 30.0}
Setting = tuple[float, float | None]
Run = tuple[str, str, str, Setting, int]
TORCH = ("SGD", "Adam", "AdamW", "RMSprop")
# Whose default stays: torch has the class, or (FreeSteepestDescent, whose steps are as
# long as what it has found) a larger rate would not come to rest on a quadratic.
KEEPS = ("SGD", "Adam", "AdamW", "Muon", "FreeSteepestDescent")

# Written before the first run, of 200 steps, with AdamW's rate in Muon as a multiple
# of Muon's (10 and 0.3, which are the rates below). That run showed two faults of the
# set-up: digits that stay in their place are soon learnt by heart, and Scion gets
# nowhere in a ball of radius 1. So the digits move, and Scion tries other radii.
EXPECTED = {
    "defaults within 15 %": ["Adam", "AdamW", "SOAP", "Prodigy", "Signum"],
    "first rates, plain": {
        "SteepestDescent": 3e-2,
        "FreeSteepestDescent": 0.3,
        "SGD": 3e-1,
        "Signum": 1e-3,
        "Lion": 1e-3,
        "Adam": 1e-2,
        "AdamW": 1e-2,
        "Shampoo": 1e0,
        "SOAP": 1e-2,
        "KrADagrad": 1e-1,
        "Muon": 3e-2,
        "Scion": 3e-2,
        "Prodigy": 1.0,
        "RootFreeRMSProp": 1e-2,
        "RootFreeAdamW": 1e-1,
        "SIRFShampoo": 1e-2,
    },
    "first rates, metrize": {
        "SteepestDescent": 3e-2,
        "FreeSteepestDescent": 0.3,
        "Muon": 3e-2,
        "Scion": 3e-2,
    },
    "Muon's adamw_lr": {"at its default rate": 1e-2, "at its first rate": 1e-2},
    "four times the width moves": ["SGD", "Adam", "AdamW", "Signum", "Lion"],
    "metrize beats plain for": ["SteepestDescent", "Scion", "Muon"],
}


def options(name: str, p: Problem) -> dict[str, Any]:
    """What a class asks for beside its rate."""
    required = inspect.signature(getattr(optim, name)).parameters
    return {"batch_size": p.terms} if "batch_size" in required else {}


def build(
    name: str, given: str, model: nn.Module, p: Problem, setting: Setting
) -> torch.optim.Optimizer:
    """An optimizer on a model, for a contestant and its rates."""
    if name.startswith("torch."):
        kind = getattr(torch.optim, name.removeprefix("torch."))
        return kind(model.parameters())
    params = metrize(model) if given == "metrize" else model.parameters()
    (lr, second), extra = setting, options(name, p)
    if name in SECOND:
        extra[SECOND[name][0]] = second
    return getattr(optim, name)(params, lr=lr, **extra)


def contestants() -> Iterator[tuple[str, str]]:
    """Class and what it is given."""
    for name in RANGES:
        yield name, "plain"
        if name in METRIZED:
            yield name, "metrize"


def settings(name: str) -> list[Setting]:
    """What a class tries: rates, the published one among them; second settings."""
    low, high = RANGES[name]
    rates = {lr for lr in GRID if low <= lr <= high} | {PUBLISHED.get(name, low)}
    _, seconds = SECOND.get(name, ("", (None,)))
    return list(itertools.product(sorted(rates), seconds))


def published(name: str) -> tuple[float | None, float | None]:
    """The published setting of a class; no rate where one must be given."""
    return PUBLISHED.get(name), SECOND[name][1][0] if name in SECOND else None
