"""An update rule as a value: how one tensor, or a list of them, takes a step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .state import Group, State, States, Tensors, no_state

__all__ = ["Group", "Rule", "coupled"]

Single = Callable[[Tensor, Tensor, State, Any, Group], None]
Multi = Callable[[Tensors, Tensors, States, list[Any], Group], None]


def any_finite(grad: Tensor, group: Group) -> float:
    """The largest number of the gradient's dtype."""
    return torch.finfo(grad.dtype).max


def coupled(param: Tensor, grad: Tensor, state: State, step: Any, group: Group) -> None:
    """Stands where a step has no rule for one tensor alone."""
    raise NotImplementedError("all tensors take this step together; see `apply`")


@dataclass(frozen=True)
class Rule:
    """What an optimizer holds: the step itself, free of groups, closures and devices.

    A new rule is one function, ``Rule(single)``; everything else is for speed or for
    state. To change a part of another class's rule write a new one, with the parts
    that stay: ``Rule(mine, new_state=Adam.rule.new_state)``.

    Parameters
    ----------
    single : callable
        ``single(param, grad, state, step, group)`` updates one tensor and its state
        in place: the definition of the method. Parameter and gradient are real,
        finite, of equal shape and dtype; ``grad`` must not be written. ``step`` (float
        or 0-d Tensor) counts the steps of this parameter, this one included;
        ``group["lr"]`` is a float or a 0-d tensor.
    multi : callable, optional
        The same for tensors of one device and dtype, at least one: every argument
        but the group is a list. By default a loop over `single`.
    new_state : callable
        ``new_state(param, group)``: the initial state of one parameter, a dict of
        tensors; ``param`` is real, at least float32. Default: none.
    gradient_limit : callable
        ``gradient_limit(grad, group)``: the largest entry of a gradient that the state
        can hold; one beyond it counts as not finite, in every form of the rule. A rule that keeps squares returns
        the square root of the largest number. Default: the largest number.
    entries : callable, optional
        ``entries(group)``: names of the state that a group may switch on later.
        Default: none.
    late : tuple of str
        Names of the state that a checkpoint may lack: they start as in a new one.
    entrywise : bool
        Whether it treats every entry alike and alone, so that tensors may be laid flat,
        the step be fused, shards do as well as wholes, and a bad gradient stops its
        entry only.
    numbers : tuple of str
        Hyper-parameters that compiled code of `single` reads as a `Coefficient`, so
        that a schedule may change them.
    torch_kernel : bool
        Whether `multi` knows PyTorch's fused kernel.
    triton : str, optional
        The name of its kernel in ``anthology.kernels.entrywise``.
    passes : bool
        Whether the optimizer has fused passes of its own, taken in its `apply`.
    zero_is_none : bool
        Whether a gradient that is exactly zero is treated as if there were none.
    """

    single: Single
    multi: Multi | None = None
    new_state: Callable[[Tensor, Group], State] = no_state
    gradient_limit: Callable[[Tensor, Group], float] = any_finite
    entries: Callable[[Group], Collection[str]] | None = None
    late: tuple[str, ...] = ()
    entrywise: bool = False
    numbers: tuple[str, ...] = ()
    torch_kernel: bool = False
    triton: str | None = None
    passes: bool = False
    zero_is_none: bool = False

    @property
    def fuses(self) -> bool:
        """Whether a group may ask for ``fused``."""
        return self.entrywise or self.passes
