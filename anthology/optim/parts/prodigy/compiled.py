"""The two passes of Prodigy as functions of tensors, and how they are compiled.

The first puts a gradient into the averages and takes the two sums that d is made of;
the second takes the step, with what d has grown to over all tensors. Every
hyper-parameter is a number in a tensor, so nothing is compiled anew when it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.fused.compile import EXAMPLE
from anthology.optim.core.fused.direct import Kernel, compile_direct

_kernels: dict[Any, Kernel] = {}
# Of the example of several tensors: how many, and how many numbers each.
ROWS = (68, 4101)


def pass_kernels() -> int:
    """How many passes have been compiled so far in this process."""
    return len(_kernels)


def first_pass(m: bool, s: bool, checked: bool) -> Callable[[list[Tensor]], Tensor]:
    """The first pass as a function of tensors."""

    def observe(xs: list[Tensor]) -> Tensor:
        p, g, start, numbers, *rest = xs
        beta1, share, beta2, d, rest2, beta3, weight = numbers.unbind()
        v = rest[0]
        g = g.to(v.dtype)
        scaled = d * g
        new = [beta2 * v + rest2 * (scaled * scaled)]
        if m:
            new.append(beta1 * rest[1] + share * g)
        summed = g
        if s:
            summed = beta3 * rest[1 + m] + weight * g
            new.append(summed)
        for old, x in zip(rest, new, strict=False):
            old.copy_(torch.where(rest[-1], x, old) if checked else x)
        product = g * (start - p.to(v.dtype))
        return torch.stack([product.sum(-1), summed.abs().sum(-1)])

    return observe


def second_pass(checked: bool) -> Callable[[list[Tensor]], Tensor]:
    """The second pass as a function of tensors."""

    def move(xs: list[Tensor]) -> Tensor:
        p, v, m, numbers = xs[:4]
        keep, rate, unit, least = numbers.unbind()
        w = p.to(v.dtype)
        w = keep * w - rate * (unit * m.to(v.dtype)) / (v.sqrt() + least)
        p.copy_(torch.where(xs[4], w.to(p.dtype), p) if checked else w)
        return least.clone()

    return move


def pass_kernel(
    which: str,
    params: Tensor,
    grads: Tensor,
    kind: torch.dtype,
    names: tuple[str, ...],
    checked: bool,
) -> Kernel:
    """A compiled pass, made at the first call for such tensors."""
    rows = which == "first" and params.ndim > 1
    kinds = params.dtype, grads.dtype, kind
    home, threads = params.device, torch.get_num_threads()
    key = (which, rows, names, checked, home, threads, *kinds)
    if key not in _kernels:
        size = ROWS if rows else (EXAMPLE,)
        p, g, average = (torch.ones(size, dtype=x, device=home) for x in kinds)
        if which == "first":
            pure = first_pass("exp_avg" in names, "s" in names, checked)
            example = [p, g, average, average.new_ones(7)]
            example += [average.clone() for _ in names]
        else:
            pure = second_pass(checked)
            example = [p, average, g, average.new_ones(4)]
        if checked:
            example.append(torch.ones((), dtype=torch.bool, device=home))
        store = which == "first" and not rows
        _kernels[key] = compile_direct(pure, example, store=store)
    return _kernels[key]
