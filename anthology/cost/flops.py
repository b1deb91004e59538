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
    *,
    groups: int | None = None,
    quintic: bool = True,
    symmetric: bool = True,
) -> float:
    """Odd polynomials of the singular values of one matrix, one after another.

    With m ≤ n the sides and Y = XXᵀ, the polynomials of a group are gathered in
    m × m and X is multiplied once a group.

    Parameters
    ----------
    rows, columns : int
        Shape of the matrix, in any order.
    polynomials : int
        How many, k.
    groups : int, optional
        How often Y is formed anew: k is the usual Newton-Schulz iteration, 1 the
        Gram form without restart. Default None: k.
    quintic : bool
        Whether they are aσ + bσ³ + cσ⁵; otherwise c = 0. Default True.
    symmetric : bool
        Whether symmetric results count half. Default True.

    Returns
    -------
    float
        Floating point operations: for quintics k(4m²n + 2m³) or k(3m²n + m³) with k
        groups, 4m²n + (8k − 6)m³ or 3m²n + (4k − 3)m³ with one.

    Examples
    --------
    >>> composed(10, 20, 5, symmetric=False) == 5 * (4 * 10**2 * 20 + 2 * 10**3)
    True
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
    *,
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
        found = coefficients("polar-express", steps or GRAM_STEPS)
    else:
        found = coefficients(method, steps)
    return composed(
        rows,
        columns,
        len(found),
        groups=len(found) if low_precision else 1,
        quintic=any(c for _, _, c in found),
        symmetric=symmetric,
    )


def kronecker(
    entries: int,
    axes: list[int],
    *,
    grams: float = 0.0,
    products: float = 0.0,
    cubic: float = 0.0,
    symmetric: bool = True,
) -> float:
    """Products of a tensor with one square matrix for each axis."""
    gram = 1.0 if symmetric else 2.0
    linear = (gram * grams + 2.0 * products) * entries * sum(axes)
    return linear + cubic * sum(d**3 for d in axes)
