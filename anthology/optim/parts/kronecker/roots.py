"""What Shampoo makes of its factors: inverse roots, kept or not, and their product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.linalg import inverse_root
from anthology.linalg.products import add_gram_
from anthology.optim.core.state import State, real

from ..arithmetic import bias_correction
from .blocks import Block, cut, multiply, nonzero, unfold, whitened
from .stacked import batched, stacked

FACTORS = ("sum", "kl")
"""What a factor gathers: GGᵀ, or GS⁻¹Gᵀ/d with S the factor of the other side."""
SIDES = ("all", "one")
"""Which axes have a factor."""


def sides(shape: tuple[int, ...], group: Mapping[str, Any]) -> list[int]:
    """The axes of a tensor, or of a block, that have a factor."""
    if group["sides"] == "one":
        return [int(len(shape) == 2 and shape[1] < shape[0])]
    axes = list(range(len(shape)))
    if group["factors"] == "kl":
        axes.sort(key=lambda axis: -shape[axis])
    return axes


def root_of(order: int, group: Mapping[str, Any]) -> int:
    """The p of the exponents −1/p for a tensor with so many axes."""
    alone = group["factors"] == "kl" or group["sides"] == "one"
    return int(group["power"] or (2 if alone else 2 * order))


def keeps_roots(group: Mapping[str, Any]) -> bool:
    """Whether the roots are state: a later step, or another factor, needs them."""
    return bool(group["refresh"] > 1 or group["factors"] == "kl")


def preconditioned(
    grads: list[Tensor],
    averages: list[Tensor],
    states: list[State],
    steps: list[Any],
    group: Mapping[str, Any],
    joint: bool = True,
) -> list[Tensor]:
    """The averages of whole tensors, block by block, through `precondition`."""
    shapes = [tuple(g.shape) or (1,) for g in grads]
    raw = [g.reshape(s) for g, s in zip(grads, shapes, strict=True)]
    whole = [m.reshape(s) for m, s in zip(averages, shapes, strict=True)]
    moves: list[Tensor] = []
    alike: dict[tuple[int, ...], list[tuple[int, int, Block]]] = {}
    for i, shape in enumerate(shapes):
        blocks = cut(shape, group["max_dim"])
        moves.append(whole[i] if len(blocks) == 1 else torch.zeros_like(whole[i]))
        for b, block in enumerate(blocks):
            alike.setdefault(raw[i][block].shape, []).append((i, b, block))
    names = ("factor", "root") if keeps_roots(group) else ("factor",)
    for some in batched(alike, joint and not grads[0].is_cpu, joint):
        axes = sides(tuple(raw[some[0][0]][some[0][2]].shape), group)
        kept = {
            name: {a: [states[i][f"{name}_{b}_{a}"] for i, b, _ in some] for a in axes}
            for name in names
        }
        stacks = {
            name: {a: stacked(x) for a, x in kept[name].items()} for name in names
        }
        found = precondition(
            stacked([raw[i][block] for i, _, block in some]),
            stacked([whole[i][block] for i, _, block in some]),
            stacks["factor"],
            stacks.get("root"),
            [steps[i] for i, _, _ in some],
            group,
        )
        for (i, _, block), part in zip(some, found.unbind(), strict=True):
            if part.shape == moves[i].shape:
                moves[i] = part
            else:
                moves[i][block] = part
        for name in names if len(some) > 1 else ():
            for a, each in kept[name].items():
                torch._foreach_copy_(each, list(stacks[name][a].unbind()))
    return [u.reshape(g.shape) for u, g in zip(moves, grads, strict=True)]


def precondition(
    grads: Tensor,
    moments: Tensor,
    factors: Mapping[int, Tensor],
    roots: Mapping[int, Tensor] | None,
    steps: list[Any],
    group: Mapping[str, Any],
) -> Tensor:
    """Add gradients to their factors, refresh the roots, and apply these."""
    order = grads.ndim - 1
    power = root_of(order, group)
    due = _due(steps, group)
    weights = _weights(group["betas"][1], steps, grads)
    coupled = roots is not None and group["factors"] == "kl" and len(factors) > 1
    by = _whiteners(factors, roots) if coupled and roots is not None else {}
    for axis, factor in factors.items():
        young = _is_zero(factor) if coupled else None
        seen = whitened(grads, axis, by) if group["factors"] == "kl" else grads
        _gather(factor, seen, axis, group["betas"][1])
        column = weights.reshape(-1, *(1,) * (factor.ndim - 1))
        if roots is None:
            root = _root(factor / column, power, group)
        else:
            root = roots[axis]
            _refresh(root, factor, column, due, power, group)
            root = root.clone() if group["differentiable"] else root
        if young is not None:  # without a past it is taken as it is now
            by[axis] = torch.where(young, root, by[axis])
        if factor.ndim == 2:
            moments = moments * root
        else:
            moments = multiply(moments, root, axis, order)
    return moments


def _whiteners(
    factors: Mapping[int, Tensor], roots: Mapping[int, Tensor]
) -> dict[int, Tensor]:
    """The roots before the step; the identity where nothing was gathered yet."""
    eye = {
        axis: torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
        for axis, root in roots.items()
    }
    return {
        axis: torch.where(_is_zero(factor), eye[axis], roots[axis])
        for axis, factor in factors.items()
    }


def _is_zero(factor: Tensor) -> Tensor:
    return factor.detach().abs().amax((-2, -1), keepdim=True) == 0


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
    """The root that a tensor would have kept after so many steps with refresh = 1."""
    if not count:
        return torch.zeros_like(factor)
    weight = _weights(group["betas"][1], [count], factor)
    return _root(factor[None] / weight, root_of(order, group), group)[0]


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


def follow_roots(
    state: State, fresh: State, order: int, group: Mapping[str, Any]
) -> None:
    """Let roots begin or end to be kept, as the group asks since the last step."""
    step = float(state["step"])
    for name in [name for name in state if name.startswith("root_")]:
        del state[name]
    for name in [name for name in fresh if name.startswith("root_")]:
        factor = real(state[name.replace("root", "factor")])
        real(fresh[name]).copy_(kept_root(factor, step, order, group))
        state[name] = fresh[name]
