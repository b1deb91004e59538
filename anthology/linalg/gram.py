"""The polar factor by way of the small Gram matrix, in single precision at least."""

from itertools import pairwise

import torch
from torch import Tensor

from anthology.linalg.coefficients import Coefficients
from anthology.linalg.roots import robust_eigh

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
    for start, end in pairwise(ends):
        x = _gathered(x @ x.mH, polynomials[start:end]) @ x
    return x


def _gathered(y: Tensor, polynomials: tuple[Coefficients, ...]) -> Tensor:
    """The matrix by which the polynomials multiply X, from Y = XXᵀ."""
    eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    gathered = eye
    for k, (a, b, c) in enumerate(polynomials):
        h = a * eye + b * y if c == 0 else a * eye + b * y + c * (y @ y)
        gathered = gathered @ h if k else h
        if k < len(polynomials) - 1:
            y = h @ y @ h
            y = (y + y.mH) / 2
    return gathered


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
