"""Norms on matrices that come from what a matrix does to vectors.

W has shape (d_out, d_in), as in PyTorch. Dual norms and steepest steps:
Bernstein & Newhouse 2024 (arXiv 2409.20325), Props 5 and 8, and Bernstein & Newhouse
2024 (arXiv 2410.21265) for the RMS-scaled ones.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.polar import (
    check_method,
    finite_polar,
    reduced_svd,
    singular_values,
)
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class OneToRMS(_Slices):
    """ℓ1→RMS: the largest RMS of a column, for tables whose columns are tokens.

    Dual norm: √d_out·Σ‖col‖₂. Steepest step: every column scaled to RMS 1; columns
    of tokens that were not seen stay zero.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -2, 2.0, 1 / math.sqrt(x.shape[-2])


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class RMSToInf(_Slices):
    """RMS→ℓ∞: √d_in times the largest Euclidean norm of a row, for output heads.

    Dual norm: Σ‖row‖₂/√d_in. Steepest step: row/(‖row‖₂√d_in).
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, 2.0, math.sqrt(x.shape[-1])


@dataclass(frozen=True)
class RowL1(_Slices):
    """ℓ∞→ℓ∞: the largest ℓ1 norm of a row.

    Dual norm: Σ_i max_j|G_ij|. Steepest step: ±1 at the largest entry of each row,
    at the first one if several are as large.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, 1.0, 1.0


@dataclass(frozen=True)
class ColumnL1(_Slices):
    """ℓ1→ℓ1: the largest ℓ1 norm of a column.

    Dual norm: Σ_j max_i|G_ij|. Steepest step: ±1 at the largest entry of each
    column, at the first one if several are as large.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -2, 1.0, 1.0


@dataclass(frozen=True)
class MaxAbs(_Slices):
    """ℓ1→ℓ∞: the largest |W_ij|. The norm of sign descent, layer by layer (Prop. 3).

    Dual norm: Σ|G_ij|. Steepest step: sign(G), with sign(0) = 0.
    """

    def _slices(self, x: Tensor) -> tuple[int, float, float]:
        return -1, math.inf, 1.0


@dataclass(frozen=True)
class Frobenius(Norm):
    """√(Σ W_ij²): gradient descent on matrices. Its own dual, step G/‖G‖_F."""

    _ndim: ClassVar[int] = 2

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x.flatten(-2), 2)

    def _dual(self, g: Tensor) -> Tensor:
        return self._norm(g)

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g.flatten(-2), 2).unflatten(-1, g.shape[-2:])


@dataclass(frozen=True)
class Schatten(Norm):
    """ℓp norm of the singular values.

    Dual norm: Schatten-q. Steepest step: U diag(σ^(q−1)) Vᵀ/‖σ‖_q^(q−1), without
    the singular values that rounding cannot tell from zero. ``Schatten(1)`` and
    ``Schatten(inf)`` behave as ``Nuclear`` and ``Spectral``.

    Parameters
    ----------
    p : float
        At least 1, inf allowed.
    """

    _ndim: ClassVar[int] = 2
    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", exponent(self.p))

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(singular_values(x), self.p)

    def _dual(self, g: Tensor) -> Tensor:
        return lp_norm(singular_values(g), conjugate(self.p))

    def _dualize(self, g: Tensor) -> Tensor:
        u, s, vh = reduced_svd(g)
        return (u * lp_dualize(s, self.p).to(u.dtype)[..., None, :]) @ vh


@dataclass(frozen=True)
class Nuclear(Norm):
    """Σσ_i (Schatten-1). Dual norm: σ₁. Steepest step: u₁v₁ᵀ, rank one.

    If σ₁ is repeated, u₁ and v₁ are the first pair the decomposition returns.
    """

    _ndim: ClassVar[int] = 2

    def _norm(self, x: Tensor) -> Tensor:
        return singular_values(x).sum(-1)

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(g)[..., 0]

    def _dualize(self, g: Tensor) -> Tensor:
        u, s, vh = reduced_svd(g)
        return u[..., :1] * s[..., :1, None].sgn().to(u.dtype) @ vh[..., :1, :]


@dataclass(frozen=True)
class Spectral(Norm):
    """ℓ2→ℓ2 (Schatten-∞): σ₁, the largest stretch of a vector (Prop. 5).

    Dual norm: Σσ_i. Steepest step: the polar factor UVᵀ; for rank r < min(m, n)
    the partial isometry U_r V_rᵀ (``anthology.linalg.polar`` says why).

    Parameters
    ----------
    method : str
        How ``dualize`` finds the polar factor: "svd" (exact) or one of the
        iterations of ``anthology.linalg.polar``. ``norm`` and ``dual`` are exact
        with every method.
    steps : int, optional
        Length of the iteration; None is the default of the method.
    """

    _ndim: ClassVar[int] = 2
    method: str = "svd"
    steps: int | None = None

    def __post_init__(self) -> None:
        check_method(self.method, self.steps)

    def _norm(self, x: Tensor) -> Tensor:
        return singular_values(x)[..., 0]

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(g).sum(-1)

    def _dualize(self, g: Tensor) -> Tensor:
        return finite_polar(g, self.method, self.steps)


@dataclass(frozen=True)
class RMSToRMS(Spectral):
    """RMS→RMS: √(d_in/d_out)·σ₁, the largest factor by which entries grow.

    Dual norm: √(d_out/d_in)·Σσ_i. Steepest step: √(d_out/d_in)·UVᵀ. Parameters as
    for ``Spectral``.
    """

    def _norm(self, x: Tensor) -> Tensor:
        return super()._norm(x) / _growth(x)

    def _dual(self, g: Tensor) -> Tensor:
        return super()._dual(g) * _growth(g)

    def _dualize(self, g: Tensor) -> Tensor:
        return super()._dualize(g) * _growth(g)


def _growth(x: Tensor) -> float:
    return math.sqrt(x.shape[-2] / x.shape[-1])


@dataclass(frozen=True)
class Conv(Norm):
    """Convolution kernels: K times the largest RMS→RMS norm of a kernel position.

    A kernel has shape (d_out, d_in, *space) and K = product of space positions;
    each position holds a matrix, and K·max bounds what their sum can do. Dual norm:
    the sum over positions of √(d_out/d_in)·Σσ_i, over K. Steepest step:
    √(d_out/d_in)·UVᵀ/K at each position. Source: Bernstein & Newhouse 2024
    (arXiv 2410.21265), the Conv2D module.

    Parameters
    ----------
    kernel_ndim : int
        Number of spatial axes, at least 1.
    method, steps
        As for ``Spectral``.
    """

    kernel_ndim: int
    method: str = "svd"
    steps: int | None = None

    def __post_init__(self) -> None:
        k = self.kernel_ndim
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"kernel_ndim must be an integer, got {k!r}")
        if k < 1:
            raise ValueError(f"kernel_ndim must be at least 1, got {k}")
        check_method(self.method, self.steps)

    @property
    def ndim(self) -> int:
        return 2 + self.kernel_ndim

    def _positions(self, x: Tensor) -> Tensor:
        """(*batch, d_out, d_in, *space) to (*batch, positions, d_out, d_in)."""
        return x.flatten(-self.kernel_ndim).movedim(-1, -3)

    def _norm(self, x: Tensor) -> Tensor:
        w = self._positions(x)
        return singular_values(w)[..., 0].amax(-1) * (w.shape[-3] / _growth(w))

    def _dual(self, g: Tensor) -> Tensor:
        w = self._positions(g)
        return singular_values(w).sum((-2, -1)) * (_growth(w) / w.shape[-3])

    def _dualize(self, g: Tensor) -> Tensor:
        w = self._positions(g)
        t = finite_polar(w, self.method, self.steps) * (_growth(w) / w.shape[-3])
        return t.movedim(-3, -1).unflatten(-1, g.shape[-self.kernel_ndim :])
