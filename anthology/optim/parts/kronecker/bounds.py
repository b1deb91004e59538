"""KrADagrad's factors on stacks of blocks: bounds on inverses, by products alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anthology.linalg import robust_eigh
from anthology.linalg.products import peak, symmetric
from anthology.optim.core.rule import Group

from .stacks import Block, Kept, axes_of, cut, multiply, unfold


def blocks_of(x: Tensor, group: Group) -> list[tuple[str, Block]]:
    """The blocks of one tensor, and what the names of their factors begin with."""
    if not group["block_size"] or not axes_of(x.shape, {**group, "max_dim": math.inf}):
        return [("", ())]
    found = cut(tuple(x.shape), group["block_size"])
    return [(f"{b}_" if len(found) > 1 else "", block) for b, block in enumerate(found)]


def turn_of(past: int, axes: list[int], shape: Sequence[int]) -> int:
    """The axis whose factor "mm" updates after so many steps."""
    k = len(axes)
    place = past % k if past < k * k else past - math.isqrt(past) ** 2
    if place < k:
        return axes[place]
    return max(axes, key=lambda axis: shape[axis])


def damps(dtype: torch.dtype, group: Group) -> bool:
    """Whether εL² is more than rounding; without forgetting L only shrinks."""
    largest = group["initial"] if group["beta2"] == 1 else math.inf
    return bool(group["eps"] * largest > torch.finfo(dtype).eps / 8)


def power_of(order: int, group: Group) -> int:
    """p of the exponent 1/p for a tensor with so many axes."""
    return int(group["power"] or (2 if group["variant"] == "mm" else 2 * order))


def bounded(g: Tensor, kept: Kept, step: float, group: Group) -> Tensor:
    """Gradients times the roots of their factors, which learn of them first."""
    u, axes, others = g, axes_of(g.shape[1:], group), list[int]()
    if group["variant"] == "mm" and axes:
        turn = turn_of(int(step) - 1, axes, g.shape[1:])
        axes, others = [turn], [axis for axis in axes if axis != turn]
    for axis in others:
        u = multiply(u, kept[f"root_{axis}"], axis)
    for axis in axes:
        factor, rows = kept[f"factor_{axis}"], unfold(u.detach(), axis)
        if group["beta2"] < 1:
            factor.div_(group["beta2"])
        if damps(factor.dtype, group):
            factor.sub_(symmetric(factor, factor), alpha=group["eps"])
        gram = symmetric(rows, rows.mT)
        kept[f"factor_{axis}"] = dominated(factor, gram, group["bound"])
    if (step - 1) % group["refresh"] == 0:
        power = power_of(g.ndim - 1, group)
        for axis in axes + others * (group["refresh"] > 1):
            kept[f"root_{axis}"] = positive_root(kept[f"factor_{axis}"], power)
    for axis in axes:
        u = multiply(u, kept[f"root_{axis}"], axis)
    return u


def dominated(factor: Tensor, gram: Tensor, bound: str) -> Tensor:
    """A bound from above on (L⁻¹ + GGᵀ)⁻¹ by products alone."""
    product = gram @ factor
    if bound == "trace":
        size = product.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    else:
        top = peak(product, (-2, -1))
        size = torch.linalg.matrix_norm(product / top, keepdim=True) * top
    lower = factor - symmetric(factor, product / (1 + size))
    return (lower + lower.mT) / 2


def positive_root(factor: Tensor, power: int) -> Tensor:
    """L^(1/p); eigenvalues that rounding made negative count as zero."""
    top = peak(factor, (-2, -1))
    values, vectors = robust_eigh(factor / top)
    values = values.clamp_min(0) ** (1 / power)
    root = symmetric(vectors * values[..., None, :], vectors.mT)
    return root * top ** (1 / power)
