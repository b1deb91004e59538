"""Borrow an optimizer for phantom steps, and give it back as it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Loan:
    """Everything of an optimizer that a step may touch, to be put back."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.state: Mapping[Any, Mapping[str, Any]] = optimizer.state
        self._attributes = dict(vars(optimizer))
        self._groups = [(g, dict(g)) for g in optimizer.param_groups]
        self._tensors = [
            (value, value.detach().clone())
            for _, values in self._groups
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        self._parameters = [
            (p, p.detach().clone(), p.grad) for p in parameters_of(optimizer)
        ]

    def changed_settings(self) -> list[tuple[int, str]]:
        """Values of groups that are no longer what they were: (group, name)."""
        copies = {id(value): copy for value, copy in self._tensors}
        return [
            (number, name)
            for number, (group, values) in enumerate(self._groups)
            for name, value in values.items()
            if name != "params" and not same(group[name], copies.get(id(value), value))
        ]

    def end(self) -> None:
        """Put everything back."""
        vars(self.optimizer).clear()
        vars(self.optimizer).update(self._attributes)
        for group, values in self._groups:
            group.clear()
            group.update(values)
        with torch.no_grad():
            for value, copy in self._tensors:
                if not same(value, copy):
                    value.copy_(copy)
            for p, copy, gradient in self._parameters:
                p.copy_(copy)
                p.grad = gradient


@contextmanager
def lent(optimizer: Optimizer) -> Iterator[Loan]:
    """No state and no gradients inside; all as before, bit for bit, after."""
    loan = Loan(optimizer)
    try:
        optimizer.state = defaultdict(dict)
        for p in parameters_of(optimizer):
            p.grad = None
        yield loan
    finally:
        loan.end()


def take(optimizer: Optimizer, closure: Callable[[], Any]) -> None:
    for p in parameters_of(optimizer):
        p.grad = None
    with torch.enable_grad():
        optimizer.step(closure)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def copied(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in entries.items()
    }


def same(a: Any, b: Any) -> bool:
    """Equal in kind and value; NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a, b.to(a.device), rtol=0, atol=0, equal_nan=True)
        )
    return a is b or (type(a) is type(b) and bool(a == b))
