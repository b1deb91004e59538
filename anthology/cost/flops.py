"""Operations of the matrix products in a step, by the fewest known ways.

Element-wise work is bounded by the bytes it moves and is not counted. A product of
two matrices a × b and b × c is 2abc; one whose result is known to be symmetric needs
half of that, if a kernel computes one triangle only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anthology.linalg.coefficients import coefficients
from anthology.linalg.polar import GRAM_STEPS
from anthology.norms import Norm, Scaled, Split, Transpose
from anthology.norms.spectral import (
    Conv,
    FlatSpectral,
    KyFan,
    LowRank,
    Nuclear,
    Schatten,
    Spectral,
)

# n³ of the decompositions of a symmetric n × n matrix, as LAPACK's books count them.
EIGH = 9.0
QR = 4 / 3


def composed(
    rows: int,
    columns: int,
    polynomials: int,
    groups: int | None = None,
    quintic: bool = True,
    symmetric: bool = True,
) -> float:
    """Odd polynomials of the singular values of a matrix, gathered in so many groups.

    k quintics take k(4m²n + 2m³), or k(3m²n + m³) where symmetry counts, m ≤ n, if
    Y = XXᵀ is formed anew for each (the default), and 4m²n + (8k − 6)m³ or
    3m²n + (4k − 3)m³ in one group, the Gram form.
    """
    m, n = sorted((rows, columns))
    groups = polynomials if groups is None else groups
    half = 0.5 if symmetric else 1.0
    squares = polynomials * (2.0 if quintic else 0.0)  # Y² of each quintic
    # between two polynomials of a group: HYH, two products, and the gathered times H
    inner = 6.0 * (polynomials - groups)
    outer = groups * (2.0 * half + 2.0) * m * m * n  # XXᵀ, and the result times X
    return outer + half * (squares + inner) * m**3


def polar_factor(
    rows: int,
    columns: int,
    method: str,
    steps: int | None = None,
    low_precision: bool = False,
    symmetric: bool = True,
) -> float:
    """One polar factor by a method of ``anthology.linalg.polar``."""
    m, n = sorted((rows, columns))
    half = 0.5 if symmetric else 1.0
    if m == 1:
        return 0.0  # a normalised row
    if method == "svd":
        return 8.0 * m * m * n + 20.0 * m**3
    if method == "eigh":  # Gram matrix, root, root times X, and a cubic step
        gram_and_root = 2 * half * m * m * n + (EIGH + 2 * half) * m**3
        cubic = composed(m, n, 1, quintic=False, symmetric=symmetric)
        return gram_and_root + 2.0 * m * m * n + cubic
    if method == "gram":
        method, steps = "polar-express", steps or GRAM_STEPS
    found = coefficients(method, steps)
    groups, quintic = len(found) if low_precision else 1, any(c for _, _, c in found)
    return composed(m, n, len(found), groups, quintic, symmetric)


def by_axes(
    numbers: int, axes: list[int], products: float, cubic: float, symmetric: bool
) -> float:
    """Of numbers with a square matrix for each axis, GGᵀ included, and in d³."""
    linear = ((1.0 if symmetric else 2.0) + 2.0 * products) * numbers * sum(axes)
    return linear + cubic * sum(d**3 for d in axes)


def dualized(norm: Norm, shape: tuple[int, ...], symmetric: bool) -> float:
    """One duality map of a norm."""
    padded = (*shape, *(1,) * (norm.ndim - len(shape)))
    work = 0.0
    for block, base in _blocks(norm, torch.empty(padded, device="meta")):
        if isinstance(base, Conv):
            space = block.shape[-(base.ndim - 2) :]
            rows, columns = block.shape[-base.ndim], block.shape[1 - base.ndim]
            columns *= math.prod(space) if isinstance(base, FlatSpectral) else 1
        elif isinstance(base, Spectral | Schatten | Nuclear | KyFan | LowRank):
            rows, columns = block.shape[-2:]
        else:
            continue
        method, steps = getattr(base, "method", "svd"), getattr(base, "steps", None)
        one = polar_factor(rows, columns, method, steps, False, symmetric)
        work += one * (block.numel() // max(rows * columns, 1))
    return work


def _blocks(norm: Norm, x: Tensor) -> list[tuple[Tensor, Norm]]:
    """What a norm made of others measures apart, and by which norm."""
    match norm:
        case Scaled():
            return _blocks(norm.base, x)
        case Transpose():
            return _blocks(norm.base, norm._turn(x))
        case Split():
            return [y for b in norm._blocks(x) for y in _blocks(norm.base, b)]
    return [(x, norm)]
