"""Structures with triangular parts: K Kᵀ leaves them, so it is applied, not kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from anthology.linalg.safe import working_dtype
from anthology.linalg.structured import Structure


def numbered(mask: Tensor) -> Tensor:
    """The pattern in which every marked place is free, row by row."""
    numbers = mask.reshape(-1).long().cumsum(0).reshape(mask.shape) - 1
    return torch.where(mask, numbers, -1)


class Lower(Structure):
    """Lower triangular."""

    name = "lower"

    def pattern(self) -> Tensor:
        """The diagonal and what is below it."""
        return numbered(torch.ones(self.dim, self.dim, dtype=torch.bool).tril())


class Upper(Structure):
    """Upper triangular."""

    name = "upper"

    def pattern(self) -> Tensor:
        """The diagonal and what is above it."""
        return numbered(torch.ones(self.dim, self.dim, dtype=torch.bool).triu())


class LowerToeplitz(Structure):
    """Lower triangular, constant along diagonals: d numbers, products commute."""

    name = "lower-toeplitz"
    side = -1

    def pattern(self) -> Tensor:
        """Number j on the j-th diagonal below the main one (above it for upper)."""
        i = torch.arange(self.dim)
        return (self.side * (i - i[:, None])).clamp(min=-1)

    @property
    def size(self) -> int:
        """d."""
        return self.dim

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """One row of the product decides it: a row times a matrix."""
        dense = self.dense(x)
        upper = dense.mT if self.side < 0 else dense
        return (y.unsqueeze(-2) @ upper).squeeze(-2)

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        """Means of the diagonals, sheared into columns, by one sum."""
        d, wide = self.dim, matrix.to(working_dtype(matrix.dtype))
        flat = pad(wide if self.side < 0 else wide.mT, (d, 0)).flatten(-2)
        sheared = pad(flat, (0, d)).unflatten(-1, (d, 2 * d + 1))
        sums = sheared.sum(-2)[..., 1 : d + 1].flip(-1)
        means = sums / torch.arange(d, 0, -1, device=sums.device)
        if weighted:
            means = torch.cat([means[..., :1], 2 * means[..., 1:]], -1)
        out: Tensor = means.to(matrix.dtype)
        return out

    def identity(self, like: Tensor) -> Tensor:
        """One, then zeros."""
        first = torch.zeros(self.dim, dtype=like.dtype, device=like.device)
        first[0] = 1
        return first


class UpperToeplitz(LowerToeplitz):
    """Upper triangular, constant along diagonals."""

    name = "upper-toeplitz"
    side = 1


class Hierarchical(Structure):
    """[[A, B, B′], [0, C, 0], [0, D, E]]: A and E dense 15 × 15, C diagonal."""

    name = "hierarchical"
    block = 15

    def pattern(self) -> Tensor:
        """The free blocks, row by row."""
        i = torch.arange(self.dim)
        top = i < self.block
        bottom = ~top & (i >= self.dim - min(self.block, self.dim - int(top.sum())))
        free = top[:, None] | (bottom[:, None] & ~top) | (i[:, None] == i)
        return numbered(free)


class _Line(Structure):
    """Diagonal, and one dense row or column that keeps the matrix triangular."""

    row: int | None = None
    column: int | None = None

    def pattern(self) -> Tensor:
        """The diagonal and the dense line."""
        free = torch.eye(self.dim, dtype=torch.bool)
        if self.row is not None:
            free[self.row] = True
        if self.column is not None:
            free[:, self.column] = True
        return numbered(free)


class LowerRow(_Line):
    """Diagonal with a dense last row."""

    name, row = "lower-row", -1


class LowerColumn(_Line):
    """Diagonal with a dense first column."""

    name, column = "lower-column", 0


class UpperRow(_Line):
    """Diagonal with a dense first row."""

    name, row = "upper-row", 0


class UpperColumn(_Line):
    """Diagonal with a dense last column."""

    name, column = "upper-column", -1
