"""Orthogonal bases near the eigenvectors of averaged Gram matrices; Adam in them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from anthology.linalg.decompositions import robust_eigh, robust_qr
from anthology.linalg.products import add_gram_, peak
from anthology.optim.core.rule import Group
from anthology.optim.core.state import State, real

from .stacks import Kept, axes_of, multiply, nonzero, unfold, whitened

# The average of the gradient in the basis. To turn it there and back when that changes
# costs less than to turn it at every step, if it changes rarely.
ROTATED = "exp_avg_rotated"


def average_of(axes: list[int], group: Group) -> str:
    """What the average of the gradient is called, by how it is kept."""
    return ROTATED if axes and group["refresh"] > 2 else "exp_avg"


def turned(x: Tensor, bases: Mapping[int, Tensor], back: bool = False) -> Tensor:
    """Turn a stack along each axis that has a basis."""
    for axis, basis in bases.items():
        x = multiply(x, basis if back else basis.mT, axis)
    return x


def turned_entry(x: Tensor, state: State, *, back: bool = False) -> Tensor:
    """The same with the bases of one tensor, which may be complex."""
    bases = {
        int(name.removeprefix("basis_")): real(basis)[None]
        for name, basis in state.items()
        if name.startswith("basis_")
    }
    y = turned(real(x)[None], bases, back)[0].contiguous()
    return torch.view_as_complex(y) if x.is_complex() else y


def adam_in_basis(g: Tensor, kept: Kept, step: float, group: Group) -> Tensor | None:
    """The moves of a stack; None where a first gradient only sets the bases."""
    (beta1, beta2), rho = group["betas"], group["basis_eps"]
    beta = beta2 if group["gram_beta"] is None else group["gram_beta"]
    order, axes = g.ndim - 1, axes_of(g.shape[1:], group)
    grams = {axis: kept[f"gram_{axis}"] for axis in axes}
    bases = {axis: kept[f"basis_{axis}"] for axis in axes}
    kl, by = group["factors"] == "kl", dict[int, Tensor]()

    def gather(axis: int) -> None:
        seen = whitened(g.detach(), axis, by) if kl else g.detach()
        kept[f"gram_{axis}"] = add_gram_(
            grams[axis], unfold(seen, axis), beta, 1 - beta
        )

    def know(axis: int, steps: float) -> None:
        if kl:
            by[axis] = _whitener(bases[axis], grams[axis], rho, beta**steps)

    if step <= 1:
        for axis in sorted(axes, key=lambda axis: -g.shape[axis + 1] * kl):
            gather(axis)
            bases[axis] = kept[f"basis_{axis}"] = _first_basis(grams[axis], rho)
            know(axis, 1)
        if group["skip_first"]:
            return None
    count = max(step - int(group["skip_first"]), 1)
    name, g_turned = average_of(axes, group), turned(g, bases)
    m = kept[name].lerp_(g_turned if name == ROTATED else g, 1 - beta1)
    v = kept["exp_avg_sq"].mul_(beta2).addcmul_(g_turned, g_turned, value=1 - beta2)
    # of which the slope is zero, not infinity, at zero
    root = torch.where(v > 0, nonzero(v).sqrt(), 0) if v.requires_grad else v.sqrt()
    eps = group["eps"]
    if group["relative_eps"]:
        eps = eps * root.flatten(1).amax(1) if order else eps * root
        eps = eps.reshape(-1, *(1,) * order)
    u = (m if name == ROTATED else turned(m, bases)) / nonzero(root + eps)
    move = turned(u, bases, back=True)
    if step > 1:
        for axis in axes:
            know(axis, step - 1)
        for axis in axes:
            gather(axis)
    if bases and count % group["refresh"] == 0:
        straight = turned(m, bases, back=True) if name == ROTATED else m
        for axis in axes:
            bases[axis], places = _next_basis(bases[axis], grams[axis], rho)
            kept[f"basis_{axis}"] = bases[axis]
            places = places.reshape(
                len(v), *(-1 if i == axis else 1 for i in range(order))
            )
            v = torch.take_along_dim(v, places, axis + 1)
        m = turned(straight, bases) if name == ROTATED else m
    kept[name], kept["exp_avg_sq"] = m, v
    size: float = math.sqrt(1 - beta2**count) / (1 - beta1**count)
    return move.mul(group["lr"] * size)


# Where a Gram matrix has no direction of its own (a gradient of low rank, two equal
# eigenvalues) rounding would choose one: a share ρ of the largest entry ranks the axes
# of the tensor there, and holds a basis where the gradient is silent.
def _first_basis(gram: Tensor, rho: float) -> Tensor:
    """The eigenvectors of L/‖L‖_max + ρD, largest eigenvalue first."""
    x = gram / peak(gram, (-2, -1))
    if rho:
        ranks = torch.linspace(1, 0, x.shape[-1], dtype=x.dtype, device=x.device)
        x = x + rho * torch.diag(ranks)
    return robust_eigh(x)[1].flip(-1)


def _next_basis(basis: Tensor, gram: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """One power step with L/‖L‖_max + ρI and a QR decomposition; the old places."""
    product = gram / peak(gram, (-2, -1)) @ basis
    order = (basis * product).sum(-2).argsort(dim=-1, descending=True, stable=True)
    product = product + rho * basis if rho else product
    columns = torch.take_along_dim(product, order[:, None, :], -1)
    return robust_qr(columns)[0], order


def _whitener(basis: Tensor, gram: Tensor, rho: float, missing: float) -> Tensor:
    """Λ^(−1/2)Qᵀ, with the eigenvalues that L has in a basis and a floor under them."""
    found = (basis * (gram @ basis)).sum(-2).clamp_min(0) / (1 - missing)
    least = max(rho, gram.shape[-1] * torch.finfo(gram.dtype).eps)
    found = found + least * found.amax(-1, keepdim=True)
    return basis.mT / nonzero(found).sqrt()[..., None]
