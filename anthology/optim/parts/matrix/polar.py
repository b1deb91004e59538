"""The polar factors of a list of weights, as the groups of Muon ask for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.polar import raw_polar

from ..arithmetic import descend
from .row_scaling import ENTRY, apart, even_rows, joined, kept_shapes
from .view import scale_factor, view_of

PRODUCTS = ("float16", "bfloat16", "float32", "float64")


def orthogonal(
    point: Tensor, group: Mapping[str, Any], rows: Tensor | None = None
) -> Tensor:
    """The step of one weight along its polar factor, for η = −1."""
    view, u = view_of(group), _numbers(point, group)
    found = _stages(view.matrices(u), group, rows)
    pairs = zip(found, factors(u, group), strict=True)
    t = view.weight([x * s for x, s in pairs], u)
    return torch.view_as_real(t) if t.is_complex() else t


def descend_along(
    params: list[Tensor],
    points: list[Tensor],
    others: list[Tensor] | None,
    group: Mapping[str, Any],
    rows: list[Tensor] | None = None,
) -> None:
    """w ← w − ηs·polar(u) for a list; matrices of equal shape go as one batch."""
    view = view_of(group)
    alike: dict[torch.Size, list[int]] = {}
    for index, u in enumerate(points):
        alike.setdefault(u.shape, []).append(index)
    for members in alike.values():
        like = _numbers(points[members[0]], group)
        stacks = [torch.stack(x) for x in _lists([points[i] for i in members], group)]
        if others is not None:
            ahead = _lists([others[i] for i in members], group)
            for stack, parts in zip(stacks, ahead, strict=True):
                torch._foreach_lerp_(list(stack.unbind()), parts, group["momentum"])
        first, *rest = factors(like, group)
        kept = None if rows is None else [rows[i] for i in members]
        every = None if kept is None else torch.stack(kept)
        found = _stages(stacks, group, every)
        if kept is not None and every is not None:
            torch._foreach_copy_(kept, list(every.unbind()))
        for t, size in zip(found[1:], rest, strict=True):
            t.mul_(size / first)
        each = zip(*(t.unbind() for t in found), strict=True)
        moves = [view.weight(parts, like) for parts in each]
        if group["complex"]:
            moves = [torch.view_as_real(t) for t in moves]
        descend([params[i] for i in members], moves, group["lr"] * first)


def _lists(points: list[Tensor], group: Mapping[str, Any]) -> list[list[Tensor]]:
    """The first matrices of all weights, the second ones, and so on."""
    view = view_of(group)
    each = [view.matrices(_numbers(u, group)) for u in points]
    return [list(parts) for parts in zip(*each, strict=True)]


def _numbers(point: Tensor, group: Mapping[str, Any]) -> Tensor:
    """Pairs as complex numbers."""
    return torch.view_as_complex(point.contiguous()) if group["complex"] else point


def factors(p: Tensor, group: Mapping[str, Any]) -> list[float]:
    """What the polar factors of a weight are multiplied by, η apart."""
    view, scale = view_of(group), group["adjust_lr_fn"] or "original"
    rest = view.share(p) / float(group.get("scale", 1.0))
    found = view.matrices(torch.empty_like(p, device="meta"))
    return [scale_factor(scale, x.shape) * rest for x in found]


def rows_of(param: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """What is kept of the rows of a weight, if anything."""
    if group["row_beta"] is None:
        return {}
    shape = param.shape[:-1] if group.get("complex") else param.shape
    matrices = view_of(group).matrices(torch.empty(shape, device="meta"))
    count = sum(map(math.prod, kept_shapes(matrices, group)))
    return {ENTRY: param.new_zeros(count)}


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """A dtype as plain text, for checkpoints."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _stages(
    points: list[Tensor], group: Mapping[str, Any], rows: Tensor | None
) -> list[Tensor]:
    """All that makes steps of matrices, but their factor; `rows` is written."""
    lead = 0 if rows is None else rows.ndim - 1  # axes of a list of weights
    shapes = [] if rows is None else kept_shapes(points, group)
    kept = [] if rows is None else apart(rows, [shape[lead:] for shape in shapes])
    found = []
    for index, u in enumerate(points):
        t, size = _polar(u, group), None
        if group["step_rule"] == "steepest":  # ‖u‖_*, up to the error of the factor
            size = (u.conj() * t).real.sum((-2, -1), keepdim=True)
        if rows is not None:
            t, kept[index] = even_rows(t, kept[index], group)
        found.append(t if size is None else t * size)
    if rows is not None:
        rows.copy_(joined(kept, lead))
    return found


def _polar(x: Tensor, group: Mapping[str, Any]) -> Tensor:
    name = dtype_name(group["ns_dtype"])
    # no complex numbers of half precision can be multiplied
    dtype = None if name is None or x.is_complex() else getattr(torch, name)
    how = group["normalize"], group["renormalize"]
    return raw_polar(x, group["method"], group["ns_steps"], dtype, *how)
