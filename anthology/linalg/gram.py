"""The polar factor by way of the small Gram matrix, in single precision at least."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from anthology.linalg.decompositions import robust_eigh
from anthology.linalg.products import commuting, gram, quadratic
from anthology.linalg.published import Coefficients

AT_ONCE = 4
"""How many polynomials may be gathered before the Gram matrix is formed anew."""


def gram_iteration(x: Tensor, polynomials: tuple[Coefficients, ...]) -> Tensor:
    """Odd polynomials of singular values, gathered into one small matrix.

    With Y = XXᵀ the polynomial p(σ) = σ·h(σ²) multiplies X by H = h(Y), and the next
    one sees HYH: the iterations happen in m × m. Rounding makes some of the zero
    eigenvalues of Y negative, and each polynomial enlarges them by its slope squared,
    so that many in a row leave the interval on which they converge. After at most
    four X is therefore multiplied by what was gathered and Y is formed anew. The
    squares cost half of the digits, about 1e-4 in the result in single precision, and
    it is no use in half precision.

    Parameters
    ----------
    x : Tensor
        Shape (..., m, n) with m ≤ n, of Frobenius norm 1 or zero.
    polynomials : tuple of (a, b, c)
        p(σ) = aσ + bσ³ + cσ⁵.

    Returns
    -------
    Tensor
        Shape of ``x``.
    """
    groups = -(-len(polynomials) // AT_ONCE)
    ends = [len(polynomials) * k // groups for k in range(groups + 1)]
    y = x.flatten(0, -3) if x.ndim > 2 else x[None]
    for start, end in pairwise(ends):
        y = torch.bmm(gathered(gram(y), polynomials[start:end]), y)
    return y.reshape(x.shape)


def gathers(x: Tensor, polynomials: tuple[Coefficients, ...]) -> bool:
    """Whether the Gram form gives the polynomials themselves, for less.

    With k polynomials it takes 4m²n + (8k − 6)m³ operations, where the plain
    iteration takes k(4m²n + 2m³). Rounding of the Gram matrix is enlarged by the
    square of the slope at zero, by 2·10⁵ for the five of "muon": in single precision
    this moves singular values by less than 1e-3. Half precision does not survive it.

    Parameters
    ----------
    x : Tensor
        Shape (..., m, n) with m ≤ n.
    polynomials : tuple of (a, b, c)
        To be applied.

    Returns
    -------
    bool
        True for n ≥ 1.5 m ≥ 96, in real single precision, if the slope allows it.
    """
    m, n = x.shape[-2:]
    slope = math.prod([p[0] for p in polynomials])
    wide = m >= 64 and 2 * n >= 3 * m and len(polynomials) > 1
    return wide and x.dtype == torch.float32 and slope <= 500


def gathered(y: Tensor, polynomials: tuple[Coefficients, ...]) -> Tensor:
    """The matrix by which the polynomials multiply X, from Y = XXᵀ.

    Parameters
    ----------
    y : Tensor
        Shape (batch, m, m).
    polynomials : tuple of (a, b, c)
        p(σ) = aσ + bσ³ + cσ⁵.

    Returns
    -------
    Tensor
        Shape of `y`.
    """
    found = None
    for k, (a, b, c) in enumerate(polynomials):
        h = quadratic(y, b, c)
        h.diagonal(dim1=-2, dim2=-1).add_(a)
        found = h if found is None else commuting(found, h)
        if k < len(polynomials) - 1:
            y = commuting(commuting(y, h), h)
    assert found is not None
    return found


def eigh_polar(x: Tensor) -> Tensor:
    """(XXᵀ)^(−1/2)X from an eigendecomposition, and one cubic step on it.

    Eigenvalues below 2√m·eps of the largest are rounding noise and are raised to
    that. A singular value that this or rounding has brought to between 0 and √3 the
    step (3σ − σ³)/2 takes nearer to 1; those of noise stay near zero.

    Parameters
    ----------
    x : Tensor
        Shape (..., m, n) with m ≤ n, of Frobenius norm 1 or zero, finite.

    Returns
    -------
    Tensor
        Shape of ``x``.
    """
    gram = x @ x.mH
    values, vectors = robust_eigh((gram + gram.mH) / 2)
    top = values[..., -1:]
    least = 2 * x.shape[-2] ** 0.5 * torch.finfo(values.dtype).eps
    base = torch.maximum(values, least * top)
    base = torch.where(top > 0, base, torch.ones_like(base))
    root = base.rsqrt().to(x.dtype)
    x = (vectors * root[..., None, :]) @ (vectors.mH @ x)
    return 1.5 * x - 0.5 * (x @ x.mH) @ x
