"""The two problems and the five contestants of root_free.py.

`conv`: 200 handwritten digits (8 × 8), pasted at random places of a 12 × 12
canvas, and a small convolutional network; the measure is the share of wrong
answers on 1197 other digits, each at four places. `text`: the bytes of Python's
standard library and a small causal transformer; the measure is the
cross-entropy per byte, in nats, of unseen modules. `long` is `conv` trained three
times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anthology import lab
from anthology.optim.root_free import RootFreeAdamW, RootFreeRMSProp

CONTESTANTS = ("SGD", "RMSProp", "AdamW", "RootFreeRMSProp", "RootFreeAdamW")
CANVAS = 12
Pair = tuple[Tensor, Tensor]

# Three decades each; the middle is near the best of a coarse pilot.
RATES = {
    "conv": {
        "SGD": (3e-3, 3e0),
        "RMSProp": (3e-5, 3e-2),
        "AdamW": (3e-4, 3e-1),
        "RootFreeRMSProp": (3e-4, 3e-1),
        "RootFreeAdamW": (3e-3, 3e0),
    },
    "text": {
        "SGD": (3e-3, 3e0),
        "RMSProp": (1e-5, 1e-2),
        "AdamW": (1e-4, 1e-1),
        "RootFreeRMSProp": (1e-4, 1e-1),
        "RootFreeAdamW": (1e-3, 1e0),
    },
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


def paste(x: Tensor, generator: torch.Generator) -> Tensor:
    """Digits (n, 1, 8, 8) at random places of canvases (n, 1, 12, 12)."""
    corner = torch.randint(CANVAS - 7, (2, len(x), 1), generator=generator)
    rows, columns = corner + torch.arange(8)
    n = torch.arange(len(x))[:, None, None]
    out = x.new_zeros(len(x), 1, CANVAS, CANVAS)
    out[n, 0, rows[:, :, None], columns[:, None, :]] = x[:, 0]
    return out


class Conv:
    """Few digits at any place; measured by the share of wrong answers."""

    def __init__(self, large: bool, device: torch.device, stretch: int = 1) -> None:
        data = lab.digits()
        x, y = torch.cat([data.x, data.x_test]), torch.cat([data.y, data.y_test])
        self.x, self.y, self.device = x[:200], y[:200], device
        self.parts = {
            "validation": self._at_four_places(x[200:600], y[200:600], seed=1),
            "test": self._at_four_places(x[600:], y[600:], seed=2),
        }
        self.steps, self.terms = stretch * (2000 if large else 600), 50
        self.channels = (32, 64, 128) if large else (16, 32, 64)

    def _at_four_places(self, x: Tensor, y: Tensor, seed: int) -> Pair:
        generator = torch.Generator().manual_seed(seed)
        placed = paste(x.repeat(4, 1, 1, 1), generator)
        return placed.to(self.device), y.repeat(4).to(self.device)

    def model(self, seed: int) -> nn.Module:
        return lab.conv_net(self.channels, seed=seed).to(self.device)

    def batches(self, seed: int) -> Iterator[Pair]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            i = torch.randint(len(self.y), (self.terms,), generator=generator)
            placed = paste(self.x[i], generator)
            yield placed.to(self.device), self.y[i].to(self.device)

    def measure(self, model: nn.Module, part: str) -> float:
        return 1 - lab.accuracy(model, *self.parts[part])


class Bytes:
    """The standard library byte by byte; measured by the loss per byte."""

    def __init__(self, large: bool, device: torch.device) -> None:
        text = lab.text(device, size=6_000_000 if large else 1_000_000)
        cut = len(text.train) * 8 // 9
        self.data, self.device = lab.Text(text.train[:cut], text.train[cut:]), device
        self.size, self.context = (64, 256) if large else (16, 64)
        self.width, self.depth = (256, 4) if large else (64, 2)
        self.steps, self.terms = (3000 if large else 400), self.size * self.context
        self.parts = {
            "validation": self.data.test_batch(512, self.context),
            "test": text.test_batch(512, self.context),
        }

    def model(self, seed: int) -> nn.Module:
        net = lab.transformer(
            width=self.width, depth=self.depth, context=self.context, seed=seed
        )
        return net.to(self.device)

    def batches(self, seed: int) -> Iterator[Pair]:
        return self.data.batches(self.size, self.context, seed)

    def measure(self, model: nn.Module, part: str) -> float:
        return lab.mean_loss(model, *self.parts[part])


Problem = Conv | Bytes
PROBLEMS = {"conv": Conv, "text": Bytes, "long": partial(Conv, stretch=3)}
