"""What a step of Prodigy does with lists of tensors, once d is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.batch import Batch
from anthology.optim.parts.arithmetic import (
    Rate,
    bias_correction,
    divided_by_root,
    each,
    mapped,
    multiplied,
    on_cpu,
    scale,
)


def correction(group: Mapping[str, Any], step: Any, dtype: torch.dtype) -> Any:
    """√(1−β₂ᵗ)/(1−β₁ᵗ), or 1 where that is not asked for."""
    if not group["use_bias_correction"]:
        return 1.0
    beta1, beta2 = group["betas"]
    root = bias_correction(beta2, step, dtype) ** 0.5
    return root / bias_correction(beta1, step, dtype)


def corrected(batch: Batch, size: Any) -> Rate:
    """A step size with the bias correction of each tensor in it, if that is on."""
    group, dtype = batch.group, batch.params[0].dtype
    if not group.get("use_bias_correction"):
        return size
    return [size * c for c in each(batch.steps, lambda t: correction(group, t, dtype))]


def move(batch: Batch, d: Any, new: Any) -> None:
    """Decay, and Δw = −γd·m/(√v + d₊ε)."""
    group, params = batch.group, batch.params
    rate = corrected(batch, d * group["lr"])
    if decay := group["weight_decay"]:
        scale(params, mapped(rate, lambda size: 1 - decay * size))
    if group["betas"][0]:
        m = [state["exp_avg"] for state in batch.states]
    else:
        m = list(torch._foreach_mul(batch.grads, d))
    v = [state["exp_avg_sq"] for state in batch.states]
    least, tiny = group["eps"] * new, torch.finfo(params[0].dtype).tiny
    # at least the smallest number, so that 0/0 cannot arise whatever ε is
    least = least.clamp_min(tiny) if isinstance(least, Tensor) else max(least, tiny)
    sizes = rate if isinstance(rate, list) else [rate]
    if on_cpu(batch) and not any(isinstance(x, Tensor) for x in (least, *sizes)):
        divided_by_root(params, m, v, rate, least)
        return
    below = list(torch._foreach_sqrt(v))
    if group["differentiable"]:  # autograd needs the roots as they are
        below = list(torch._foreach_add(below, least))
    elif isinstance(least, Tensor):  # without alpha it would be read on the host
        torch._foreach_add_(below, least, alpha=1.0)
    else:
        torch._foreach_add_(below, least)
    torch._foreach_addcdiv_(params, multiplied(m, rate), below, -1.0)
