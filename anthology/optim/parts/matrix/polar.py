"""The polar factors of a list of weights, as the groups of Muon ask for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anthology.linalg.polar import raw_polar
from anthology.optim.core.state import Group

from ..arithmetic import descend
from .view import kernel_of, scale_factor, view_of

PRODUCTS = ("float16", "bfloat16", "float32", "float64")

# An average of the squares of each row, by which NorMuon evens out its steps. Before it
# the rows of a polar factor may differ in length, by leverage where there are more rows
# than columns, by the error of the polynomials where there are not.
SIDES = ("out", "longer")
ENTRY = "row_avg_sq"
EPS = 1e-10


def orthogonal(point: Tensor, group: Group, rows: Tensor | None = None) -> Tensor:
    """The step of one weight along its polar factor, for η = −1."""
    u = _numbers(point, group)
    found, back = view_of(group)(u)
    pairs = zip(_stages(found, group, rows), factors(u, group), strict=True)
    t = back([x * s for x, s in pairs])
    return torch.view_as_real(t) if t.is_complex() else t


def descend_along(
    params: list[Tensor],
    points: list[Tensor],
    others: list[Tensor] | None,
    group: Group,
    rows: list[Tensor] | None = None,
) -> None:
    """w ← w − ηs·polar(u) for a list; matrices of equal shape go as one batch."""
    view = view_of(group)
    alike: dict[torch.Size, list[int]] = {}
    for index, u in enumerate(points):
        alike.setdefault(u.shape, []).append(index)
    for members in alike.values():
        seen = [view(_numbers(points[i], group)) for i in members]
        stacks = [torch.stack(x) for x in zip(*(own for own, _ in seen), strict=True)]
        if others is not None:
            ahead = [view(_numbers(others[i], group))[0] for i in members]
            for stack, parts in zip(stacks, zip(*ahead, strict=True), strict=True):
                torch._foreach_lerp_(list(stack.unbind()), parts, group["momentum"])
        first, *rest = factors(_numbers(points[members[0]], group), group)
        kept = None if rows is None else torch.stack([rows[i] for i in members])
        found = _stages(stacks, group, kept)
        if rows is not None and kept is not None:
            torch._foreach_copy_([rows[i] for i in members], list(kept.unbind()))
        for t, size in zip(found[1:], rest, strict=True):
            t.mul_(size / first)
        moves = [seen[0][1](x) for x in zip(*(t.unbind() for t in found), strict=True)]
        if group["complex"]:
            moves = [torch.view_as_real(t) for t in moves]
        descend([params[i] for i in members], moves, group["lr"] * first)


def _numbers(point: Tensor, group: Group) -> Tensor:
    """Pairs as complex numbers."""
    return torch.view_as_complex(point.contiguous()) if group["complex"] else point


def factors(p: Tensor, group: Group) -> list[float]:
    """What the polar factors of a weight are multiplied by, η apart."""
    scale, rest = group["adjust_lr_fn"] or "original", 1 / group.get("scale", 1.0)
    if kernel_of(group) == "positions":  # K of them share one step
        rest /= math.prod(p.shape[2:])
    found, _ = view_of(group)(torch.empty_like(p, device="meta"))
    return [scale_factor(scale, x.shape) * rest for x in found]


def rows_of(param: Tensor, group: Group) -> dict[str, Tensor]:
    """What is kept of the rows of a weight, if anything."""
    if group["row_beta"] is None:
        return {}
    shape = param.shape[:-1] if group.get("complex") else param.shape
    found, _ = view_of(group)(torch.empty(shape, device="meta"))
    places = [(x.shape, -3 - _averaged_over(x, group)) for x in found]
    count = sum(math.prod(shape[:-2]) * shape[axis] for shape, axis in places)
    return {ENTRY: param.new_zeros(count)}


def _averaged_over(x: Tensor, group: Group) -> int:
    """The axis along which squares are averaged."""
    return -2 if group["row_side"] == "longer" and x.shape[-2] < x.shape[-1] else -1


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """A dtype as plain text, for checkpoints."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _stages(points: list[Tensor], group: Group, rows: Tensor | None) -> list[Tensor]:
    """All that makes steps of matrices, but their factor; `rows` is written."""
    name, how = group["ns_dtype"], (group["normalize"], group["renormalize"])
    found, kept, start = [], [], 0
    for u in points:
        # no complex numbers of half precision can be multiplied
        dtype = None if name is None or u.is_complex() else getattr(torch, name)
        t = raw_polar(u, group["method"], group["ns_steps"], dtype, *how)
        size = None
        if group["step_rule"] == "steepest":  # ‖u‖_*, up to the error of the factor
            size = (u.conj() * t).real.sum((-2, -1), keepdim=True)
        if rows is not None:
            axis = _averaged_over(t, group)
            mean = (t * t.conj()).real.mean(axis)
            own = mean.flatten(rows.ndim - 1)
            before = rows[..., start : start + own.shape[-1]]
            kept.append(before.lerp(own, 1 - group["row_beta"]))
            t = _even(t, kept[-1].reshape(mean.shape).unsqueeze(axis))
            start += own.shape[-1]
        found.append(t if size is None else t * size)
    if rows is not None:
        rows.copy_(torch.cat(kept, -1))
    return found


def _even(t: Tensor, squares: Tensor) -> Tensor:
    """Rows over the root of their average square, at the size that was."""
    some = squares > 0  # elsewhere there is nothing to divide, nor a slope of the root
    even = t * torch.where(some, 1 / (torch.where(some, squares, 1).sqrt() + EPS), 0)
    size = torch.linalg.matrix_norm(even, keepdim=True)
    whole = torch.linalg.matrix_norm(t, keepdim=True)
    out: Tensor = even * (whole / torch.where(size > 0, size, 1))
    return out
