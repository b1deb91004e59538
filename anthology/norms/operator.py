"""Norms on matrices that see columns, rows or entries.

W has shape (d_out, d_in), as in PyTorch. Most are induced norms, the largest factor
by which W can stretch a vector between two norms. Dual norms and steepest steps:
Bernstein & Newhouse 2024 (arXiv 2409.20325), Props 3 and 8, and Bernstein & Newhouse
2024 (arXiv 2410.21265) for the RMS-scaled ones.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from anthology.norms.base import Norm, conjugate, exponent
from anthology.norms.vector import lp_dualize, lp_norm


class _Slices(Norm):
    """The largest of the ℓp norms of the columns or of the rows, times a factor."""

    _ndim: ClassVar[int] = 2

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        """Axis along which a slice runs, its exponent, the factor."""
        raise NotImplementedError

    def _norm(self, x: Tensor) -> Tensor:
        axis, p, factor = self._slices(x)
        return lp_norm(x, p, axis).amax(-1) * factor

    def _dual(self, g: Tensor) -> Tensor:
        axis, p, factor = self._slices(g)
        return lp_norm(g, conjugate(p), axis).sum(-1) / factor

    def _dualize(self, g: Tensor) -> Tensor:
        axis, p, factor = self._slices(g)
        return lp_dualize(g, p, axis) / factor


@dataclass(frozen=True, repr=False)
class OneTo(_Slices):
    """ℓ1→ℓp: the largest ℓp norm of a column (Prop. 8).

    Dual norm: the sum of the columns' ℓq norms. Steepest step: each column
    dualized under ℓp; zero columns stay zero.

    Parameters
    ----------
    p : float
        At least 1, inf allowed.
    """

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", exponent(self.p))

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -2, self.p, 1.0


@dataclass(frozen=True, repr=False)
class OneToRMS(_Slices):
    """ℓ1→RMS: the largest RMS of a column, for tables whose columns are tokens.

    Dual norm: √d_out·Σ‖col‖₂. Steepest step: every column scaled to RMS 1; columns
    of tokens that were not seen stay zero.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -2, 2.0, 1 / math.sqrt(x.shape[-2])


@dataclass(frozen=True, repr=False)
class ToInf(_Slices):
    """ℓp→ℓ∞: the largest ℓq norm of a row, 1/p + 1/q = 1 (Prop. 8).

    Dual norm: the sum of the rows' ℓp norms. Steepest step: each row dualized
    under ℓq; zero rows stay zero.

    Parameters
    ----------
    p : float
        Exponent of the *input* norm, at least 1, inf allowed.
    """

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", exponent(self.p))

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, conjugate(self.p), 1.0


@dataclass(frozen=True, repr=False)
class RMSToInf(_Slices):
    """RMS→ℓ∞: √d_in times the largest Euclidean norm of a row, for output heads.

    Dual norm: Σ‖row‖₂/√d_in. Steepest step: row/(‖row‖₂√d_in).
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, 2.0, math.sqrt(x.shape[-1])


@dataclass(frozen=True, repr=False)
class RowL1(_Slices):
    """ℓ∞→ℓ∞: the largest ℓ1 norm of a row.

    Dual norm: Σ_i max_j|G_ij|. Steepest step: ±1 at the largest entry of each row,
    at the first one if several are as large.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, 1.0, 1.0


@dataclass(frozen=True, repr=False)
class ColumnL1(_Slices):
    """ℓ1→ℓ1: the largest ℓ1 norm of a column.

    Dual norm: Σ_j max_i|G_ij|. Steepest step: ±1 at the largest entry of each
    column, at the first one if several are as large.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -2, 1.0, 1.0


@dataclass(frozen=True, repr=False)
class MaxAbs(_Slices):
    """ℓ1→ℓ∞: the size of the largest entry, for sign descent by layers (Prop. 3).

    Dual norm: Σ|G_ij|. Steepest step: sign(G), with sign(0) = 0.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, math.inf, 1.0


@dataclass(frozen=True, repr=False)
class Frobenius(Norm):
    """√(Σ W_ij²): gradient descent on matrices. Its own dual, step G/‖G‖_F."""

    _ndim: ClassVar[int] = 2

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x.flatten(-2), 2)

    def _dual(self, g: Tensor) -> Tensor:
        return self._norm(g)

    def _dualize(self, g: Tensor) -> Tensor:
        out: Tensor = lp_dualize(g.flatten(-2), 2).unflatten(-1, g.shape[-2:])
        return out
