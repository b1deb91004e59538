"""One pass over the memory by the Triton kernels of `anthology.kernels.entrywise`.

Nothing here waits for the device: whether a gradient is finite, the step count and
the learning rate stay there, and each kernel reads what it needs of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.kernels.entrywise import step
from anthology.kernels.launch import missing

from .batch import Batch, _device_flags

KINDS = (torch.float32, torch.bfloat16, torch.float16)
Group = Mapping[str, Any]
Plan = tuple[str, list[str], dict[str, Any]]


def _adamw(group: Group) -> Plan:
    settings = {name: group[name] for name in ("betas", "eps")}
    return "adamw", ["exp_avg", "exp_avg_sq"], settings


def _lion(group: Group) -> Plan:
    return "lion", ["exp_avg"], {"betas": group["betas"]}


def _signum(group: Group) -> Plan:
    settings = {"betas": (group["momentum"], 0.0), "nesterov": group["nesterov"]}
    return "signum", ["momentum_buffer"], settings


def _sgd(group: Group) -> Plan:
    return "sgd", *_signum(group)[1:]


def _rmsprop(group: Group) -> Plan:
    betas = group["momentum"], group["alpha"]
    settings = {"betas": betas, "eps": group["eps"], "terms": group["batch_size"]}
    return "rmsprop", ["momentum_buffer", "exp_avg_sq"], settings


def _rootfree(group: Group) -> Plan:
    _, names, settings = _adamw(group)
    return "rootfree", names, {**settings, "terms": group["batch_size"]}


PLANS: dict[str, Callable[[Group], Plan]] = {
    "AdamW": _adamw,
    "Lion": _lion,
    "Signum": _signum,
    "SGD": _sgd,
    "RootFreeRMSProp": _rmsprop,
    "RootFreeAdamW": _rootfree,
}


def plan_of(optimizer: Any, group: Group) -> Plan | None:
    """Which kernel does what a group asks for.

    Parameters
    ----------
    optimizer : BaseOptimizer
        Its class must be one of `PLANS` itself.
    group : mapping
        Its hyper-parameters.

    Returns
    -------
    tuple or None
        The rule, the names of its averages and the arguments of
        ``kernels.entrywise.step``; None where no kernel does that (amsgrad,
        dampening, no momentum, maximize).
    """
    name = type(optimizer).__name__
    unknown = group["maximize"] or group.get("amsgrad") or group.get("dampening")
    if name not in PLANS or unknown or group.get("momentum", 1.0) == 0:
        return None
    rule, names, settings = PLANS[name](group)
    return rule, names, {**settings, "decay": group["weight_decay"]}


def require(x: Tensor) -> None:
    """Refuse a tensor on whose device the kernels do not run.

    Parameters
    ----------
    x : Tensor
        A parameter.

    Raises
    ------
    RuntimeError
        If Triton or a CUDA device is missing.
    """
    lacking = missing(x)
    if lacking:
        raise RuntimeError(
            f"fused='triton' needs {lacking}, and there is none here; leave fused=None"
        )


def run(optimizer: Any, batch: Batch) -> list[Tensor]:
    """One step of the tensors of a batch that the kernels can take.

    Parameters
    ----------
    optimizer : BaseOptimizer
        See `plan_of`.
    batch : Batch
        Not opened; not changed.

    Returns
    -------
    list of Tensor
        Those still to be done.
    """
    group, plan = batch.group, plan_of(optimizer, batch.group)
    if plan is None:
        return batch.tensors
    fit: list[Tensor] = []
    left: list[Tensor] = []
    for p in batch.tensors:
        state = optimizer.state_of(p, group)
        whole = [p, p.grad, *(state[name] for name in plan[1])]
        fits = p.dtype in KINDS and all(x.is_contiguous() for x in whole)
        (fit if fits else left).append(p)
    if fit:
        _launch(optimizer, fit, group, plan)
    return left


def _launch(optimizer: Any, fit: list[Tensor], group: Group, plan: Plan) -> None:
    rule, names, settings = plan
    states = [optimizer.state[p] for p in fit]
    grads: list[Tensor] = [p.grad for p in fit]  # type: ignore[misc]
    like = torch.empty(0, dtype=torch.float32, device="meta")
    limit = optimizer.gradient_limit(like, group)
    flags = _device_flags(grads, [limit] * len(grads))
    counters = [state["step"] for state in states]
    numbers = _numbers(torch.stack(counters), group, rule)
    for p, g, state, flag, row in zip(
        fit, grads, states, flags, numbers.unbind(), strict=True
    ):
        averages = [state[name] for name in names]
        step(rule, p, g, averages, row, finite=flag, **settings)
    taken = torch.stack(flags).to(counters[0].dtype)
    torch._foreach_add_(counters, list(taken.unbind()))
    skipped = [state["skipped"] for state in states]
    torch._foreach_add_(skipped, list((1.0 - taken).unbind()))


def _numbers(steps: Tensor, group: Group, rule: str) -> Tensor:
    """A row for each tensor: η, and with bias correction what divides m and v."""
    t = steps.double() + 1
    lr = torch.as_tensor(group["lr"], dtype=t.dtype, device=t.device).expand_as(t)
    if rule != "adamw" and not group.get("bias_correction"):
        return torch.stack([lr, lr, torch.ones_like(t)], 1).float()
    beta1, beta2 = group["betas"]
    weight = 1 - torch.pow(beta2, t)
    below = weight.sqrt() if rule == "adamw" else weight
    return torch.stack([lr, lr / (1 - torch.pow(beta1, t)), below], 1).float()
