"""The problem and the five contestants of root_free.py.

`conv`: 200 handwritten digits (8 × 8), pasted at random places of a 12 × 12
canvas, and a small convolutional network; the measure is the share of wrong
answers on 1197 other digits, each at four places. `long` is `conv` trained three
times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from problems import paste
from torch import Tensor, nn

from anthology import lab
from anthology.optim.root_free import RootFreeAdamW, RootFreeRMSProp

CONTESTANTS = ("SGD", "RMSProp", "AdamW", "RootFreeRMSProp", "RootFreeAdamW")
Pair = tuple[Tensor, Tensor]

# Three decades each; the middle is near the best of a coarse pilot.
RATES = {
    "SGD": (3e-3, 3e0),
    "RMSProp": (3e-5, 3e-2),
    "AdamW": (3e-4, 3e-1),
    "RootFreeRMSProp": (3e-4, 3e-1),
    "RootFreeAdamW": (3e-3, 3e0),
}
# What one step takes off the weights in the long run, at the full rate: the
# same for all, wherever a method puts its decay.
DECAY = (3e-6, 3e-3)
# 1 − momentum for SGD, 1 − α or 1 − β₂ of the second moment for the others.
FRESH = {"SGD": (1e-2, 1e0), "others": (3e-3, 3e-1)}


@dataclass(frozen=True)
class Settings:
    """What a contestant may choose."""

    lr: float
    decay: float  # the share of the weights that one step at lr takes off
    fresh: float  # the weight of the newest gradient in the average


class DecoupledRMSProp(torch.optim.RMSprop):
    """torch's RMSProp with AdamW's decay, so that decay is not on trial."""

    def __init__(self, params: Any, lr: float, decay: float, **rest: Any) -> None:
        super().__init__(params, lr=lr, **rest)
        self.weight_decay = decay / lr

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            kept = 1 - group["lr"] * self.weight_decay
            torch._foreach_mul_(group["params"], kept)
        return super().step(closure)


def contestant(
    name: str, params: Any, s: Settings, terms: int
) -> torch.optim.Optimizer:
    """An optimizer; `terms` is how many terms the loss averages."""
    outside = s.decay / s.lr  # beside the step: w ← (1 − lr κ) w
    inside = outside * (1 - 0.9)  # in a heavy ball of 0.9, which multiplies by 10
    if name == "SGD":
        return torch.optim.SGD(
            params, s.lr, momentum=1 - s.fresh, weight_decay=outside * s.fresh
        )
    if name == "RMSProp":
        return DecoupledRMSProp(
            params, s.lr, s.decay, alpha=1 - s.fresh, momentum=0.9, eps=1e-8
        )
    if name == "AdamW":
        return torch.optim.AdamW(
            params, s.lr, betas=(0.9, 1 - s.fresh), weight_decay=outside
        )
    if name == "RootFreeRMSProp":
        return RootFreeRMSProp(
            params, s.lr, 1 - s.fresh, weight_decay=inside, batch_size=terms
        )
    if name == "RootFreeAdamW":
        return RootFreeAdamW(
            params,
            s.lr,
            (0.9, 1 - s.fresh),
            weight_decay=outside,
            batch_size=terms,
        )
    raise ValueError(f"name is {name!r}; it must be one of {CONTESTANTS}")


class Conv:
    """Few digits at any place; measured by the share of wrong answers."""

    def __init__(self, stretch: int = 1) -> None:
        data = lab.digits()
        x, y = torch.cat([data.x, data.x_test]), torch.cat([data.y, data.y_test])
        self.x, self.y = x[:200], y[:200]
        self.parts = {
            "validation": self._at_four_places(x[200:600], y[200:600], seed=1),
            "test": self._at_four_places(x[600:], y[600:], seed=2),
        }
        self.steps, self.terms = stretch * 600, 50

    def _at_four_places(self, x: Tensor, y: Tensor, seed: int) -> Pair:
        generator = torch.Generator().manual_seed(seed)
        return paste(x.repeat(4, 1, 1, 1), generator), y.repeat(4)

    def model(self, seed: int) -> nn.Module:
        return lab.conv_net((16, 32, 64), seed=seed)

    def batches(self, seed: int) -> Iterator[Pair]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            i = torch.randint(len(self.y), (self.terms,), generator=generator)
            yield paste(self.x[i], generator), self.y[i]

    def measure(self, model: nn.Module, part: str) -> float:
        return 1 - lab.accuracy(model, *self.parts[part])


PROBLEMS = {"conv": Conv, "long": partial(Conv, stretch=3)}
