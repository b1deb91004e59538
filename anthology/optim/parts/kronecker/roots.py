"""Shampoo's factors on stacks of blocks, their roots, and the averages around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.linalg import inverse_root
from anthology.linalg.products import add_gram_
from anthology.optim.core.rule import Group
from anthology.optim.core.state import (
    NewState,
    State,
    States,
    Tensors,
    fresh_state,
    real,
)

from ..arithmetic import bias_correction, each
from .stacks import Block, Kept, cut, multiply, nonzero, unfold, whitened

# What a factor gathers, GGᵀ or GS⁻¹Gᵀ/d with S the factor of the other side; and which
# axes have one.
FACTORS = ("sum", "kl")
SIDES = ("all", "one")
GRAFTING = ("none", "sgd", "rms")  # whose length a step can have


def numbered(x: Tensor, group: Group) -> list[tuple[str, Block]]:
    """The blocks of a tensor, and what the names of their factors begin with."""
    return [(f"{b}_", s) for b, s in enumerate(cut(tuple(x.shape), group["max_dim"]))]


def sides(shape: Sequence[int], group: Group) -> list[int]:
    """The axes of a block that have a factor, in the order in which these learn."""
    if group["sides"] == "one":
        return [int(len(shape) == 2 and shape[1] < shape[0])]
    axes = list(range(len(shape)))
    if group["factors"] == "kl":
        axes.sort(key=lambda axis: -shape[axis])
    return axes


def keeps_roots(group: Group) -> bool:
    """Whether the roots are state: a later step, or another factor, needs them."""
    needed = group.get("factors") == "kl" or group.get("variant") == "mm"
    return bool(needed or group["refresh"] > 1)


def follow_roots(
    p: Tensor,
    state: State,
    group: Group,
    new_state: NewState,
    root: Callable[[Tensor], Tensor],
) -> None:
    """Let roots begin or end to be kept, as the group asks since the last step."""
    names = [name for name in state if name.startswith("factor_")]
    pairs = {name: name.replace("factor", "root") for name in names}
    keeps = keeps_roots(group)
    if all((name in state) == keeps for name in pairs.values()):
        return
    fresh = fresh_state(p, group, new_state) if keeps else {}
    for factor, name in pairs.items():
        state.pop(name, None)
        if keeps:
            if state["step"]:
                real(fresh[name]).copy_(root(real(state[factor])))
            state[name] = fresh[name]


def preconditioned(
    g: Tensor, moments: Tensor, kept: Kept, step: Any, group: Group
) -> Tensor:
    """Add gradients to their factors, refresh the roots, and apply these to moments."""
    axes, beta = sides(g.shape[1:], group), group["betas"][1]
    due = group["refresh"] == 1 or (step - 1) % group["refresh"] == 0
    kl = group["factors"] == "kl"
    by: dict[int, Tensor] = {}
    if kl and len(axes) > 1:  # the roots before the step
        by = {a: _known(kept[f"factor_{a}"], kept[f"root_{a}"]) for a in axes}
    for a in axes:
        factor = kept[f"factor_{a}"]
        young = _is_zero(factor) if by else None
        seen, new = whitened(g, a, by) if kl else g, 1 if beta == 1 else 1 - beta
        if factor.ndim > 2:
            factor = add_gram_(factor, unfold(seen, a), beta, new)
        else:
            factor = factor.mul_(beta).addcmul_(seen, seen, value=new)
        kept[f"factor_{a}"] = factor
        if due is not False:
            fresh = inverted(factor, step, g.ndim - 1, group)
            if isinstance(due, Tensor):
                flags = due.reshape(-1, *(1,) * (factor.ndim - 1))
                fresh = torch.where(flags, fresh, kept[f"root_{a}"])
            kept[f"root_{a}"] = fresh
        root = kept[f"root_{a}"]
        if young is not None:  # without a past it is taken as it is now
            by[a] = torch.where(young, root, by[a])
        moments = moments * root if factor.ndim == 2 else multiply(moments, root, a)
    return moments


def inverted(factor: Tensor, step: Any, order: int, group: Group) -> Tensor:
    """(L̂ + εI)^(−1/p) after so many steps, of tensors with so many axes."""
    alone = group["factors"] == "kl" or group["sides"] == "one"
    power = int(group["power"] or (2 if alone else 2 * order))
    eps, beta = group["eps"], group["betas"][1]
    if beta < 1:
        weight = bias_correction(beta, step, factor.dtype)
        if isinstance(weight, Tensor):
            weight = weight.reshape(-1, *(1,) * (factor.ndim - 1))
        factor = factor / weight
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


def _known(factor: Tensor, root: Tensor) -> Tensor:
    """A root; the identity where nothing was gathered yet."""
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    return torch.where(_is_zero(factor), eye, root)


def _is_zero(factor: Tensor) -> Tensor:
    return factor.detach().abs().amax((-2, -1), keepdim=True) == 0


def averages_of(group: Group) -> list[str]:
    """The averages of a tensor that a group of Shampoo asks for."""
    names = ["exp_avg"] if group["betas"][0] else []
    names += ["exp_avg_sq"] if group["grafting"] == "rms" else []
    return names + (["momentum_buffer"] if group["momentum"] else [])


def first_moments(
    grads: Tensors, states: States, steps: list[Any], group: Group
) -> Tensors:
    """The averaged gradients, bias corrected."""
    beta, dtype = group["betas"][0], grads[0].dtype
    if not beta:
        return grads
    averages = [state["exp_avg"] for state in states]
    torch._foreach_lerp_(averages, grads, 1 - beta)
    weights = each(steps, lambda t: bias_correction(beta, t, dtype))
    return list(torch._foreach_div(averages, weights))


def adam_steps(
    averages: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> Tensors:
    """The steps of Adam, whose length "rms" borrows."""
    beta, dtype = group["grafting_beta"], grads[0].dtype
    v = [state["exp_avg_sq"] for state in states]
    torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, grads, grads, 1 - beta)
    roots = each(steps, lambda t: bias_correction(beta, t, dtype) ** 0.5)
    below = torch._foreach_div(torch._foreach_sqrt(v), roots)
    torch._foreach_add_(below, group["grafting_eps"])
    # 0/0 where ε is 0 and an entry has never had a gradient
    return [m / nonzero(d) for m, d in zip(averages, below, strict=True)]
