"""What one parameter costs in one step, whatever the machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Work:
    """The least that a rule must keep, move and multiply for one tensor.

    `state` numbers are kept between steps, counters not included, and `state_moved`
    read or written in a step (default None: each is both, once). The gradient is read
    `grad_reads` times (1), the parameter read or written `param_moves` times (2).
    Matrix products take `flops` operations (0) in the dtype `products` (default None:
    that of the state).
    """

    state: float
    state_moved: float | None = None
    grad_reads: float = 1.0
    param_moves: float = 2.0
    flops: float = 0.0
    products: str | None = None


@dataclass(frozen=True)
class Seen:
    """One parameter as its optimizer's cost sees it.

    `shape` is that of the real tensor that the rule sees (a complex one has pairs),
    `dtype` the one in which it computes, `group` the parameter's, `kept` the shapes of
    the state by name, where the optimizer can tell (its `rule`), and `symmetric`
    whether symmetric products count half.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    group: Mapping[str, Any]
    kept: Mapping[str, tuple[int, ...]]
    symmetric: bool

    @property
    def numbers(self) -> int:
        """How many there are in the parameter."""
        return math.prod(self.shape)

    def named(self, prefix: str) -> list[tuple[int, ...]]:
        """Shapes of the state named by a prefix such as ``"factor_"`` and numbers."""
        digits = str.maketrans("", "", "0123456789_")
        return [
            shape
            for name, shape in self.kept.items()
            if name.startswith(prefix) and not name[len(prefix) :].translate(digits)
        ]


@dataclass(frozen=True)
class Cost:
    """A rule's cost, as a value that the class of an optimizer holds as ``cost``.

    Called with a `Seen` it returns its `Work`; decorates the function that knows it.
    """

    of: Callable[[Seen], Work]

    def __call__(self, subject: Seen) -> Work:
        return self.of(subject)


def keeping(*kept: tuple[float, float], **rest: Any) -> Work:
    """Work from pairs: numbers kept, and how often a step reads or writes each."""
    state = sum(numbers for numbers, _ in kept)
    return Work(state, sum(numbers * times for numbers, times in kept), **rest)


def averages(*switches: str | int) -> Cost:
    """Of a rule that keeps averages: always so many, or where a setting is not 0."""

    def of(s: Seen) -> Work:
        values = [s.group[x] if isinstance(x, str) else x for x in switches]
        firsts = [x[0] if isinstance(x, tuple | list) else x for x in values]
        return Work(sum(map(bool, firsts)) * s.numbers)

    return Cost(of)
