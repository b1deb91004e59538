"""A few lines that several rules share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.batch import Batch
from anthology.optim.core.state import Coefficient


def bias_correction(beta: Any, step: Any, dtype: torch.dtype) -> Any:
    """1 − βᵗ, the weight that an average started at zero has gathered."""
    if isinstance(beta, Coefficient):
        return beta.weight
    if not isinstance(step, Tensor):
        return 1 - beta**step
    log = math.log(beta) if beta > 0 else -math.inf
    return -torch.expm1(step.to(dtype) * log)


def over_root(x: Tensor, beta: Any, step: Any) -> Tensor:
    """x/√(1 − βᵗ)."""
    if isinstance(beta, Coefficient):
        found: Tensor = x * beta.unroot
        return found
    found = x / bias_correction(beta, step, x.dtype) ** 0.5
    return found


def corrected_rate(lr: Any, beta: Any, step: Any, dtype: torch.dtype) -> Any:
    """η/(1 − βᵗ)."""
    if isinstance(beta, Coefficient):
        return beta.size
    return lr / bias_correction(beta, step, dtype)


def each(steps: list[Any], compute: Callable[[Any], Any]) -> list[Any]:
    """A function of every step count: one operation where the counts are tensors."""
    if isinstance(steps[0], Tensor):
        return list(compute(torch.stack(steps)).unbind())
    return [compute(step) for step in steps]


def descend(params: list[Tensor], moves: list[Tensor], lr: float | Tensor) -> None:
    """w ← w − η·move for a list, without a copy where η is a plain number."""
    if isinstance(lr, Tensor):
        torch._foreach_sub_(params, multiplied(moves, lr))
    else:
        torch._foreach_sub_(params, moves, alpha=lr)


def multiplied(xs: list[Tensor], factor: Any) -> list[Tensor]:
    """factor·x for a list."""
    if isinstance(factor, Tensor) and factor.requires_grad:
        return [x * factor for x in xs]
    return list(torch._foreach_mul(xs, factor))


def averaged(batch: Batch) -> list[Tensor]:
    """The gradients, or their averages, of which steepest steps are taken."""
    beta = batch.group["momentum"]
    if not beta or not batch.params:
        return batch.grads
    buffers = [state["momentum_buffer"] for state in batch.states]
    torch._foreach_lerp_(buffers, batch.grads, 1 - beta)
    if batch.group["nesterov"]:
        return list(torch._foreach_lerp(batch.grads, buffers, beta))
    return buffers
