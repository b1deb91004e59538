"""What stands around the factors of Shampoo: averages, the length of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.limits import check_betas
from anthology.optim.core.state import State

from ..arithmetic import bias_correction, descend, each
from .blocks import nonzero

GRAFTING = ("none", "sgd", "rms")
"""Whose length a step can have."""


def check_sum_betas(betas: Any) -> None:
    """Refuse what is not two betas, of which the second may be one: a sum."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas}; there must be two")
    check_betas((betas[0], 0.0))
    if isinstance(betas[1], Tensor) or betas[1] != 1:
        check_betas(betas)


def averages_of(group: Mapping[str, Any]) -> list[str]:
    """The averages of a tensor that its group asks for."""
    names = ["exp_avg"] if group["betas"][0] else []
    names += ["exp_avg_sq"] if group["grafting"] == "rms" else []
    return names + (["momentum_buffer"] if group["momentum"] else [])


def first_moments(
    grads: list[Tensor],
    states: list[State],
    steps: list[Any],
    group: Mapping[str, Any],
) -> list[Tensor]:
    """The averaged gradients, bias corrected."""
    beta = group["betas"][0]
    if not beta:
        return grads
    averages = [state["exp_avg"] for state in states]
    torch._foreach_lerp_(averages, grads, 1 - beta)
    dtype = grads[0].dtype
    weights = each(steps, lambda t: bias_correction(beta, t, dtype))
    return list(torch._foreach_div(averages, weights))


def finish(
    params: list[Tensor],
    moves: list[Tensor],
    averages: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    steps: list[Any],
    group: Mapping[str, Any],
) -> None:
    """Graft, add momentum, decay and step."""
    if group["grafting"] != "none":
        targets = averages
        if group["grafting"] == "rms":
            targets = _adam(averages, grads, states, steps, group)
        pairs = zip(moves, targets, strict=True)
        moves = [u * (length(t) / nonzero(length(u))) for u, t in pairs]
    if group["momentum"]:
        buffers = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, moves)
        if group["nesterov"]:
            ahead = torch._foreach_mul(buffers, group["momentum"])
            moves = list(torch._foreach_add(moves, ahead))
        else:
            moves = buffers
    if group["weight_decay"]:
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
    descend(params, moves, group["lr"])


def _adam(
    averages: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    steps: list[Any],
    group: Mapping[str, Any],
) -> list[Tensor]:
    """The step of Adam, whose length "rms" borrows."""
    beta, dtype = group["grafting_beta"], grads[0].dtype
    v = [state["exp_avg_sq"] for state in states]
    torch._foreach_mul_(v, beta)
    torch._foreach_addcmul_(v, grads, grads, 1 - beta)
    roots = each(steps, lambda t: bias_correction(beta, t, dtype) ** 0.5)
    below = list(torch._foreach_div(torch._foreach_sqrt(v), roots))
    torch._foreach_add_(below, group["grafting_eps"])
    # 0/0 where ε is 0 and an entry has never had a gradient
    return [m / nonzero(d) for m, d in zip(averages, below, strict=True)]


def length(x: Tensor) -> Tensor:
    """The Euclidean norm of a tensor of any scale, 0-d."""
    return lengths(x[None])[0]


def lengths(x: Tensor) -> Tensor:
    """The Euclidean norm of each tensor of a stack, of any scale."""
    flat = x.reshape(len(x), -1)
    top = nonzero(flat.detach().abs().amax(1, keepdim=True))
    out: Tensor = torch.linalg.vector_norm(flat / top, dim=1) * top[:, 0]
    return out
