"""Passes over lists of tensors on a CPU, with one temporary for all of them.

Memory that is taken and given back at every operation is cleared by the system each
time it is used, which costs more than the operation. Here a pass over a list takes
one piece, as large as the largest member.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core import batch as batching
from anthology.optim.core.batch import Batch

Rate = Any  # float, 0-d Tensor, or a list of either, one a tensor


def on_cpu(batch: Batch) -> bool:
    """Whether the passes of this file serve a batch."""
    here = batching.reads_flags_for_free(batch.params[0].device)
    return here and not batch.group["differentiable"]


class Room:
    """Memory for one temporary at a time."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._flat = tensors[0].new_empty(max(x.numel() for x in tensors))
        self._views: dict[torch.Size, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The memory in the shape of a member; what it held is lost."""
        if x.shape not in self._views:
            self._views[x.shape] = self._flat[: x.numel()].view(x.shape)
        return self._views[x.shape]


def scale(xs: list[Tensor], factor: Rate) -> None:
    """x ← factor·x for a list."""
    one = _joint(xs, factor)
    if isinstance(factor, Tensor) and factor.requires_grad:
        for x in xs:  # the list operation gives it no slope
            x.mul_(factor)
    elif one is None:
        torch._foreach_mul_(xs, factor)
    else:
        torch.ops.aten._foreach_mul_.Tensor(xs, one)


def divide(xs: list[Tensor], divisor: Rate) -> None:
    """x ← x/divisor for a list."""
    one = _joint(xs, divisor)
    if one is None:
        torch._foreach_div_(xs, divisor)
    else:
        torch.ops.aten._foreach_div_.Tensor(xs, one)


def shift(xs: list[Tensor], number: float) -> None:
    """x ← x + number for a list."""
    one = _joint(xs, number)
    if one is None:
        torch._foreach_add_(xs, number)
    else:
        torch._foreach_add_(xs, one, alpha=1.0)


def _joint(xs: list[Tensor], rate: Rate) -> Tensor | None:
    """On a CPU a plain number, or a list of equal ones."""
    if isinstance(rate, list) and isinstance(rate[0], float) and len(set(rate)) == 1:
        rate = rate[0]
    if isinstance(rate, float) and xs[0].is_cpu:
        return torch.tensor(rate, dtype=xs[0].dtype)
    return None


def add_scaled(xs: list[Tensor], ys: list[Tensor], rate: Rate) -> None:
    """x ← x + rate·y for lists, without a copy where the rate is a plain number."""
    if isinstance(rate, Tensor | list):
        torch._foreach_add_(xs, torch._foreach_mul(ys, rate))
    else:
        torch._foreach_add_(xs, ys, alpha=rate)


def mapped(rate: Rate, compute: Callable[[Any], Any]) -> Rate:
    """A function of a rate, or of each in a list."""
    return [compute(r) for r in rate] if isinstance(rate, list) else compute(rate)


def inner_of_differences(
    xs: list[Tensor], ys: list[Tensor], zs: list[Tensor]
) -> list[Tensor]:
    """⟨x − y, z⟩ of each triple."""
    room, found = Room(xs), []
    for x, y, z in zip(xs, ys, zs, strict=True):
        gone = torch.sub(x, y, out=room.like(x))
        found.append(torch.dot(gone.view(-1), z.reshape(-1)))
    return found


def one_norms(xs: list[Tensor]) -> list[Tensor]:
    """‖x‖₁ of each; the sum of |x| is three times as fast as the norm."""
    room = Room(xs)
    return [torch.abs(x, out=room.like(x)).sum() for x in xs]


def divided_by_root(
    ws: list[Tensor], ms: list[Tensor], vs: list[Tensor], rate: Rate, eps: Any
) -> None:
    """w ← w − rate·m/(√v + ε) for lists."""
    room = Room(vs)
    rates = rate if isinstance(rate, list) else [rate] * len(ws)
    for w, m, v, size in zip(ws, ms, vs, rates, strict=True):
        below = torch.sqrt(v, out=room.like(v)).add_(eps)
        w.addcdiv_(m, below, value=-size)
