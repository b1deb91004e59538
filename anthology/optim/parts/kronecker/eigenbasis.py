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

from .blocks import nonzero


def first_basis(gram: Tensor, rho: float) -> Tensor:
    """The eigenvectors of L/‖L‖_max + ρD, largest eigenvalue first."""
    x = _scaled(gram)
    if rho:
        ranks = torch.linspace(1, 0, x.shape[-1], dtype=x.dtype, device=x.device)
        x = x + rho * torch.diag(ranks)
    return robust_eigh(x)[1].flip(-1)


def next_basis(basis: Tensor, gram: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """One power step with L/‖L‖_max + ρI and a QR decomposition."""
    product = _scaled(gram) @ basis
    order = (basis * product).sum(-2).argsort(dim=-1, descending=True, stable=True)
    product = product + rho * basis if rho else product
    columns = torch.take_along_dim(product, order[:, None, :], -1)
    return robust_qr(columns)[0], order


def whitener(basis: Tensor, gram: Tensor, rho: float, missing: float) -> Tensor:
    """Λ^(−1/2)Qᵀ, with the eigenvalues that L has in a basis and a floor under them."""
    found = (basis * (gram @ basis)).sum(-2).clamp_min(0) / (1 - missing)
    least = max(rho, gram.shape[-1] * torch.finfo(gram.dtype).eps)
    found = found + least * found.amax(-1, keepdim=True)
    return basis.mT / nonzero(found).sqrt()[..., None]


def reordered(v: Tensor, order: Tensor, axis: int) -> Tensor:
    """A tensor with its entries along an axis in another order."""
    shape = [len(v), *(-1 if i == axis else 1 for i in range(v.ndim - 1))]
    return torch.take_along_dim(v, order.reshape(shape), axis + 1)


def _scaled(gram: Tensor) -> Tensor:
    """A Gram matrix divided by its largest entry, which no eigenvector notices."""
    return gram / nonzero(gram.abs().amax((-2, -1), keepdim=True))
