"""Kronecker factors: one matrix for each axis of a tensor, or of a block of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product

import torch
from torch import Tensor

from anthology.linalg import robust_eigh
from anthology.linalg.products import symmetric

Block = tuple[slice, ...]


def cut(shape: tuple[int, ...], size: int) -> list[Block]:
    """Blocks with at most `size` entries along each axis."""
    axes = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length in shape or (1,)
    ]
    return list(product(*axes))


def unfold(x: Tensor, axis: int, order: int) -> Tensor:
    """The matrix whose rows are the slices of a tensor along an axis."""
    x = x.movedim(axis - order, -order)
    return x.flatten(1 - order) if order > 1 else x.unsqueeze(-1)


def gram(x: Tensor, axis: int, order: int) -> Tensor:
    """XXᵀ of the matrix along an axis: GGᵀ for axis 0 of a matrix, GᵀG for axis 1."""
    flat = unfold(x, axis, order)
    return symmetric(flat, flat.mT)


def multiply(x: Tensor, matrix: Tensor, axis: int, order: int) -> Tensor:
    """A matrix applied along an axis: MX for axis 0 of a matrix, XMᵀ for axis 1."""
    if order > 1 and axis == order - 1:  # from the right, so that nothing is moved
        rows = x.flatten(1, -2) @ matrix.mT
        return rows.reshape(x.shape)
    flat = matrix @ unfold(x, axis, order)
    moved = x.movedim(axis - order, -order)
    return flat.reshape(moved.shape).movedim(-order, axis - order)


def whitened(x: Tensor, axis: int, whiteners: Mapping[int, Tensor]) -> Tensor:
    """A tensor divided by the factors of all axes but one: G S⁻½/√d for axis 0."""
    order = x.ndim - 1
    for other, matrix in whiteners.items():
        if other != axis:
            x = multiply(x, matrix, other, order)
    many = max(x[0].numel(), 1)
    room = math.sqrt(torch.finfo(x.dtype).max / (2.0**20 * many))
    share: float = x.shape[axis + 1] / many
    return (x * math.sqrt(share)).clamp(-room, room)


def nonzero(x: Tensor) -> Tensor:
    """`x` with ones in place of zeros, to divide by."""
    return torch.where(x == 0, torch.ones_like(x), x)


def dominate(factor: Tensor, gathered: Tensor, bound: str = "frobenius") -> Tensor:
    """A bound from above on (L⁻¹ + GGᵀ)⁻¹ by products alone."""
    product = gathered @ factor
    if bound == "trace":
        size = product.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    else:
        top = nonzero(product.abs().amax((-2, -1), keepdim=True))
        size = torch.linalg.matrix_norm(product / top, keepdim=True) * top
    lower = factor - symmetric(factor, product / (1 + size))
    return (lower + lower.mT) / 2


def positive_root(factor: Tensor, power: int) -> Tensor:
    """L^(1/p); eigenvalues that rounding made negative count as zero."""
    top = nonzero(factor.abs().amax((-2, -1), keepdim=True))
    values, vectors = robust_eigh(factor / top)
    values = values.clamp_min(0) ** (1 / power)
    root = symmetric(vectors * values[..., None, :], vectors.mT)
    return root * top ** (1 / power)
