"""What stands around the factors: averages, the length of a step, its momentum."""

from __future__ import annotations

from typing import Any

import torch

from anthology.optim.core.rule import Group
from anthology.optim.core.state import States, Tensors

from ..arithmetic import bias_correction, each
from .axes import length, nonzero

GRAFTING = ("none", "sgd", "rms")  # whose length a step can have


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


def grafted(moves: Tensors, others: Tensors) -> Tensors:
    """Moves of the length that others have, tensor by tensor."""
    pairs = zip(moves, others, strict=True)
    return [u * (length(t) / nonzero(length(u))) for u, t in pairs]


def heavy_ball(moves: Tensors, states: States, group: Group) -> Tensors:
    """b ← μb + u; then b, or with Nesterov's look-ahead u + μb."""
    buffers = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, moves)
    if not group.get("nesterov"):
        return buffers
    ahead = torch._foreach_mul(buffers, group["momentum"])
    return list(torch._foreach_add(moves, ahead))
