"""Kronecker factors: one matrix for each axis of a tensor, or of a block of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from anthology.linalg import inverse_root, robust_eigh
from anthology.linalg.products import add_gram_, symmetric

from .averages import bias_correction

Block = tuple[slice, ...]


def cut(shape: tuple[int, ...], size: int) -> list[Block]:
    """Blocks with at most `size` entries along each axis.

    Parameters
    ----------
    shape : tuple of int
        Of the tensor; () counts as (1,).
    size : int
        The largest axis of a block.

    Returns
    -------
    list of tuple of slice
        In lexicographic order; together they cover the tensor once. None for an
        empty tensor.
    """
    axes = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length in shape or (1,)
    ]
    return list(product(*axes))


def unfold(x: Tensor, axis: int, order: int) -> Tensor:
    """The matrix whose rows are the slices of a tensor along an axis.

    Parameters
    ----------
    x : Tensor
        Shape ``(*batch, *shape)`` with `order` axes in shape.
    axis : int
        From 0 to order − 1, an axis of shape.
    order : int
        k, at least 1.

    Returns
    -------
    Tensor
        Shape ``(*batch, d, rest)`` with d the length of the axis.
    """
    x = x.movedim(axis - order, -order)
    return x.flatten(1 - order) if order > 1 else x.unsqueeze(-1)


def gram(x: Tensor, axis: int, order: int) -> Tensor:
    """XXᵀ of the matrix along an axis: GGᵀ for axis 0 of a matrix, GᵀG for axis 1.

    Parameters
    ----------
    x, axis, order
        As for `unfold`.

    Returns
    -------
    Tensor
        Shape ``(*batch, d, d)``.
    """
    flat = unfold(x, axis, order)
    return symmetric(flat, flat.mT)


def multiply(x: Tensor, matrix: Tensor, axis: int, order: int) -> Tensor:
    """A matrix applied along an axis: MX for axis 0 of a matrix, XMᵀ for axis 1.

    Parameters
    ----------
    x, axis, order
        As for `unfold`.
    matrix : Tensor
        Shape ``(*batch, d, d)``.

    Returns
    -------
    Tensor
        Shape of `x`.
    """
    if order > 1 and axis == order - 1:  # from the right, so that nothing is moved
        rows = x.flatten(1, -2) @ matrix.mT
        return rows.reshape(x.shape)
    flat = matrix @ unfold(x, axis, order)
    moved = x.movedim(axis - order, -order)
    return flat.reshape(moved.shape).movedim(-order, axis - order)


def precondition(
    grads: Tensor,
    moments: Tensor,
    factors: list[Tensor],
    roots: list[Tensor] | None,
    steps: list[Any],
    group: Mapping[str, Any],
) -> Tensor:
    """Add gradients to their factors, refresh the roots, and apply these.

    Parameters
    ----------
    grads, moments : Tensor
        Shape ``(n, *shape)``: what the factors gather, and what is preconditioned.
    factors, roots : list of Tensor
        One for each axis of shape, (n, d, d), or (n, d) for diagonal ones; written
        in place. Roots that are not kept are None.
    steps : list of float or Tensor
        n counts.
    group : mapping
        ``betas``, ``eps``, ``power``, ``refresh``, ``root`` and ``capturable``.

    Returns
    -------
    Tensor
        Shape ``(n, *shape)``.
    """
    order = grads.ndim - 1
    power = group["power"] or 2 * order
    due = _due(steps, group)
    weights = _weights(group["betas"][1], steps, grads)
    for axis, factor in enumerate(factors):
        _gather(factor, grads, axis, group["betas"][1])
        column = weights.reshape(-1, *(1,) * (factor.ndim - 1))
        if roots is None:
            root = _root(factor / column, power, group)
        else:
            root = roots[axis]
            _refresh(root, factor, column, due, power, group)
        if factor.ndim == 2:
            moments = moments * root
        else:
            moments = multiply(moments, root, axis, order)
    return moments


def _gather(factor: Tensor, grads: Tensor, axis: int, beta: float) -> None:
    """βL + (1−β)GGᵀ, or L + GGᵀ for β = 1, in place."""
    new = 1.0 if beta == 1 else 1 - beta
    if factor.ndim > 2:
        add_gram_(factor, unfold(grads, axis, grads.ndim - 1), beta, new)
    else:
        factor.mul_(beta).addcmul_(grads, grads, value=new)


def _refresh(
    root: Tensor,
    factor: Tensor,
    column: Tensor,
    due: list[bool] | Tensor,
    power: int,
    group: Mapping[str, Any],
) -> None:
    """Recompute the roots that are due."""
    if isinstance(due, Tensor):
        fresh = _root(factor / column, power, group)
        root.copy_(torch.where(due.reshape(-1, *column.shape[1:]), fresh, root))
    elif all(due):
        root.copy_(_root(factor / column, power, group))
    elif any(due):
        chosen = torch.tensor(due, device=root.device).nonzero()[:, 0]
        column = column[chosen] if len(column) > 1 else column
        root[chosen] = _root(factor[chosen] / column, power, group)


def kept_root(
    factor: Tensor, count: float, order: int, group: Mapping[str, Any]
) -> Tensor:
    """The root that a tensor would have kept after so many steps with refresh = 1.

    Parameters
    ----------
    factor : Tensor
        (d, d) or (d,).
    count : float
        Steps taken; 0 gives zeros.
    order : int
        k, how many axes the tensor has.
    group : mapping
        As for `precondition`.

    Returns
    -------
    Tensor
        Shape of `factor`.
    """
    if not count:
        return torch.zeros_like(factor)
    weight = _weights(group["betas"][1], [count], factor)
    return _root(factor[None] / weight, group["power"] or 2 * order, group)[0]


def _root(factor: Tensor, power: int, group: Mapping[str, Any]) -> Tensor:
    eps = group["eps"]
    if factor.ndim > 2:
        if not group["relative_eps"]:
            return inverse_root(factor, power, group["root"], epsilon=eps)
        top = nonzero(factor.abs().amax((-2, -1), keepdim=True))
        root = inverse_root(factor / top, power, group["root"], epsilon=eps)
        return root * top ** (-1 / power)
    if group["relative_eps"]:
        eps = eps * factor.amax(-1, keepdim=True)
    base = factor + eps
    return torch.where(base > 0, nonzero(base) ** (-1 / power), 0)


def _due(steps: list[Any], group: Mapping[str, Any]) -> list[bool] | Tensor:
    """Which roots are to be refreshed at these steps: 1, 1 + T, 1 + 2T, …"""
    if group["refresh"] == 1:
        return [True] * len(steps)
    if isinstance(steps[0], Tensor):
        counts = torch.stack(steps)
        if group["capturable"]:
            found: list[bool] | Tensor = (counts - 1) % group["refresh"] == 0
            return found
        steps = counts.tolist()
    return [(count - 1) % group["refresh"] == 0 for count in steps]


def _weights(beta: float, steps: list[Any], like: Tensor) -> Tensor:
    """What an average has gathered after so many steps; shape (n,) or (1,)."""
    if beta == 1:
        return like.new_ones(1)
    if isinstance(steps[0], Tensor):
        return torch.as_tensor(bias_correction(beta, torch.stack(steps), like.dtype))
    found = [bias_correction(beta, count, like.dtype) for count in steps]
    return like.new_tensor(found if len(set(found)) > 1 else found[:1])


def nonzero(x: Tensor) -> Tensor:
    """`x` with ones in place of zeros, to divide by."""
    return torch.where(x == 0, torch.ones_like(x), x)


def dominate(factor: Tensor, gathered: Tensor, bound: str = "frobenius") -> Tensor:
    """A bound from above on (L⁻¹ + GGᵀ)⁻¹ by products alone.

    Parameters
    ----------
    factor : Tensor
        L, symmetric positive semi-definite, shape (..., d, d).
    gathered : Tensor
        GGᵀ, the same shape.
    bound : str
        "frobenius" or "trace", the size of GGᵀL; see `KrADagrad`.

    Returns
    -------
    Tensor
        L − LGGᵀL/(1 + size), symmetric, the same shape.
    """
    product = gathered @ factor
    if bound == "trace":
        size = product.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    else:
        top = nonzero(product.abs().amax((-2, -1), keepdim=True))
        size = torch.linalg.matrix_norm(product / top, keepdim=True) * top
    lower = factor - symmetric(factor, product / (1 + size))
    return (lower + lower.mT) / 2


def positive_root(factor: Tensor, power: int) -> Tensor:
    """L^(1/p); eigenvalues that rounding made negative count as zero.

    Parameters
    ----------
    factor : Tensor
        L, symmetric, shape (..., d, d).
    power : int
        p, at least 1.

    Returns
    -------
    Tensor
        The same shape.
    """
    top = nonzero(factor.abs().amax((-2, -1), keepdim=True))
    values, vectors = robust_eigh(factor / top)
    values = values.clamp_min(0) ** (1 / power)
    root = symmetric(vectors * values[..., None, :], vectors.mT)
    return root * top ** (1 / power)
