"""Every norm of the package with the shape of a point, shared by its tests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from anthology import norms as N

INF = float("inf")


@dataclass(frozen=True)
class Case:
    """A norm, the shape of one point, and what must divide its first axis."""

    norm: N.Norm
    shape: tuple[int, ...]
    parts: int = 1

    def __str__(self) -> str:
        return repr(self.norm)


VECTOR_NORMS = [N.L1(), N.L2(), N.LInf(), N.RMS()]
VECTOR_NORMS += [N.Lp(p) for p in (1, 1.5, 3, INF)]
MATRIX_NORMS = [N.Frobenius(), N.Spectral(), N.Nuclear(), N.RMSToRMS()]
MATRIX_NORMS += [N.Schatten(p) for p in (1, 1.5, 4, INF)]
MATRIX_NORMS += [N.KyFan(2), N.LowRank(2), N.KyFan(9), N.LowRank(9)]
MATRIX_NORMS += [N.OneTo(p) for p in (1, 2, 3)]
MATRIX_NORMS += [N.ToInf(p) for p in (1, 2, 1.5)]
MATRIX_NORMS += [N.OneToRMS(), N.RMSToInf(), N.MaxAbs(), N.RowL1(), N.ColumnL1()]

VECTORS = [Case(norm, (7,)) for norm in VECTOR_NORMS]
MATRICES = [Case(norm, (4, 3)) for norm in MATRIX_NORMS]
KERNELS = [
    Case(N.Conv(1), (4, 3, 2)),
    Case(N.Conv(2), (3, 4, 2, 3)),
    Case(N.Conv(3), (2, 3, 1, 2, 2)),
    Case(N.FlatConv(2), (3, 4, 2, 3)),
    Case(N.FlatSpectral(1), (4, 3, 2)),
]
BUILT = [
    Case(2.5 * N.RMSToRMS(), (3, 5)),
    Case(N.Transpose(N.OneToRMS()), (5, 3)),
    Case(N.Transpose(N.Conv(2)), (4, 3, 2, 2)),
    Case(N.Split(N.RMSToRMS(), 3), (6, 2), parts=3),
    Case(N.Split(N.Transpose(N.Conv(1)), 2), (4, 3, 2), parts=2),
]
CASES = VECTORS + MATRICES + KERNELS + BUILT


def draw(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Normal numbers in double precision, from a seed of their own."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def orthogonal(n: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix in double precision."""
    return torch.linalg.qr(draw((n, n), seed)).Q


def inner(g: Tensor, t: Tensor, ndim: int) -> Tensor:
    """⟨g, t⟩ = Re Σ ḡ·t over the last ``ndim`` axes, in double precision."""
    wide = torch.complex128 if g.is_complex() else torch.float64
    product = g.to(wide).conj() * t.to(wide)
    return product.real.flatten(-ndim).sum(-1)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest size expected (absolute if that is 0)."""
    top = expected.abs().max().item()
    return (actual - expected).abs().max().item() / (top or 1.0)
