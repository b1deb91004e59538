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
    """Odd polynomials of singular values, gathered into one small matrix."""
    groups = -(-len(polynomials) // AT_ONCE)
    ends = [len(polynomials) * k // groups for k in range(groups + 1)]
    y = x.flatten(0, -3) if x.ndim > 2 else x[None]
    for start, end in pairwise(ends):
        y = torch.bmm(gathered(gram(y), polynomials[start:end]), y)
    return y.reshape(x.shape)


def gathers(x: Tensor, polynomials: tuple[Coefficients, ...]) -> bool:
    """Whether the Gram form gives the polynomials themselves, for less."""
    m, n = x.shape[-2:]
    slope = math.prod([p[0] for p in polynomials])
    wide = m >= 64 and 2 * n >= 3 * m and len(polynomials) > 1
    return wide and x.dtype == torch.float32 and slope <= 500


def gathered(y: Tensor, polynomials: tuple[Coefficients, ...]) -> Tensor:
    """The matrix by which the polynomials multiply X, from Y = XXᵀ."""
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
    """(XXᵀ)^(−1/2)X from an eigendecomposition, and one cubic step on it."""
    gram = x @ x.mH
    values, vectors = robust_eigh((gram + gram.mH) / 2)
    top = values[..., -1:]
    least = 2 * x.shape[-2] ** 0.5 * torch.finfo(values.dtype).eps
    base = torch.maximum(values, least * top)
    base = torch.where(top > 0, base, torch.ones_like(base))
    root = base.rsqrt().to(x.dtype)
    x = (vectors * root[..., None, :]) @ (vectors.mH @ x)
    return 1.5 * x - 0.5 * (x @ x.mH) @ x
