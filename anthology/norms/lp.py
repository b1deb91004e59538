"""ℓp norms: of vectors, and of the columns, rows and entries of matrices (d_out, d_in).

Dual norms and steepest steps: Bernstein & Newhouse 2024 (arXiv 2409.20325), Props 2, 3
and 8, and Bernstein & Newhouse 2024 (arXiv 2410.21265) for the RMS-scaled ones.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.products import peak
from anthology.norms.base import Norm, _WithExponent, conjugate


def lp_norm(x: Tensor, p: float, dim: int = -1) -> Tensor:
    """‖x‖_p along one axis, whatever the scale of each slice."""
    if p in (1, math.inf):
        # Sums and maxima of moduli cannot overflow below the largest float.
        sums: Tensor = torch.linalg.vector_norm(x, p, dim)
        return sums
    scale = peak(x, dim)
    out: Tensor = torch.linalg.vector_norm(x / scale, p, dim) * scale.squeeze(dim)
    return out


def lp_dualize(g: Tensor, p: float, dim: int = -1) -> Tensor:
    """The t of ‖t‖_p = 1 with ⟨g, t⟩ = ‖g‖_q along one axis; 0 where g is 0."""
    if p == math.inf:
        return torch.sgn(g)
    if p == 1:
        first = g.abs().argmax(dim, keepdim=True)
        return torch.zeros_like(g).scatter(dim, first, torch.sgn(g.gather(dim, first)))
    u = g / peak(g, dim)
    if p == 2:
        size = torch.linalg.vector_norm(u, 2, dim, keepdim=True)
        return u / torch.where(size > 0, size, torch.ones_like(size))
    q = conjugate(p)
    total = u.abs().pow(q).sum(dim, keepdim=True)
    total = torch.where(total > 0, total, torch.ones_like(total))
    return torch.sgn(g) * (u.abs().pow(q - 1) / total.pow(1 / p))


class _Gauge(Norm):
    """ℓp of the numbers that a point has: its entries, or its singular values."""

    _p: float

    def _numbers(self, x: Tensor) -> Tensor:
        return x

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(self._numbers(x), self._p)

    def _dual(self, g: Tensor) -> Tensor:
        return lp_norm(self._numbers(g), conjugate(self._p))

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g, self._p)


class _Slices(Norm):
    """The largest of the ℓp norms of a matrix's columns or rows, times a factor."""

    _ndim: ClassVar[int] = 2
    _axis: ClassVar[int]
    _p: float = 2.0

    def _factor(self, x: Tensor) -> float:
        return 1.0

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x, self._p, self._axis).amax(-1) * self._factor(x)

    def _dual(self, g: Tensor) -> Tensor:
        sizes = lp_norm(g, conjugate(self._p), self._axis)
        return sizes.sum(-1) / self._factor(g)

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g, self._p, self._axis) / self._factor(g)


@dataclass(frozen=True, repr=False)
class Lp(_WithExponent, _Gauge):
    """ℓp norm (Σ|x_i|^p)^(1/p) of a vector, p ≥ 1 (inf allowed).

    Dual norm: ℓq with 1/p + 1/q = 1. Steepest step: sign(g)|g|^(q−1)/‖g‖_q^(q−1).
    ``Lp(1)`` and ``Lp(inf)`` behave as ``L1`` and ``LInf``.
    """


@dataclass(frozen=True, repr=False)
class L1(_Gauge):
    """ℓ1 norm Σ|x_i|: coordinate descent.

    Dual norm: ℓ∞. Steepest step: ±1 at the entry of largest size, at the first one
    if several are as large.
    """

    _p = 1.0


@dataclass(frozen=True, repr=False)
class L2(_Gauge):
    """Euclidean norm: gradient descent. Its own dual; steepest step g/‖g‖₂."""

    _p = 2.0


@dataclass(frozen=True, repr=False)
class LInf(_Gauge):
    """ℓ∞ norm max|x_i|: sign descent (Prop. 2).

    Dual norm: ℓ1. Steepest step: sign(g) with sign(0) = 0, the maximiser that does
    not move what has no gradient.
    """

    _p = math.inf


@dataclass(frozen=True, repr=False)
class RMS(Norm):
    """Root mean square ‖x‖₂/√n of n entries: a length that does not grow with n.

    Dual norm: √n‖g‖₂. Steepest step: √n·g/‖g‖₂.
    """

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x, 2) / math.sqrt(x.shape[-1])

    def _dual(self, g: Tensor) -> Tensor:
        return lp_norm(g, 2) * math.sqrt(g.shape[-1])

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g, 2) * math.sqrt(g.shape[-1])


@dataclass(frozen=True, repr=False)
class Frobenius(_Gauge):
    """√(Σ W_ij²): gradient descent on matrices. Its own dual, step G/‖G‖_F."""

    _ndim: ClassVar[int] = 2
    _p = 2.0

    def _numbers(self, x: Tensor) -> Tensor:
        return x.flatten(-2)

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g.flatten(-2), 2).reshape(g.shape)


@dataclass(frozen=True, repr=False)
class OneTo(_WithExponent, _Slices):
    """ℓ1→ℓp: the largest ℓp norm of a column, p ≥ 1, inf allowed (Prop. 8).

    Dual norm: the sum of the columns' ℓq norms. Steepest step: each column
    dualized under ℓp; zero columns stay zero.
    """

    _axis = -2


@dataclass(frozen=True, repr=False)
class OneToRMS(_Slices):
    """ℓ1→RMS: the largest RMS of a column, for tables whose columns are tokens.

    Dual norm: √d_out·Σ‖col‖₂. Steepest step: every column scaled to RMS 1; columns
    of tokens that were not seen stay zero.
    """

    _axis = -2

    def _factor(self, x: Tensor) -> float:
        return 1 / math.sqrt(x.shape[-2])


@dataclass(frozen=True, repr=False)
class ToInf(_WithExponent, _Slices):
    """ℓp→ℓ∞: the largest ℓq norm of a row, 1/p + 1/q = 1 (Prop. 8).

    p, of the *input* norm, is at least 1, inf allowed. Dual norm: the sum of the rows'
    ℓp norms. Steepest step: each row dualized under ℓq; zero rows stay zero.
    """

    _axis = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_p", conjugate(self.p))


@dataclass(frozen=True, repr=False)
class RMSToInf(_Slices):
    """RMS→ℓ∞: √d_in times the largest Euclidean norm of a row, for output heads.

    Dual norm: Σ‖row‖₂/√d_in. Steepest step: row/(‖row‖₂√d_in).
    """

    _axis = -1

    def _factor(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-1])


@dataclass(frozen=True, repr=False)
class RowL1(_Slices):
    """ℓ∞→ℓ∞: the largest ℓ1 norm of a row.

    Dual norm: Σ_i max_j|G_ij|. Steepest step: ±1 at the largest entry of each row,
    at the first one if several are as large.
    """

    _axis, _p = -1, 1.0


@dataclass(frozen=True, repr=False)
class ColumnL1(_Slices):
    """ℓ1→ℓ1: the largest ℓ1 norm of a column.

    Dual norm: Σ_j max_i|G_ij|. Steepest step: ±1 at the largest entry of each
    column, at the first one if several are as large.
    """

    _axis, _p = -2, 1.0


@dataclass(frozen=True, repr=False)
class MaxAbs(_Slices):
    """ℓ1→ℓ∞: the size of the largest entry, for sign descent by layers (Prop. 3).

    Dual norm: Σ|G_ij|. Steepest step: sign(G), with sign(0) = 0.
    """

    _axis, _p = -1, math.inf
