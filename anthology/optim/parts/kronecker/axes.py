"""Stacks of tensors, (n, d₁, …, d_N), along one axis of each: one factor an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from anthology.linalg.products import peak
from anthology.optim.core.rule import Group

Block = tuple[slice, ...]


def cut(shape: tuple[int, ...], size: int) -> list[Block]:
    """Blocks with at most `size` entries along each axis."""
    axes = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length in shape or (1,)
    ]
    return list(product(*axes))


def axes_of(shape: Sequence[int], group: Group) -> list[int]:
    """The axes of a block that have a factor, or a basis."""
    if len(shape) == 1 and group["vectors"] != "full":
        return []
    return [axis for axis, d in enumerate(shape) if d <= group["max_dim"]]


def unfold(x: Tensor, axis: int) -> Tensor:
    """G₍ᵢ₎, the matrix whose rows are the slices along an axis."""
    return x.movedim(axis + 1, 1).reshape(len(x), x.shape[axis + 1], -1)


def fold(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """Undo `unfold`."""
    moved = like.movedim(axis + 1, 1)
    return rows.reshape(moved.shape).movedim(1, axis + 1)


def multiply(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A matrix applied along an axis: MX for axis 0 of a matrix, XMᵀ for axis 1."""
    if 0 < axis == x.ndim - 2:  # from the right, so that nothing is moved
        rows = x.flatten(1, -2) @ matrix.mT
        return rows.reshape(x.shape)
    return fold(matrix @ unfold(x, axis), x, axis)


def whitened(x: Tensor, axis: int, whiteners: Mapping[int, Tensor]) -> Tensor:
    """A tensor divided by the factors of all axes but one: G S⁻½/√d for axis 0."""
    for other, matrix in whiteners.items():
        if other != axis:
            x = multiply(x, matrix, other)
    many = max(x[0].numel(), 1)
    room = math.sqrt(torch.finfo(x.dtype).max / (2.0**20 * many))
    share: float = x.shape[axis + 1] / many
    return (x * math.sqrt(share)).clamp(-room, room)


def nonzero(x: Tensor) -> Tensor:
    """`x` with ones in place of zeros, to divide by."""
    return torch.where(x == 0, torch.ones_like(x), x)


def length(x: Tensor) -> Tensor:
    """The Euclidean norm of a tensor of any scale, 0-d."""
    flat = x.reshape(1, -1)
    top = peak(flat, 1)
    out: Tensor = torch.linalg.vector_norm(flat / top, dim=1) * top[:, 0]
    return out[0]
