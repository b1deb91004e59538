r"""Square matrices with structure, kept as the vector of their free entries.

A structure is a set of d × d matrices closed under addition and multiplication, in
which some entries are zero and others may be tied. A matrix K of the set is its
*packed* vector (one number for each free entry), so sums and multiples are those of
the vectors. Batches are leading axes: packed (\*batch, size), dense (\*batch, d, d).

**The weights of the projection.** Near K the inverse curvature is
:math:`K e^m e^{m^\top} K^\top`, and at m = 0 the Fisher metric of a Gaussian with that
covariance is, up to one factor,

.. math::

   \langle m, m\rangle = \operatorname{tr}(m^2) + \operatorname{tr}(m m^\top)
   = \tfrac12\,\lVert m + m^\top\rVert_F^2 .

A symmetric M as Euclidean gradient has the natural gradient that solves
:math:`\langle x, E_s\rangle = \langle M, E_s\rangle_F` for the pattern
:math:`E_s` of each free entry s (least norm where the metric does not decide:
antisymmetric m change nothing). Patterns of diagonal entries and of pairs (i, j),
(j, i) have twice the metric of an entry whose mirror image is zero in the structure,
and an entry tied over c places c times that of one. So x = ½ Π̂(M), where Π̂ takes,
for each free entry, the mean of :math:`w_{ij} M_{ij}` over its places, w = 1 on
the diagonal and where (j, i) is free too, w = 2 otherwise.

Structures: Lin et al. 2024 (arXiv 2312.05705), and the code published with it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.products import symmetric
from anthology.linalg.safe import peak, require_numeric, working_dtype


class Structure:
    """One structure for d × d matrices; subclasses give `pattern`, or faster ways.

    Parameters
    ----------
    dim : int
        d, at least 1.

    Raises
    ------
    ValueError
        If d is not a positive integer.
    """

    name: ClassVar[str]
    symmetric: ClassVar[bool] = False
    """Whether transposes, and so K Kᵀ, lie in the structure."""

    def __init__(self, dim: int) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"Invalid dim: {dim!r}; it must be an integer, at least 1")
        self.dim = dim
        self._on: dict[torch.device, tuple[Tensor, ...]] = {}

    def __repr__(self) -> str:
        return f"structure({self.name!r}, {self.dim})"

    def pattern(self) -> Tensor:
        """Which free entry stands where.

        Returns
        -------
        Tensor
            (d, d) of int64: numbers from 0, every one used, −1 where zero stands.
        """
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many numbers a packed matrix has."""
        return int(self._index(torch.device("cpu"))[3].numel())

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
        """The matrix itself.

        Parameters
        ----------
        x : Tensor
            Packed, (\\*batch, size).

        Returns
        -------
        Tensor
            (\\*batch, d, d).
        """
        self._check(x, (self.size,))
        places, numbers, _, counts = self._index(x.device)
        values = x if len(counts) == len(numbers) else x[..., numbers]
        flat = x.new_zeros(*x.shape[:-1], self.dim**2)
        filled: Tensor = flat.index_copy(-1, places, values)
        return filled.reshape(*x.shape[:-1], self.dim, self.dim)

    def entries(self, matrix: Tensor) -> Tensor:
        """Pack a matrix of this structure; what lies outside it is not looked at.

        Parameters
        ----------
        matrix : Tensor
            (\\*batch, d, d).

        Returns
        -------
        Tensor
            (\\*batch, size), tied entries averaged.
        """
        self._check(matrix, (self.dim, self.dim))
        return self._means(matrix, weighted=False)

    def project(self, matrix: Tensor) -> Tensor:
        """Π̂: twice the natural gradient that a Euclidean gradient has here.

        Parameters
        ----------
        matrix : Tensor
            Symmetric, (\\*batch, d, d).

        Returns
        -------
        Tensor
            Packed, (\\*batch, size); the weights are derived in the module.
        """
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
        """The identity.

        Parameters
        ----------
        like : Tensor
            Gives dtype and device.

        Returns
        -------
        Tensor
            Packed, (size,).
        """
        eye = torch.eye(self.dim, dtype=working_dtype(like.dtype), device=like.device)
        return self.entries(eye).to(like.dtype)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """The product of two matrices of the structure.

        Parameters
        ----------
        x, y : Tensor
            Packed, (\\*batch, size).

        Returns
        -------
        Tensor
            Packed.
        """
        return self.entries(self.dense(x) @ self.dense(y))

    def apply(self, x: Tensor, columns: Tensor, transpose: bool = False) -> Tensor:
        """K T, or Kᵀ T.

        Parameters
        ----------
        x : Tensor
            K, packed, (\\*batch, size).
        columns : Tensor
            T, (\\*batch, d, n).
        transpose : bool
            Whether Kᵀ is applied. Default False.

        Returns
        -------
        Tensor
            (\\*batch, d, n).
        """
        dense = self.dense(x)
        return (dense.mT if transpose else dense) @ columns

    def apply_outer(self, x: Tensor, columns: Tensor) -> Tensor:
        """K Kᵀ T, by two products.

        Parameters
        ----------
        x, columns : Tensor
            As for `apply`.

        Returns
        -------
        Tensor
            (\\*batch, d, n).
        """
        return self.apply(x, self.apply(x, columns, transpose=True))

    def outer(self, x: Tensor) -> Tensor:
        """K Kᵀ itself, for the structures that contain it.

        Parameters
        ----------
        x : Tensor
            K, packed.

        Returns
        -------
        Tensor
            Packed.

        Raises
        ------
        ValueError
            If K Kᵀ leaves the structure (`symmetric` is False).
        """
        if not self.symmetric:
            raise ValueError(f"K Kᵀ is not {self.name}; use apply_outer")
        dense = self.dense(x)
        return self.entries(symmetric(dense, dense.mT))

    def project_inner(self, x: Tensor) -> Tensor:
        """Π̂(KᵀK).

        Parameters
        ----------
        x : Tensor
            K, packed.

        Returns
        -------
        Tensor
            Packed.
        """
        d = self.dense(x)
        return self.project(symmetric(d.mT, d))

    def project_gram(self, rows: Tensor) -> Tensor:
        """Π̂(A Aᵀ).

        Parameters
        ----------
        rows : Tensor
            A, (\\*batch, d, n).

        Returns
        -------
        Tensor
            Packed.
        """
        return self.project(symmetric(rows, rows.mT))

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
