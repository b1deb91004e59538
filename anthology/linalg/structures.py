"""The structures by name, with what each can do faster than dense matrices."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from anthology.linalg.safe import working_dtype
from anthology.linalg.structured import Structure
from anthology.linalg.triangular import (
    Hierarchical,
    Lower,
    LowerColumn,
    LowerRow,
    LowerToeplitz,
    Upper,
    UpperColumn,
    UpperRow,
    UpperToeplitz,
    numbered,
)


class Dense(Structure):
    """Every entry free; packed row by row."""

    name = "dense"
    symmetric = True

    def pattern(self) -> Tensor:
        """All places, in order."""
        return torch.arange(self.dim**2).reshape(self.dim, self.dim)

    @property
    def size(self) -> int:
        """d²."""
        return self.dim**2

    def dense(self, x: Tensor) -> Tensor:
        """A view."""
        self._check(x, (self.size,))
        out: Tensor = x.unflatten(-1, (self.dim, self.dim))
        return out

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        return matrix.flatten(-2)

    def multiplicity(self, x: Tensor) -> Tensor | float:
        """One; no index is built."""
        return 1.0


class Diagonal(Structure):
    """Entrywise products; nothing dense is built."""

    name = "diagonal"
    symmetric = True

    def pattern(self) -> Tensor:
        """The main diagonal."""
        return numbered(torch.eye(self.dim, dtype=torch.bool))

    @property
    def size(self) -> int:
        """d."""
        return self.dim

    def dense(self, x: Tensor) -> Tensor:
        """Zeros around the vector."""
        self._check(x, (self.size,))
        return torch.diag_embed(x)

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1).clone()

    def identity(self, like: Tensor) -> Tensor:
        """Ones."""
        return torch.ones(self.dim, dtype=like.dtype, device=like.device)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Entry by entry."""
        return x * y

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        """Row by row."""
        return x.unsqueeze(-1) * columns

    def outer(self, x: Tensor) -> Tensor:
        """Squares."""
        return x.square()

    def project_inner(self, x: Tensor) -> Tensor:
        """Squares."""
        return x.square()

    def project_gram(self, rows: Tensor) -> Tensor:
        """Sums of squares of the rows."""
        wide = rows.to(working_dtype(rows.dtype))
        return wide.square().sum(-1).to(rows.dtype)

    def trace(self, x: Tensor) -> Tensor:
        """The sum."""
        return x.to(working_dtype(x.dtype)).sum(-1)

    def multiplicity(self, x: Tensor) -> Tensor | float:
        """One; no index is built."""
        return 1.0


class BlockDiagonal(Structure):
    """Dense blocks of 30, and a smaller last one; products go block by block."""

    name = "block-diagonal"
    symmetric = True
    block = 30

    def pattern(self) -> Tensor:
        """The blocks in order, each row by row."""
        number = torch.arange(self.dim) // self.block
        return numbered(number[:, None] == number)

    @property
    def size(self) -> int:
        """30 d for a multiple of 30."""
        full, rest = divmod(self.dim, self.block)
        return full * self.block**2 + rest**2

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """Packed (…, size) as (…, full, 30, 30) and (…, 1, rest, rest)."""
        self._check(x, (self.size,))
        full, rest = divmod(self.dim, self.block)
        first, last = x.split([full * self.block**2, rest**2], -1)
        return [
            first.unflatten(-1, (full, self.block, self.block)),
            last.unflatten(-1, (1, rest, rest)),
        ]

    def _rows(self, t: Tensor) -> list[Tensor]:
        """Rows (…, d, n) as (…, full, 30, n) and (…, 1, rest, n)."""
        full, rest = divmod(self.dim, self.block)
        first, last = t.split([full * self.block, rest], -2)
        return [
            first.unflatten(-2, (full, self.block)),
            last.unflatten(-2, (1, rest)),
        ]

    def _join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat([part.flatten(-3) for part in parts], -1)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Block by block."""
        pairs = zip(self._blocks(x), self._blocks(y), strict=True)
        return self._join([a @ b for a, b in pairs])

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        """Block by block."""
        pairs = zip(self._blocks(x), self._rows(columns), strict=True)
        parts = [(k.mT if transpose else k) @ t for k, t in pairs]
        return torch.cat([part.flatten(-3, -2) for part in parts], -2)

    def outer(self, x: Tensor) -> Tensor:
        """Block by block."""
        return self._join([k @ k.mT for k in self._blocks(x)])

    def project_inner(self, x: Tensor) -> Tensor:
        """Block by block."""
        return self._join([k.mT @ k for k in self._blocks(x)])

    def project_gram(self, rows: Tensor) -> Tensor:
        """Block by block."""
        return self._join([t @ t.mT for t in self._rows(rows)])


_ALL: tuple[type[Structure], ...] = (
    Dense,
    Diagonal,
    BlockDiagonal,
    Lower,
    Upper,
    LowerToeplitz,
    UpperToeplitz,
    Hierarchical,
    LowerRow,
    LowerColumn,
    UpperRow,
    UpperColumn,
)
STRUCTURES: dict[str, type[Structure]] = {kind.name: kind for kind in _ALL}


@lru_cache(maxsize=128)
def structure(name: str, dim: int) -> Structure:
    """A structure by name.

    Parameters
    ----------
    name : str
        dense, diagonal, block-diagonal (blocks of 30), lower, upper,
        lower-toeplitz, upper-toeplitz, hierarchical (15, 15), lower-row,
        lower-column, upper-row or upper-column (diagonal and one dense line).
    dim : int
        d, at least 1.

    Returns
    -------
    Structure
        The same object for the same arguments.

    Raises
    ------
    ValueError
        If there is no such structure, or d is not a positive integer.

    Examples
    --------
    >>> import torch
    >>> from anthology.linalg import structure
    >>> lower = structure("lower", 3)
    >>> k = lower.project(torch.ones(3, 3, dtype=torch.float64))
    >>> lower.dense(k)
    tensor([[1., 0., 0.],
            [2., 1., 0.],
            [2., 2., 1.]], dtype=torch.float64)
    """
    if name not in STRUCTURES:
        known = ", ".join(STRUCTURES)
        raise ValueError(f"Invalid structure: {name!r}; it must be one of {known}")
    return STRUCTURES[name](dim)
