"""The optimizer under test, and small problems to try it on.

Only `torch` and the public surface of an optimizer are used: its constructor,
`param_groups`, `defaults`, `state_dict`, `step`. Unless a check is about shapes, the
parameters are float32 matrices, so that optimizers for matrices can take part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

Factory = Callable[[Any], torch.optim.Optimizer]

LONGEST_WARM_UP = 10


def require(condition: bool, why: str) -> None:
    """Raise with a reason unless the condition holds."""
    if not condition:
        raise AssertionError(why)


class Subject:
    """Makes optimizers of the kind under test."""

    def __init__(self, factory: Factory) -> None:
        self.factory = factory

    def fresh(self, params: Any) -> torch.optim.Optimizer:
        """An optimizer of these parameters that has seen no gradient."""
        return self.factory(params)

    def on(self, params: Any) -> torch.optim.Optimizer:
        """An optimizer of these parameters, past the warm-up that it declares."""
        optimizer = self.fresh(params)
        tensors = [p for g in optimizer.param_groups for p in g["params"]]
        starts = [p.detach().clone() for p in tensors]
        if self.warm(optimizer):
            with torch.no_grad():
                for p, start in zip(tensors, starts, strict=True):
                    p.copy_(start)
        return optimizer

    def warm(self, optimizer: torch.optim.Optimizer, *params: Tensor) -> int:
        """Give tensors the gradients that the optimizer declares to watch only."""
        steps = declared_warm_up(optimizer)
        if not params:
            params = tuple(p for g in optimizer.param_groups for p in g["params"])
        drawn = torch.Generator().manual_seed(1)
        for _ in range(steps):
            for p in params:
                p.grad = torch.randn(p.shape, dtype=p.dtype, generator=drawn)
            optimizer.step()
            for p in params:
                p.grad = None
        return steps

    def having(self, params: Sequence[Tensor], **options: Any) -> torch.optim.Optimizer:
        """The same with other options: its class."""
        model = self.factory(list(params))
        kind = type(model)
        known = inspect.signature(kind).parameters
        open_ended = any(k.kind is k.VAR_KEYWORD for k in known.values())
        for name in options:
            require(name in known or open_ended, f"it has no argument `{name}`")
        defaults = getattr(model, "arguments", model.defaults)
        kept = {name: v for name, v in defaults.items() if name in known}
        return kind(params, **{**kept, **options})


def declared_warm_up(optimizer: torch.optim.Optimizer) -> int:
    """How many gradients a tensor is only watched for, by the optimizer's own word."""
    steps = getattr(optimizer, "warmup_steps", 0)
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    require(
        whole and 0 <= steps <= LONGEST_WARM_UP,
        f"warmup_steps is {steps!r}; it must be a whole number from 0 to "
        f"{LONGEST_WARM_UP}",
    )
    return int(steps)


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A parameter of ones."""
    return torch.ones(shape or (4, 3), dtype=dtype).requires_grad_()


def draw(p: Tensor) -> Tensor:
    """A random gradient for a parameter."""
    return torch.randn(p.shape, dtype=p.dtype)


def feed(optimizer: torch.optim.Optimizer, *pairs: tuple[Tensor, Tensor]) -> None:
    """Set gradients and take a step."""
    for p, g in pairs:
        p.grad = g.clone()
    optimizer.step()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit by bit (NaN included)."""
    return torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(
        torch.nan_to_num(a), torch.nan_to_num(b)
    )


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no entry is infinite or NaN."""
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def quadratic_loss(p: Tensor) -> Tensor:
    """½ Σ|p − 3|², whose minimum no start here coincides with."""
    return 0.5 * (p - 3).abs().square().sum()


def descend(subject: Subject, p: Tensor, steps: int) -> tuple[float, float]:
    """Minimise the quadratic from where a parameter stands."""
    optimizer = subject.on([p])
    before = _exact_loss(p)
    for _ in range(steps):
        optimizer.zero_grad()
        quadratic_loss(p).backward()
        optimizer.step()
    require(finite([p.detach()]), "the parameter is not finite")
    return before, _exact_loss(p)


def _exact_loss(p: Tensor) -> float:
    exact = p.detach().to(torch.promote_types(p.dtype, torch.float64))
    return quadratic_loss(exact).item()
