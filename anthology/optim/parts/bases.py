"""Orthogonal bases near the eigenvectors of averaged Gram matrices.

Where a Gram matrix has no direction of its own (a gradient of low rank, two equal
eigenvalues) rounding chooses one, and Adam in that basis makes steps of it. A share
ρ of the largest entry takes the choice from rounding: it ranks the axes of the tensor
where the gradient does not, and holds a basis where the gradient is silent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anthology.linalg.decompositions import robust_eigh, robust_qr

from .kronecker import nonzero


def first_basis(gram: Tensor, rho: float) -> Tensor:
    """The eigenvectors of L/‖L‖_max + ρD, largest eigenvalue first.

    Parameters
    ----------
    gram : Tensor
        L, symmetric positive semi-definite, shape (n, d, d).
    rho : float
        ρ, of the diagonal D that falls evenly from one to zero.

    Returns
    -------
    Tensor
        Shape (n, d, d), a vector a column.
    """
    x = _scaled(gram)
    if rho:
        ranks = torch.linspace(1, 0, x.shape[-1], dtype=x.dtype, device=x.device)
        x = x + rho * torch.diag(ranks)
    return robust_eigh(x)[1].flip(-1)


def next_basis(basis: Tensor, gram: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """One power step with L/‖L‖_max + ρI and a QR decomposition.

    Parameters
    ----------
    basis, gram : Tensor
        Shape (n, d, d).
    rho : float
        ρ.

    Returns
    -------
    tuple of Tensor
        The new basis, and the order (n, d) in which it takes the columns of the old:
        by falling qᵀLq.
    """
    product = _scaled(gram) @ basis
    order = (basis * product).sum(-2).argsort(dim=-1, descending=True, stable=True)
    product = product + rho * basis if rho else product
    columns = torch.take_along_dim(product, order[:, None, :], -1)
    return robust_qr(columns)[0], order


def whitener(basis: Tensor, gram: Tensor, rho: float, missing: float) -> Tensor:
    """Λ^(−1/2)Qᵀ, with the eigenvalues that L has in a basis and a floor under them.

    Parameters
    ----------
    basis, gram : Tensor
        Q and L, shape (n, d, d).
    rho : float
        ρ, a share of the largest eigenvalue that is added to each.
    missing : float
        The share that an average from zero still lacks, βᵗ.

    Returns
    -------
    Tensor
        Shape (n, d, d); Qᵀ where L is zero.
    """
    found = (basis * (gram @ basis)).sum(-2).clamp_min(0) / (1 - missing)
    least = max(rho, gram.shape[-1] * torch.finfo(gram.dtype).eps)
    found = found + least * found.amax(-1, keepdim=True)
    return basis.mT / nonzero(found).sqrt()[..., None]


def reordered(v: Tensor, order: Tensor, axis: int) -> Tensor:
    """A tensor with its entries along an axis in another order.

    Parameters
    ----------
    v : Tensor
        Shape (n, *shape).
    order : Tensor
        Shape (n, d), of `next_basis`.
    axis : int
        The axis of shape that has length d.

    Returns
    -------
    Tensor
        Shape of `v`.
    """
    shape = [len(v), *(-1 if i == axis else 1 for i in range(v.ndim - 1))]
    return torch.take_along_dim(v, order.reshape(shape), axis + 1)


def _scaled(gram: Tensor) -> Tensor:
    """A Gram matrix divided by its largest entry, which no eigenvector notices."""
    return gram / nonzero(gram.abs().amax((-2, -1), keepdim=True))
