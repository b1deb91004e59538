"""One optimizer that keeps the contract, and one for each way of breaking it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.optim import BaseOptimizer, SteepestDescent


class Sound(SteepestDescent):
    """Gradient descent with momentum, on which each fault below is a small change."""

    def __init__(self, params: Any, lr: Any = 0.05, **options: Any) -> None:
        options = {"norm": "L2()", "momentum": 0.5, "maximize": False, **options}
        super().__init__(params, lr, step="steepest", across="l2", **options)

    @property
    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        everything = [p for group in self.param_groups for p in group["params"]]
        return [(p, p.grad) for p in everything if p.grad is not None]


FAULTS: dict[str, type[Sound]] = {}
Change = Callable[[Sound], None]


def fault(name: str) -> Callable[[type[Sound]], type[Sound]]:
    """Enter a class as the one that fails this check and no other."""

    def enter(kind: type[Sound]) -> type[Sound]:
        FAULTS[name] = kind
        return kind

    return enter


def after(name: str) -> Callable[[Change], Change]:
    """A fault that is something done after each step."""

    def enter(change: Change) -> Change:
        class Broken(Sound):
            @torch.no_grad()
            def step(self, closure: Any = None) -> Any:
                loss = BaseOptimizer.step(self, closure)
                change(self)
                return loss

        FAULTS[name] = Broken
        return change

    return enter


def without(name: str) -> Callable[[Callable[[Tensor], bool]], None]:
    """A fault that is a kind of gradient for which nothing happens."""

    def enter(ignored: Callable[[Tensor], bool]) -> None:
        class Broken(Sound):
            def step(self, closure: Any = None) -> Any:
                if any(ignored(g) for _, g in self.pairs if not g.is_sparse):
                    return None
                return BaseOptimizer.step(self, closure)

        FAULTS[name] = Broken

    return enter


def full(g: Tensor, value: float) -> bool:
    return bool(g.numel()) and bool((g == value).all())


@after("gradient not mutated")
def _(self: Sound) -> None:
    for _p, g in self.pairs:
        if not g.is_sparse:
            g.mul_(0.5)


@after("gradient kept")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        p.grad = g.clone()


@after("missing gradient")
def _(self: Sound) -> None:
    for p in self.param_groups[0]["params"]:
        if p.grad is None:
            p.mul_(0.9)


@after("zero gradient")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        if full(g, 0.0):
            p.add_(1e-3)


@after("tiny gradient")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        if g.numel() and 0 < g.abs().max() < 1e-20:
            p.fill_(math.nan)


@after("nan gradient")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        if g.isnan().any() and not g.isnan().all():
            p[g.isfinite()] = math.nan


@after("infinite gradient")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        if g.isinf().any():
            p.fill_(math.nan)


@after("nan skips the tensor")
def _(self: Sound) -> None:
    for p, g in self.pairs:
        if g.isnan().any():
            p.mul_(torch.where(g.isnan(), 0.99, 1.0))


@after("non contiguous parameter")
def _(self: Sound) -> None:
    for p, _g in self.pairs:
        if not p.is_contiguous():
            p.add_(0.1)


@after("float64 parameter")
def _(self: Sound) -> None:
    for p, _g in self.pairs:
        if p.dtype == torch.float64:
            self.state[p] = {k: v.float() for k, v in self.state[p].items()}


@after("complex parameter")
def _(self: Sound) -> None:
    for p, _g in self.pairs:
        if p.is_complex():
            p.imag.fill_(2.0)


@after("tensor learning rate")
def _(self: Sound) -> None:
    for p, _g in self.pairs:
        if isinstance(self.param_groups[0]["lr"], Tensor):
            p.mul_(1.01)


@after("warm up from zero")
def _(self: Sound) -> None:
    p = self.param_groups[0]["params"][0]
    if self.param_groups[0]["lr"] == 0 and self.state[p]["step"] == 1:
        p.fill_(math.nan)


@after("maximize")
def _(self: Sound) -> None:
    self.param_groups[0]["maximize"] = False


@after("descends on a quadratic")
def _(self: Sound) -> None:
    counts = [self.state[p]["step"] for p, _ in self.pairs if "step" in self.state[p]]
    self.param_groups[0]["maximize"] |= any(count > 60 for count in counts)


@after("entry of the user")
def _(self: Sound) -> None:
    assert all("step" in state for state in self.state.values() if state)


@after("separate memory")
def _(self: Sound) -> None:
    shared = torch.zeros(())
    for p, _g in self.pairs:
        self.state[p]["skipped"] = shared


def refusing(name: str, refused: Callable[[Tensor], bool]) -> None:
    """A fault that is a kind of parameter on which the step raises."""

    @after(name)
    def _(self: Sound) -> None:
        assert not any(refused(p) for p, _ in self.pairs)


refusing("scalar parameter", lambda p: p.ndim == 0)
refusing("vector parameter", lambda p: p.ndim == 1)
refusing("three axes", lambda p: p.ndim == 3)
refusing("four axes", lambda p: p.ndim == 4)
refusing("empty parameter", lambda p: p.numel() == 0)


@without("matrix parameter")
def _(g: Tensor) -> bool:
    return g.shape == (4, 3) and g.dtype == torch.float32 and full(g, -3.0)


@without("bfloat16 parameter")
def _(g: Tensor) -> bool:
    return g.dtype == torch.bfloat16 and full(g, -3.0)


@without("nan spares the others")
def _(g: Tensor) -> bool:
    return g.numel() > 0 and bool(g.isnan().all())
