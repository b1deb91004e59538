"""Operations of the matrix products in a step, by the fewest known ways.

Element-wise work is bounded by the bytes it moves and is not counted. A product of
two matrices a × b and b × c is 2abc; one whose result is known to be symmetric needs
half of that, if a kernel computes one triangle only.
"""

from __future__ import annotations

from anthology.linalg.coefficients import coefficients
from anthology.linalg.polar import GRAM_STEPS

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


def polar(
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
