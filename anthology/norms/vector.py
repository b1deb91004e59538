"""Norms on vectors: the rulers of gradient descent, sign descent and their kin."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from anthology.linalg.safe import peak
from anthology.norms.base import Norm, conjugate, exponent


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


@dataclass(frozen=True, repr=False)
class Lp(Norm):
    """ℓp norm (Σ|x_i|^p)^(1/p) of a vector.

    Dual norm: ℓq with 1/p + 1/q = 1. Steepest step: sign(g)|g|^(q−1)/‖g‖_q^(q−1).
    ``Lp(1)`` and ``Lp(inf)`` behave as ``L1`` and ``LInf``.

    Parameters
    ----------
    p : float
        At least 1, inf allowed.
    """

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", exponent(self.p))

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x, self.p)

    def _dual(self, g: Tensor) -> Tensor:
        return lp_norm(g, conjugate(self.p))

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g, self.p)


class _FixedLp(Norm):
    """ℓp with the exponent in the name of the class."""

    _p: ClassVar[float]

    def _norm(self, x: Tensor) -> Tensor:
        return lp_norm(x, self._p)

    def _dual(self, g: Tensor) -> Tensor:
        return lp_norm(g, conjugate(self._p))

    def _dualize(self, g: Tensor) -> Tensor:
        return lp_dualize(g, self._p)


@dataclass(frozen=True, repr=False)
class L1(_FixedLp):
    """ℓ1 norm Σ|x_i|: coordinate descent.

    Dual norm: ℓ∞. Steepest step: ±1 at the entry of largest size, at the first one
    if several are as large.
    """

    _p: ClassVar[float] = 1.0


@dataclass(frozen=True, repr=False)
class L2(_FixedLp):
    """Euclidean norm: gradient descent. Its own dual; steepest step g/‖g‖₂."""

    _p: ClassVar[float] = 2.0


@dataclass(frozen=True, repr=False)
class LInf(_FixedLp):
    """ℓ∞ norm max|x_i|: sign descent (Bernstein & Newhouse 2024, Prop. 2).

    Dual norm: ℓ1. Steepest step: sign(g) with sign(0) = 0, the maximiser that does
    not move what has no gradient.
    """

    _p: ClassVar[float] = math.inf


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
