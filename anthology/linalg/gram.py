"""The polar factor by way of the small Gram matrix, in single precision at least."""

import torch
from torch import Tensor

from anthology.linalg.coefficients import Coefficients
from anthology.linalg.roots import robust_eigh


def gram_iteration(x: Tensor, polynomials: tuple[Coefficients, ...]) -> Tensor:
    """Odd polynomials of singular values, gathered into one small matrix.

    With Y = XXᵀ the polynomial p(σ) = σ·h(σ²) multiplies X by H = h(Y), and the next
    one sees HYH: all iterations happen in m × m, and X is read twice. The squares
    cost half of the digits, and rounding of one step is not seen by the next, so
    errors add up over the steps instead of being corrected: about 3e-3 after seven
    in single precision, and no use in half precision.

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
    eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    y, gathered = x @ x.mH, eye
    for a, b, c in polynomials:
        h = a * eye + b * y if c == 0 else a * eye + b * y + c * (y @ y)
        gathered = gathered @ h
        y = h @ y @ h
        y = (y + y.mH) / 2
    return gathered @ x


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
