r"""Square matrices with structure, kept as the vector of their free entries.

A structure is a set of d × d matrices closed under addition and multiplication, in
which some entries are zero and others may be tied. *Packed*, a matrix is the vector of
its free entries: (\*batch, size) for (\*batch, d, d).

The inverse curvature near K is :math:`K e^m e^{m^\top} K^\top`; the Fisher metric of a
Gaussian with that covariance is, at m = 0 and up to a factor,
:math:`\tfrac12\lVert m + m^\top\rVert_F^2`. Patterns of diagonal entries and of pairs
(i, j), (j, i) have twice the metric of an entry whose mirror image is zero, one tied
over c places c times that of one. So a symmetric M as Euclidean gradient has the natural
gradient ½ Π̂(M), where Π̂ takes, for each free entry, the mean of w·M over its places,
w = 1 on the diagonal and where (j, i) is free too, w = 2 otherwise.

Structures: Lin et al. 2024 (arXiv 2312.05705), and the code published with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from anthology.linalg.products import peak, symmetric
from anthology.linalg.safe import require_numeric, working_dtype

_BLOCK, _CORNER = 30, 15
# of row i, column j and d: whether an entry is free; or its number, −1 for zero
_PATTERNS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "dense": lambda i, j, d: i + j >= 0,
    "diagonal": lambda i, j, d: i == j,
    "block-diagonal": lambda i, j, d: i // _BLOCK == j // _BLOCK,
    "lower": lambda i, j, d: i >= j,
    "upper": lambda i, j, d: i <= j,
    "lower-toeplitz": lambda i, j, d: (i - j).clamp(min=-1),
    "upper-toeplitz": lambda i, j, d: (j - i).clamp(min=-1),
    # [[A, B, B′], [0, C, 0], [0, D, E]]: A and E dense 15 × 15, C diagonal
    "hierarchical": lambda i, j, d: (
        (i == j) | (i < _CORNER) | ((i >= max(_CORNER, d - _CORNER)) & (j >= _CORNER))
    ),
    # the diagonal, and a line that keeps the matrix triangular
    "lower-row": lambda i, j, d: (i == j) | (i == d - 1),
    "lower-column": lambda i, j, d: (i == j) | (j == 0),
    "upper-row": lambda i, j, d: (i == j) | (i == 0),
    "upper-column": lambda i, j, d: (i == j) | (j == d - 1),
}
# where no index is to be built
_SIZES: dict[str, Callable[[int], int]] = {
    "dense": lambda d: d**2,
    "diagonal": lambda d: d,
    "block-diagonal": lambda d: d // _BLOCK * _BLOCK**2 + (d % _BLOCK) ** 2,
    "lower-toeplitz": lambda d: d,
    "upper-toeplitz": lambda d: d,
}


class Structure:
    """One structure for d × d matrices, made by `structure`; ``dim`` is d.

    A subclass gives another `pattern`, or faster ways.
    """

    symmetric: ClassVar[bool] = False
    """Whether transposes, and so K Kᵀ, lie in the structure."""

    def __init__(self, dim: int, name: str = "") -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"Invalid dim: {dim!r}; it must be an integer, at least 1")
        self.dim, self.name, self.is_lower = dim, name, name.startswith("lower")
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}

    def __repr__(self) -> str:
        return f"structure({self.name!r}, {self.dim})"

    def pattern(self) -> Tensor:
        """Which free entry stands where: (d, d) of int64, from 0; −1 for zero."""
        i = torch.arange(self.dim)
        found = _PATTERNS[self.name](i[:, None], i, self.dim)
        if found.dtype == torch.bool:
            numbers = found.flatten().long().cumsum(0).reshape(found.shape) - 1
            found = torch.where(found, numbers, -1)
        return found

    @property
    def size(self) -> int:
        """How many numbers a packed matrix has."""
        known = _SIZES.get(self.name)
        return known(self.dim) if known else self._index(torch.device("cpu"))[3].numel()

    def _index(self, device: torch.device) -> tuple[Tensor, ...]:
        """Places of the free entries by number, their numbers, weights, counts."""
        if device not in self._on:
            pattern = self.pattern().reshape(-1)
            numbers, places = pattern.sort(stable=True)
            places, numbers = places[numbers >= 0], numbers[numbers >= 0]
            mirror = pattern[places % self.dim * self.dim + places // self.dim]
            weights = torch.where(mirror >= 0, 1.0, 2.0).double()
            counts = torch.bincount(numbers).double()
            found = (places, numbers, weights, counts)
            self._on[device] = tuple(x.to(device) for x in found)
        return self._on[device]

    def dense(self, x: Tensor) -> Tensor:
        """The matrix itself: packed to (\\*batch, d, d)."""
        self._check(x, (self.size,))
        places, numbers, _, counts = self._index(x.device)
        values = x if len(counts) == len(numbers) else x[..., numbers]
        flat = x.new_zeros(*x.shape[:-1], self.dim**2)
        filled: Tensor = flat.index_copy(-1, places, values)
        return filled.reshape(*x.shape[:-1], self.dim, self.dim)

    def entries(self, matrix: Tensor) -> Tensor:
        """Pack a matrix of this structure, tied entries averaged, others not read."""
        self._check(matrix, (self.dim, self.dim))
        return self._means(matrix, weighted=False)

    def project(self, matrix: Tensor) -> Tensor:
        """Π̂, packed: twice the natural gradient that a symmetric (\\*batch, d, d) has."""
        self._check(matrix, (self.dim, self.dim))
        return self._means(matrix, weighted=True)

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        places, numbers, weights, counts = self._index(matrix.device)
        values = matrix.flatten(-2)[..., places].to(working_dtype(matrix.dtype))
        if weighted:
            values = values * weights.to(values.dtype)
        if len(counts) < len(numbers):
            sums = values.new_zeros(*values.shape[:-1], len(counts))
            sums = sums.index_add(-1, numbers, values)
            values = sums / counts.to(sums.dtype)
        return values.to(matrix.dtype)

    def identity(self, like: Tensor) -> Tensor:
        """The identity, packed, (size,), with the dtype and device of ``like``."""
        eye = torch.eye(self.dim, dtype=working_dtype(like.dtype), device=like.device)
        return self.entries(eye).to(like.dtype)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """The matrices that products are made of, one by one."""
        return [self.dense(x)]

    def _rows(self, t: Tensor) -> list[Tensor]:
        """The rows of T that each of them meets."""
        return [t]

    def _packed(self, blocks: list[Tensor], weighted: bool = False) -> Tensor:
        """Such matrices packed, or Π̂ of them."""
        return (self.project if weighted else self.entries)(*blocks)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two packed matrices, packed."""
        pairs = zip(self._blocks(x), self._blocks(y), strict=True)
        return self._packed([a @ b for a, b in pairs])

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        """K T, or Kᵀ T, for packed K and T of shape (\\*batch, d, n)."""
        dense = self.dense(x)
        return (dense.mT if transpose else dense) @ columns

    def apply_outer(self, x: Tensor, columns: Tensor) -> Tensor:
        """K Kᵀ T, by two products; as `apply`."""
        return self.apply(x, self.apply(x, columns, transpose=True))

    def outer(self, x: Tensor) -> Tensor:
        """K Kᵀ, packed; ValueError if it leaves the structure (see `symmetric`)."""
        if not self.symmetric:
            raise ValueError(f"K Kᵀ is not {self.name}; use apply_outer")
        return self._packed([symmetric(k, k.mT) for k in self._blocks(x)])

    def project_inner(self, x: Tensor) -> Tensor:
        """Π̂(KᵀK), packed, for packed K."""
        return self._packed([symmetric(k.mT, k) for k in self._blocks(x)], True)

    def project_gram(self, rows: Tensor) -> Tensor:
        """Π̂(A Aᵀ), packed, for A of shape (\\*batch, d, n)."""
        return self._packed([symmetric(t, t.mT) for t in self._rows(rows)], True)

    def trace(self, x: Tensor) -> Tensor:
        """tr K, of shape (\\*batch), in at least float32."""
        wide = x.to(working_dtype(x.dtype))
        return self.dense(wide).diagonal(dim1=-2, dim2=-1).sum(-1)

    def frobenius(self, x: Tensor) -> Tensor:
        """‖K‖_F, of shape (\\*batch), in at least float32; no square overflows."""
        self._check(x, (self.size,))
        wide = x.to(working_dtype(x.dtype))
        top, times = peak(wide, -1), self.multiplicity(wide)
        unit = wide / top * (times if isinstance(times, float) else times.sqrt())
        size: Tensor = torch.linalg.vector_norm(unit, dim=-1)
        return size * top[..., 0]

    def multiplicity(self, x: Tensor) -> Tensor | float:
        """In how many places each packed number stands, in the dtype of x."""
        return self._index(x.device)[3].to(x.dtype)

    def _check(self, x: Tensor, tail: tuple[int, ...]) -> None:
        require_numeric(x, f"{self!r}")
        if x.shape[-len(tail) :] != tail:
            raise ValueError(
                f"{self!r} expects a shape ending in {tail}, got {(*x.shape,)}"
            )


class _Untied(Structure):
    """Every free entry stands in one place, and so does that of the transpose."""

    symmetric = True

    def multiplicity(self, x: Tensor) -> Tensor | float:
        return 1.0


class Dense(_Untied):
    """Every entry free, packed row by row; no index is built."""

    def dense(self, x: Tensor) -> Tensor:
        self._check(x, (self.size,))
        out: Tensor = x.unflatten(-1, (self.dim, self.dim))
        return out

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        return matrix.flatten(-2)


class Diagonal(_Untied):
    """Entrywise products; neither an index nor anything dense is built."""

    def dense(self, x: Tensor) -> Tensor:
        self._check(x, (self.size,))
        return torch.diag_embed(x)

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        return matrix.diagonal(dim1=-2, dim2=-1).clone()

    def identity(self, like: Tensor) -> Tensor:
        return torch.ones(self.dim, dtype=like.dtype, device=like.device)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        return x.unsqueeze(-1) * columns

    def outer(self, x: Tensor) -> Tensor:
        return x.square()

    project_inner = outer

    def project_gram(self, rows: Tensor) -> Tensor:
        wide = rows.to(working_dtype(rows.dtype))
        return wide.square().sum(-1).to(rows.dtype)

    def trace(self, x: Tensor) -> Tensor:
        return x.to(working_dtype(x.dtype)).sum(-1)


class BlockDiagonal(_Untied):
    """Dense blocks of 30, and a smaller last one; products go block by block."""

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """Packed (…, size) as (…, full, 30, 30) and (…, 1, rest, rest)."""
        self._check(x, (self.size,))
        full, rest = divmod(self.dim, _BLOCK)
        first, last = x.split([full * _BLOCK**2, rest**2], -1)
        first = first.unflatten(-1, (full, _BLOCK, _BLOCK))
        return [first, last.unflatten(-1, (1, rest, rest))]

    def _rows(self, t: Tensor) -> list[Tensor]:
        """Rows (…, d, n) as (…, full, 30, n) and (…, 1, rest, n)."""
        full, rest = divmod(self.dim, _BLOCK)
        first, last = t.split([full * _BLOCK, rest], -2)
        return [first.unflatten(-2, (full, _BLOCK)), last.unflatten(-2, (1, rest))]

    def _packed(self, blocks: list[Tensor], weighted: bool = False) -> Tensor:
        return torch.cat([block.flatten(-3) for block in blocks], -1)

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        pairs = zip(self._blocks(x), self._rows(columns), strict=True)
        parts = [(k.mT if transpose else k) @ t for k, t in pairs]
        return torch.cat([part.flatten(-3, -2) for part in parts], -2)


class Toeplitz(Structure):
    """Triangular, constant along diagonals: d numbers, products commute."""

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """One row of the product decides it: a row times a matrix."""
        dense = self.dense(x)
        return (y.unsqueeze(-2) @ (dense.mT if self.is_lower else dense)).squeeze(-2)

    def _means(self, matrix: Tensor, weighted: bool) -> Tensor:
        """Means of the diagonals, sheared into columns, by one sum."""
        d, wide = self.dim, matrix.to(working_dtype(matrix.dtype))
        flat = pad(wide if self.is_lower else wide.mT, (d, 0)).flatten(-2)
        sheared = pad(flat, (0, d)).unflatten(-1, (d, 2 * d + 1))
        sums = sheared.sum(-2)[..., 1 : d + 1].flip(-1)
        means = sums / torch.arange(d, 0, -1, device=sums.device)
        if weighted:
            means = torch.cat([means[..., :1], 2 * means[..., 1:]], -1)
        out: Tensor = means.to(matrix.dtype)
        return out


_FASTER: dict[str, type[Structure]] = {
    "dense": Dense,
    "diagonal": Diagonal,
    "block-diagonal": BlockDiagonal,
    "lower-toeplitz": Toeplitz,
    "upper-toeplitz": Toeplitz,
}
STRUCTURES: dict[str, Callable[[int], Structure]] = {
    name: partial(_FASTER.get(name, Structure), name=name) for name in _PATTERNS
}
"""The structures by name, made from d."""


@lru_cache(maxsize=128)
def structure(name: str, dim: int) -> Structure:
    """A structure by name, of d × d matrices; the same object for the same arguments.

    Names are dense, diagonal, block-diagonal (blocks of 30), lower, upper,
    lower-toeplitz, upper-toeplitz, hierarchical (15, 15), lower-row, lower-column,
    upper-row and upper-column (diagonal and one dense line); ValueError for another,
    or where d is not a positive integer.

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
