"""How good a step is for a gradient under the spectral norm, measured."""

from typing import NamedTuple

import torch
from torch import Tensor

from anthology.linalg.polar import singular_values
from anthology.linalg.safe import peak, poison, require_numeric, working_dtype


class Certificate(NamedTuple):
    """How good an approximate polar factor is, each entry of the batch shape.

    ``efficiency`` is ⟨G, X⟩/(‖G‖_*·‖X‖₂), the share of the steepest descent that a
    step along X attains: at most 1, and 1 for the exact factor. ``sigma_min`` and
    ``sigma_max`` are the extreme singular values of X, both 1 for the exact factor
    of a full-rank G.
    """

    efficiency: Tensor
    sigma_min: Tensor
    sigma_max: Tensor


def certificate(G: Tensor, X: Tensor) -> Certificate:
    """Measure X as a steepest direction for G under the spectral norm.

    Parameters
    ----------
    G, X : Tensor
        Same shape (..., m, n) with m, n ≥ 1; computed in the wider of their
        precisions, in single precision at least.

    Returns
    -------
    Certificate
        Efficiency (1 if G is zero, otherwise 0 if X is zero), least and greatest
        singular value of X; NaN where an entry is not finite.

    Raises
    ------
    ValueError
        If the shapes differ or are not those of non-empty matrices.
    """
    require_numeric(G, "certificate")
    require_numeric(X, "certificate")
    if G.shape != X.shape or G.ndim < 2 or 0 in G.shape[-2:]:
        raise ValueError(
            "certificate needs two non-empty matrices of one shape, got "
            f"{tuple(G.shape)} and {tuple(X.shape)}"
        )
    dtype = working_dtype(torch.promote_types(G.dtype, X.dtype))
    g, x = G.to(dtype), X.to(dtype)
    spoiled = poison(g, 2) + poison(x, 2)
    sigma = singular_values(x)
    g, x = g / peak(g, (-2, -1)), x / peak(x, (-2, -1))
    gain = (g.conj() * x).sum((-2, -1)).real
    best = singular_values(g).sum(-1) * singular_values(x)[..., 0]
    share = torch.where(best > 0, gain / torch.where(best > 0, best, 1), 0)
    share = torch.where(g.abs().amax((-2, -1)) > 0, share, 1)
    return Certificate(
        share + spoiled, sigma[..., -1] + spoiled, sigma[..., 0] + spoiled
    )
