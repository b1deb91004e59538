"""One pass over the memory by the Triton kernels of `anthology.kernels.entrywise`.

Nothing here waits for the device: the step count and the learning rate stay there, and
each kernel reads what it needs of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.kernels.entrywise import step
from anthology.kernels.launch import missing
from anthology.kernels.many import step_many

from ..batch import Batch, nonzero_flags
from ..decay import apart
from ..rounding import RESIDUAL, rounding_of
from ..state import State

KINDS = (torch.float32, torch.bfloat16, torch.float16)
# Tensors of fewer numbers go together in one launch.
SMALL = 2**18
# Where gradients are looked at first, whether they are zero: that many stay in the cache
# of the device (50 MB on an H100) until the pass that follows reads them again.
NEAR = 2**22
Group = Mapping[str, Any]
Plan = tuple[str, list[str], dict[str, Any]]


# The averages of each kernel, by what a class calls it.
MOMENTS = ["exp_avg", "exp_avg_sq"]
AVERAGES: dict[str | None, list[str]] = {
    "adamw": MOMENTS,
    "rootfree": MOMENTS,
    "lion": MOMENTS[:1],
    "sgd": ["momentum_buffer"],
    "signum": ["momentum_buffer"],
    "rmsprop": ["momentum_buffer", "exp_avg_sq"],
}
# What the kernels call some hyper-parameters.
SETTINGS = {"eps": "eps", "nesterov": "nesterov", "terms": "batch_size"}


def plan_of(optimizer: Any, group: Group) -> Plan | None:
    """Which kernel does what a group asks for, its averages and its settings."""
    name = optimizer.rule_of(group).triton
    unknown = group["maximize"] or group.get("amsgrad") or group.get("dampening")
    still = group.get("momentum", 1.0) == 0
    if name not in AVERAGES or unknown or (still and name != "sgd") or apart(group):
        return None
    decay = {"decay": group["weight_decay"]}
    if still:
        return "descent", [], decay
    betas = group.get("betas") or (group["momentum"], group.get("alpha", 0.0))
    named = {name: group[own] for name, own in SETTINGS.items() if own in group}
    return name, AVERAGES[name], {"betas": betas, **named, **decay}


def must_have_triton(x: Tensor) -> None:
    """Refuse a tensor on whose device the kernels do not run."""
    lacking = missing(x)
    if lacking:
        raise RuntimeError(
            f"fused='triton' needs {lacking}, and there is none here; leave fused=None"
        )


def run_kernels(optimizer: Any, batch: Batch) -> list[Tensor]:
    """One step of the tensors of a batch that the kernels can take."""
    group, plan = batch.group, plan_of(optimizer, batch.group)
    if plan is None:
        return batch.tensors
    if batch.tensors[0].dtype not in KINDS:
        return batch.tensors
    sorts: dict[Any, list[Tensor]] = {}
    left: list[Tensor] = []
    for p in batch.tensors:
        g, state = p.grad, optimizer.state_of(p, group)
        fits = g is not None and g.is_contiguous() and p.is_contiguous()
        own = [state[name].is_contiguous() for name in plan[1]]
        if fits and all(own):
            sorts.setdefault((p.numel() < SMALL, g.dtype), []).append(p)  # type: ignore[union-attr]
        else:
            left.append(p)
    parts = []
    for (_, dtype), tensors in sorts.items():
        if dtype in KINDS:
            parts += _parts(tensors)
        else:
            left += tensors
    if parts:
        _launch(optimizer, parts, group, plan)
    return left


def _parts(tensors: list[Tensor]) -> list[list[Tensor]]:
    """Neighbours, up to `NEAR` numbers."""
    parts: list[list[Tensor]] = []
    room = -1
    for p in tensors:
        size = p.numel()
        if size > room:
            parts.append([])
            room = NEAR
        parts[-1].append(p)
        room -= size
    return parts


def _launch(
    optimizer: Any, parts: list[list[Tensor]], group: Group, plan: Plan
) -> None:
    like = torch.empty(0, dtype=torch.float32, device="meta")
    rule = optimizer.rule_of(group)
    limit = rule.gradient_limit(like, group)
    states: list[State] = [optimizer.state[p] for part in parts for p in part]
    counters = [state["step"] for state in states]
    numbers = _numbers(torch.stack(counters), group, plan[0])
    how, home = rounding_of(parts[0][0], group), parts[0][0].device
    seeds = None
    if how == "stochastic":
        seeds = torch.randint(2**62, (len(states),), dtype=torch.int64, device=home)
    refused, moved, start = torch.zeros(len(states), device=home), list[Tensor](), 0
    for part in parts:
        here = slice(start, start + len(part))
        extra: dict[str, Any] = {"refused": refused[here], "limit": limit}
        if rule.zero_is_none:
            moved += nonzero_flags([p.grad for p in part])  # type: ignore[misc]
            extra["finite"] = torch.stack(moved[here])
        some = seeds if seeds is None else seeds[here]
        _pass(part, states[here], numbers[here], extra, some, plan, how)
        start += len(part)
    taken = torch.stack(moved).to(refused) if moved else torch.ones_like(refused)
    torch._foreach_add_(counters, list(taken.unbind()))
    torch._foreach_add_([state["skipped"] for state in states], list(refused.unbind()))


def _pass(
    params: list[Tensor],
    states: list[State],
    numbers: Tensor,
    extra: dict[str, Any],
    seeds: Tensor | None,
    plan: Plan,
    how: str,
) -> None:
    rule, names, settings = plan
    grads: list[Tensor] = [p.grad for p in params]  # type: ignore[misc]
    averages = [[state[name] for name in names] for state in states]
    rests = None
    if how == "compensated":
        for p, state in zip(params, states, strict=True):
            if RESIDUAL not in state:  # switched on later
                state[RESIDUAL] = torch.zeros_like(p)
        rests = [state[RESIDUAL] for state in states]
    if len(params) > 1 and params[0].numel() < SMALL:
        extra = {**extra, "residuals": rests, "seeds": seeds}
        step_many(rule, params, grads, averages, numbers, **extra, **settings)
        return
    for i, (p, g, own) in enumerate(zip(params, grads, averages, strict=True)):
        given: dict[str, Any] = {
            name: x[i] if isinstance(x, Tensor) else x for name, x in extra.items()
        }
        given["residual"] = rests if rests is None else rests[i]
        given["seed"] = seeds if seeds is None else seeds[i]
        step(rule, p, g, own, numbers[i], **given, **settings)


def _numbers(steps: Tensor, group: Group, rule: str) -> Tensor:
    """A row for each tensor: η, and with bias correction what divides m and v."""
    t = steps.double() + 1
    lr = group["lr"]  # a number becomes a constant of a kernel, not a copy
    lr = (
        lr.to(t.dtype).expand_as(t)
        if isinstance(lr, Tensor)
        else torch.full_like(t, lr)
    )
    if rule != "adamw" and not group.get("bias_correction"):
        return torch.stack([lr, lr, torch.ones_like(t)], 1).float()
    beta1, beta2 = group["betas"]
    weight = 1 - torch.pow(beta2, t)
    below = weight.sqrt() if rule == "adamw" else weight
    return torch.stack([lr, lr / (1 - torch.pow(beta1, t)), below], 1).float()
