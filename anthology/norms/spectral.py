"""Norms on matrices (d_out, d_in) and kernels that see the singular values.

Dual norms and steepest steps: Bernstein & Newhouse 2024 (arXiv 2409.20325), Prop. 5, and
Bernstein & Newhouse 2024 (arXiv 2410.21265) for the RMS-scaled ones.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.polar import (
    check_method,
    raw_polar,
    reduced_svd,
    singular_values,
)
from anthology.norms.base import Norm, _WithExponent
from anthology.norms.lp import _Gauge, lp_dualize


@dataclass(frozen=True, repr=False)
class Schatten(_WithExponent, _Gauge):
    """ℓp norm of the singular values, p ≥ 1 (inf allowed).

    Dual norm: Schatten-q. Steepest step: U diag(σ^(q−1)) Vᵀ/‖σ‖_q^(q−1), without
    the singular values that rounding cannot tell from zero. ``Schatten(1)`` and
    ``Schatten(inf)`` behave as ``Nuclear`` and ``Spectral``.
    """

    _ndim: ClassVar[int] = 2

    def _numbers(self, x: Tensor) -> Tensor:
        return singular_values(x)

    def _dualize(self, g: Tensor) -> Tensor:
        u, s, vh = reduced_svd(g)
        return (u * lp_dualize(s, self.p).to(u.dtype)[..., None, :]) @ vh


@dataclass(frozen=True, repr=False)
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
        return (u[..., :1] * s[..., None, :1].to(u.dtype)) @ vh[..., :1, :]


@dataclass(frozen=True, repr=False)
class _Leading(Norm):
    """A norm that is told how many of the singular values it counts."""

    _ndim: ClassVar[int] = 2
    k: int

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int):
            raise TypeError(f"k must be an integer, got {self.k!r}")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def _leading(self, x: Tensor) -> Tensor:
        return singular_values(x)[..., : self.k].sum(-1)

    def _larger(self, x: Tensor) -> Tensor:
        s = singular_values(x)
        return torch.maximum(s[..., 0], s.sum(-1) / self.k)


@dataclass(frozen=True, repr=False)
class KyFan(_Leading):
    """Ky Fan norm: the sum of the k largest singular values.

    Dual norm: the larger of σ₁ and Σσ_i/k. Steepest step: u₁v₁ᵀ where that is σ₁, else
    UVᵀ/k. ``KyFan(1)`` behaves as ``Spectral``; with all of them it is ``Nuclear``.
    """

    def _norm(self, x: Tensor) -> Tensor:
        return self._leading(x)

    def _dual(self, g: Tensor) -> Tensor:
        return self._larger(g)

    def _dualize(self, g: Tensor) -> Tensor:
        u, s, vh = reduced_svd(g)
        flat = s.sum(-1, keepdim=True) > self.k * s[..., :1]
        first = torch.arange(s.shape[-1], device=s.device) == 0
        t = torch.where(flat, 1 / self.k, first.to(s.dtype)) * (s > 0)
        return (u * t.to(u.dtype)[..., None, :]) @ vh


@dataclass(frozen=True, repr=False)
class LowRank(_Leading):
    """The larger of σ₁ and Σσ_i/k, the norm whose dual is `KyFan`.

    Dual norm: the sum of the k largest singular values. Steepest step: U_kV_kᵀ, of
    rank at most k, the step that Dion approximates. ``LowRank(1)`` behaves as
    ``Nuclear``; where k is no smaller than a side it is ``Spectral``. If σ_k is
    repeated, the first k pairs count that the decomposition returns.
    """

    def _norm(self, x: Tensor) -> Tensor:
        return self._larger(x)

    def _dual(self, g: Tensor) -> Tensor:
        return self._leading(g)

    def _dualize(self, g: Tensor) -> Tensor:
        u, s, vh = reduced_svd(g)
        u, s, vh = u[..., : self.k], s[..., : self.k], vh[..., : self.k, :]
        return (u * (s > 0).to(u.dtype)[..., None, :]) @ vh


@dataclass(frozen=True, repr=False)
class Spectral(Norm):
    """ℓ2→ℓ2 (Schatten-∞): σ₁, the largest stretch of a vector (Prop. 5).

    Dual norm: Σσ_i. Steepest step: the polar factor UVᵀ; for rank r < min(m, n)
    the partial isometry U_r V_rᵀ (``anthology.linalg.polar`` says why).

    ``dualize`` finds it by ``method``: "svd" (exact, default) or an iteration of
    ``anthology.linalg.polar``, of so many ``steps`` (None: the default of the method);
    ``norm`` and ``dual`` are exact.
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
        return raw_polar(g, self.method, self.steps)


@dataclass(frozen=True, repr=False)
class RMSToRMS(Spectral):
    """RMS→RMS: √(d_in/d_out)·σ₁, the largest factor by which entries grow.

    Dual norm: √(d_out/d_in)·Σσ_i. Step: √(d_out/d_in)·UVᵀ. Parameters of ``Spectral``.
    """

    def _norm(self, x: Tensor) -> Tensor:
        return super()._norm(x) / _growth(x)

    def _dual(self, g: Tensor) -> Tensor:
        return super()._dual(g) * _growth(g)

    def _dualize(self, g: Tensor) -> Tensor:
        return super()._dualize(g) * _growth(g)


def _growth(x: Tensor) -> float:
    return math.sqrt(x.shape[-2] / x.shape[-1])


@dataclass(frozen=True, repr=False)
class Conv(Norm):
    """Convolution kernels: K times the largest RMS→RMS norm of a kernel position.

    A kernel has shape ``(d_out, d_in, *space)`` and K = product of space positions;
    each holds a matrix, and K·max bounds what their sum can do (`FlatConv` is the norm
    of published code, which flattens a kernel into one matrix). Dual norm:
    the sum over positions of √(d_out/d_in)·Σσ_i, over K. Steepest step:
    √(d_out/d_in)·UVᵀ/K at each position. Source: arXiv 2410.21265, Conv2D.

    ``kernel_ndim`` ≥ 1 is the number of spatial axes; the rest as for `Spectral`.
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
        t = raw_polar(w, self.method, self.steps) * (_growth(w) / w.shape[-3])
        out: Tensor = t.movedim(-3, -1).unflatten(-1, g.shape[-self.kernel_ndim :])
        return out


@dataclass(frozen=True, repr=False)
class FlatSpectral(Conv):
    """σ₁ of the flattened kernel, the norm under which Muon orthogonalises kernels.

    Dual norm: Σσ_i. Steepest step: UVᵀ, shaped as the kernel. For inputs whose
    pixels have length at most 1 a convolution makes pixels of length at most √K
    times this norm. Parameters as for `Conv`.

    Source: KellerJordan/Muon. Its factor √max(1, rows/columns) is taken of the last
    two axes of the kernel, not of the flat matrix, and is 1 for square kernels.
    """

    def _factor(self, x: Tensor) -> float:
        return 1.0

    def _flat(self, x: Tensor) -> Tensor:
        return x.flatten(-self.ndim + 1)

    def _norm(self, x: Tensor) -> Tensor:
        return singular_values(self._flat(x))[..., 0] * self._factor(x)

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(self._flat(g)).sum(-1) / self._factor(g)

    def _dualize(self, g: Tensor) -> Tensor:
        t = raw_polar(self._flat(g), self.method, self.steps)
        return t.reshape(g.shape) / self._factor(g)


@dataclass(frozen=True, repr=False)
class FlatConv(FlatSpectral):
    """K·√(d_in/d_out)·σ₁ of the flattened kernel, the norm of Scion's kernels.

    Dual norm: √(d_out/d_in)·Σσ_i/K. Steepest step: √(d_out/d_in)·UVᵀ/K, shaped as
    the kernel. Never less than `Conv`, so it bounds the convolution too; the step is
    smaller by a factor of up to √K. Parameters as for `Conv`.

    Source: Pethick et al. 2025 (arXiv 2502.07529) and LIONS-EPFL/scion.
    """

    def _factor(self, x: Tensor) -> float:
        d_out, d_in, *space = x.shape[-self.ndim :]
        return math.prod(space) * math.sqrt(d_in / d_out)
