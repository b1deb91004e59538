"""The optimizer under test, and small problems to try it on.

Only the public surface of an optimizer is used. Unless a check is about shapes, the
parameters are float32 matrices, so that optimizers for matrices can take part.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Factory = Callable[[Any], torch.optim.Optimizer]

LONGEST_WARM_UP = 10


def require(condition: bool | Tensor, why: str) -> None:
    """Raise with a reason unless the condition holds."""
    if not condition:
        raise AssertionError(why)


def refusal(act: Callable[[], object], *kinds: type[Exception]) -> str | None:
    """The text of the error that an act is refused with; None if it is not."""
    try:
        act()
    except kinds as error:
        return str(error)
    return None


class Trial:
    """Some parameters and an optimizer of the kind under test that moves them."""

    def __init__(self, optimizer: torch.optim.Optimizer, params: list[Tensor]) -> None:
        self.optimizer, self.params = optimizer, params
        self.starts = [p.detach().clone() for p in params]

    @property
    def warm_up(self) -> int:
        """How many gradients a tensor is only watched for, by its own word."""
        steps = getattr(self.optimizer, "warmup_steps", 0)
        whole = isinstance(steps, int) and not isinstance(steps, bool)
        right = f"it must be a whole number from 0 to {LONGEST_WARM_UP}"
        fits = whole and 0 <= steps <= LONGEST_WARM_UP
        require(fits, f"warmup_steps is {steps!r}; {right}")
        return int(steps)

    def warm(self, *params: Tensor) -> None:
        """Give these parameters, or all, the gradients that are only watched."""
        drawn = torch.Generator().manual_seed(1)
        for _ in range(self.warm_up):
            for p in params or self.params:
                p.grad = torch.randn(p.shape, dtype=p.dtype, generator=drawn)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def draw(self) -> list[Tensor]:
        """A random gradient for each parameter."""
        return [torch.randn(p.shape, dtype=p.dtype) for p in self.params]

    def step(self, *gradients: Tensor | None) -> None:
        """Take a step: with these gradients, or a random one for each parameter."""
        for p, g in zip(self.params, gradients or self.draw(), strict=True):
            p.grad = None if g is None else g.clone()
        self.optimizer.step()

    def train(self, steps: int = 3) -> None:
        """Take steps with random gradients."""
        for _ in range(steps):
            self.step()

    def put(self, values: list[Tensor]) -> None:
        """Set the parameters behind the optimizer's back."""
        with torch.no_grad():
            for p, value in zip(self.params, values, strict=True):
                p.copy_(value)

    def now(self) -> list[Tensor]:
        """Copies of the parameters."""
        return [p.detach().clone() for p in self.params]

    def stands_at(self, values: list[Tensor]) -> bool:
        """Whether the parameters have these values, bit by bit."""
        return all(map(equal_bits, self.params, values))

    def kept(self, p: Tensor) -> dict[str, Tensor]:
        """The tensors of a parameter's state, by name."""
        state = self.optimizer.state[p].items()
        return {name: x for name, x in state if isinstance(x, Tensor)}

    def moved(self, index: int = 0) -> bool:
        """Whether a parameter is no longer where it was at the start."""
        return not equal_bits(self.params[index], self.starts[index])

    def finite(self) -> bool:
        """Whether no entry of a parameter is infinite or NaN."""
        return all(bool(torch.isfinite(p).all()) for p in self.params)

    def descend(self, steps: int) -> tuple[float, float]:
        """Minimise ½ Σ|p − 3|² by the first parameter: the loss before and after."""
        p = self.params[0]

        def loss(p: Tensor) -> Tensor:  # whose minimum no start here coincides with
            return 0.5 * (p - 3).abs().square().sum()

        exact = torch.promote_types(p.dtype, torch.float64)
        before = loss(p.detach().to(exact)).item()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss(p).backward()
            self.optimizer.step()
        require(self.finite(), "the parameter is not finite")
        return before, loss(p.detach().to(exact)).item()


class Subject:
    """Makes optimizers of the kind under test."""

    def __init__(self, factory: Factory) -> None:
        self.factory = factory

    def fresh(self, *params: Tensor, given: Any = None, **options: Any) -> Trial:
        """A trial of these parameters, without any gradient so far.

        ``given`` is how the optimizer gets them, if not as a list: pairs with names, or
        groups. ``options`` are arguments of its class that the factory does not give.
        """
        handed = list(params) if given is None else given
        made = self.factory(handed)
        if options:
            kind = type(made)
            known = inspect.signature(kind).parameters
            for name in options:
                require(_takes(kind, name), f"it has no argument `{name}`")
            defaults = getattr(made, "arguments", made.defaults)
            kept = {name: v for name, v in defaults.items() if name in known}
            made = kind(handed, **{**kept, **options})
        return Trial(made, list(params))

    def on(self, *params: Tensor, given: Any = None, **options: Any) -> Trial:
        """A trial that is past the warm-up it declares, its parameters put back."""
        trial = self.fresh(*params, given=given, **options)
        trial.warm()
        trial.put(trial.starts)
        return trial

    def offers(self, name: str) -> bool:
        """Whether there is an option of this name."""
        made = self.factory([weight()])
        return name in made.defaults and _takes(type(made), name)


def _takes(kind: type, name: str) -> bool:
    known = inspect.signature(kind).parameters
    return name in known or any(k.kind is k.VAR_KEYWORD for k in known.values())


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A parameter of ones."""
    return torch.ones(shape or (4, 3), dtype=dtype).requires_grad_()


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit by bit (NaN included)."""
    return torch.equal(torch.isnan(a), torch.isnan(b)) and torch.equal(
        torch.nan_to_num(a), torch.nan_to_num(b)
    )


def parting(one: Trial, other: Trial, steps: int = 3, sign: int = 1) -> float:
    """How far apart two trials come by the same gradients, the other's with this sign.

    Equal bits, NaN included, are at 0.
    """
    for _ in range(steps):
        gradients = one.draw()
        one.step(*gradients)
        other.step(*(sign * g for g in gradients))
    if one.stands_at(other.params):
        return 0.0
    pairs = zip(one.params, other.params, strict=True)
    return float(torch.stack([(a - b).detach().abs().max() for a, b in pairs]).max())
