"""Who runs in the race, with which options and which first rates.

Every class of `anthology.optim`, and `torch.optim`'s SGD, AdamW and Muon. A class
whose chapter gives each layer its norm is given `metrize(model)`; the others are given
`model.parameters()`. Options are the published defaults but for those named here: a
momentum of 0.9 where a default has none, roots every 10 steps where they are costly.
A name that ends in "-0" is the same rule without momentum.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from problems import Problem
from torch import nn

from anthology import optim
from anthology.norms import metrize


@dataclass(frozen=True)
class Contestant:
    """A class, how it is built, and the middle rate of its pilot on each problem."""

    kind: str  # a class of anthology.optim, or "torch." and one of torch.optim
    middle: tuple[float, float, float]  # digits, text, mnist
    options: dict[str, Any] = field(default_factory=dict)
    metrized: bool = False
    without: dict[str, Any] | None = None  # what takes the momentum away


# Middles: the best rates that first_rates.json found on digits and text; for mnist, and
# without momentum, scaled by what theory says (a heavy ball of 0.9 moves 10 times as
# far) or a guess: the pilot's range is a factor of 16 to either side.
CONTESTANTS = {
    "SteepestDescent": Contestant(
        "SteepestDescent",
        (0.1, 0.03, 0.1),
        {"momentum": 0.9},
        metrized=True,
        without={"momentum": 0.0},
    ),
    "FreeSteepestDescent": Contestant(
        "FreeSteepestDescent",
        (1.0, 1.0, 1.0),
        {"momentum": 0.9},
        metrized=True,
        without={"momentum": 0.0},
    ),
    "SGD": Contestant(
        "SGD", (0.1, 0.1, 0.1), {"momentum": 0.9}, without={"momentum": 0.0}
    ),
    "Signum": Contestant("Signum", (3e-3, 1e-3, 1e-3), without={"momentum": 0.0}),
    "Lion": Contestant("Lion", (3e-3, 1e-3, 1e-3)),
    "Adam": Contestant("Adam", (1e-2, 4e-3, 4e-3)),
    "AdamW": Contestant("AdamW", (1e-2, 4e-3, 4e-3), without={"betas": (0.0, 0.999)}),
    "Shampoo": Contestant("Shampoo", (0.5, 0.3, 0.5), without={"betas": (0.0, 1.0)}),
    "SOAP": Contestant("SOAP", (1e-2, 1e-2, 1e-2), without={"betas": (0.0, 0.95)}),
    "KrADagrad": Contestant(
        "KrADagrad",
        (0.3, 0.1, 0.2),
        {"refresh": 10},
        without={"momentum": 0.0, "nesterov": False},
    ),
    "Muon": Contestant(
        "Muon",
        (0.03, 0.01, 0.02),
        {"adamw_lr": 3e-3},
        metrized=True,
        without={"momentum": 0.0, "nesterov": False},
    ),
    "Scion": Contestant(
        "Scion",
        (2e-3, 1e-3, 2e-3),
        {"momentum": 0.9, "radius": 30.0},
        metrized=True,
        without={"momentum": 0.0},
    ),
    "Prodigy": Contestant("Prodigy", (0.3, 0.1, 0.5), without={"betas": (0.0, 0.999)}),
    "RootFreeRMSProp": Contestant(
        "RootFreeRMSProp", (1e-2, 1e-2, 1e-2), without={"momentum": 0.0}
    ),
    "RootFreeAdamW": Contestant(
        "RootFreeAdamW", (1.0, 0.3, 0.3), without={"betas": (0.0, 0.999)}
    ),
    "SIRFShampoo": Contestant(
        "SIRFShampoo", (2e-2, 2e-2, 1e-2), without={"momentum": 0.0}
    ),
    "torch.SGD": Contestant("torch.SGD", (0.1, 0.1, 0.1), {"momentum": 0.9}),
    "torch.AdamW": Contestant("torch.AdamW", (1e-2, 4e-3, 4e-3)),
    "torch.Muon": Contestant("torch.Muon", (0.03, 0.01, 0.02), {"adamw_lr": 3e-3}),
}
# Options that are younger than the declaration of the race: they run apart, with the
# same search and seeds, and are judged by its margin (shampoo.py).
AVERAGE = {"betas": (0.9, 0.98)}
VARIANTS = {
    "Shampoo kl": Contestant(
        "Shampoo", (1e-2, 1e-2, 1e-2), {"factors": "kl", **AVERAGE}
    ),
    "Shampoo average": Contestant("Shampoo", (0.1, 0.1, 0.1), AVERAGE),
    "Shampoo one-sided": Contestant("Shampoo", (0.5, 0.3, 0.5), {"sides": "one"}),
    "SOAP kl": Contestant("SOAP", (1e-2, 1e-2, 1e-2), {"factors": "kl"}),
}
# Whose rate grows by this without momentum, because theirs is an undamped heavy ball.
UNDAMPED = {
    "SGD": 10.0,
    "KrADagrad": 10.0,
    "RootFreeRMSProp": 10.0,
    "SIRFShampoo": 10.0,
}
# The same rule as another contestant once the momentum is gone.
SAME = {"Lion-0": "Signum-0", "Adam-0": "AdamW-0"}


def names() -> list[str]:
    """Everyone with momentum, then everyone without."""
    without = [f"{name}-0" for name, c in CONTESTANTS.items() if c.without]
    return [*CONTESTANTS, *without]


def entrant(name: str) -> Contestant:
    """Who runs under a name, with or without its momentum; variants too."""
    return (CONTESTANTS | VARIANTS)[name.removesuffix("-0")]


def middle(name: str, where: str) -> float:
    """The middle rate of a contestant's pilot on a problem."""
    base = name.removesuffix("-0")
    rate = entrant(name).middle[("digits", "text", "mnist").index(where)]
    return rate * UNDAMPED.get(base, 1.0) if name != base else rate


class Both(torch.optim.Optimizer):
    """Two optimizers that step together, with the groups of both."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = [part for part in parts if part.param_groups]
        self.param_groups = [g for part in self.parts for g in part.param_groups]
        self.state = dict(chain.from_iterable(p.state.items() for p in self.parts))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As one optimizer's."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        """One step of each; afterwards `state` has what both hold."""
        for part in self.parts:
            part.step()
            self.state.update(part.state)


def torch_muon(model: nn.Module, lr: float, adamw_lr: float) -> Both:
    """torch's Muon for the hidden matrices that ours takes, AdamW for the rest."""
    groups = metrize(model)
    hidden = [
        p
        for g in groups
        for p in g["params"]
        if p.ndim == 2 and g["role"] not in ("embedding", "head")
    ]
    taken = set(hidden)
    rest = [p for p in model.parameters() if p not in taken]
    adamw = torch.optim.AdamW(
        rest, adamw_lr, betas=(0.9, 0.95), eps=1e-10, weight_decay=0.1
    )
    return Both(torch.optim.Muon(hidden, lr), adamw) if hidden else Both(adamw)


def build(name: str, model: nn.Module, p: Problem, lr: float) -> torch.optim.Optimizer:
    """The optimizer of a contestant on a model."""
    who = entrant(name)
    without = (who.without or {}) if name.endswith("-0") else {}
    options = {**who.options, **without}
    if who.kind == "torch.Muon":
        return torch_muon(model, lr, **options)
    if who.kind.startswith("torch."):
        kind = getattr(torch.optim, who.kind.removeprefix("torch."))
        return kind(model.parameters(), lr=lr, **options)
    kind = getattr(optim, who.kind)
    if "batch_size" in inspect.signature(kind).parameters:
        options["batch_size"] = p.terms
    params = metrize(model) if who.metrized else model.parameters()
    return kind(params, lr=lr, **options)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the tensors an optimizer keeps, each storage once, scalars left out."""
    found = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in tensors(optimizer.state.values())
        if t.numel() > 1
    }
    return sum(found.values())


def tensors(value: Any) -> Iterable[torch.Tensor]:
    """All tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for item in value:
            yield from tensors(item)
