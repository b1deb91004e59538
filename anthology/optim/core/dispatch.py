"""Which tensors go through a rule together, and how each batch is computed.

A loop over the rule for one tensor is the definition. The same with list operations
(``foreach``) is the default. ``fused`` asks for one pass over the memory: True takes
what makes one here, ``"compile"`` takes `torch.compile`, ``"triton"`` the kernels of
this package on CUDA. All are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import batch as batching
from .batch import Batch
from .decay import apart
from .fused import passes as compiled
from .fused import triton as launching
from .fused.compile import missing_compiler
from .rounding import rounding_of

# Elements that go through a rule together. On a CPU the tensors of one batch should
# stay in the cache between the passes over them; on a device the limit bounds the
# memory for the copies that the NaN policy keeps.
CPU_BATCH = 2**18
# Where one pass follows on the look at the gradients: the fewer batches the better.
FUSED_BATCH = 2**22
DEVICE_BATCH = 2**24


def gather(optimizer: Any) -> list[Batch]:
    """Every tensor that has a gradient, in batches that are not yet opened."""
    groups = optimizer.rule_groups
    chosen = [_with_gradient(optimizer, group) for group in groups]
    shards = getattr(optimizer, "_shards", None)
    label = None if shards is None else shards.label
    batches = []
    for group, tensors in zip(groups, chosen, strict=True):
        for part in split(tensors, label, optimizer.together(group)):
            must_hold_numbers(part[:1], group)
            lr = resolve_lr(group["lr"], part[0].device)
            batches.append(Batch({**group, "lr": lr}, part))
    return batches


def must_hold_numbers(tensors: list[Tensor], group: Mapping[str, Any]) -> None:
    """Refuse what a fused pass cannot go over."""
    if group.get("fused") is True and any(p.is_meta for p in tensors):
        raise RuntimeError(
            "`fused=True` requires parameters that hold numbers, and "
            "one is on the meta device; leave fused=None, or make the optimizer once "
            "the model is on its device (model.to_empty(device=...))"
        )


def shown(optimizer: Any, p: Tensor) -> Tensor | None:
    """What a rule sees of a parameter in this step."""
    shards = getattr(optimizer, "_shards", None)
    found: Tensor | None = p if shards is None else shards.shown(p)
    return found


def _with_gradient(optimizer: Any, group: Mapping[str, Any]) -> list[Tensor]:
    if getattr(optimizer, "_shards", None) is None:
        tensors = [p for p in group["params"] if p.grad is not None and p.numel()]
    else:
        seen = [shown(optimizer, p) for p in group["params"] if p.numel()]
        tensors = [p for p in seen if p is not None and p.grad is not None]
    layouts = {p.grad.layout for p in tensors}
    if not layouts <= {torch.strided}:
        name = type(optimizer).__name__
        raise RuntimeError(f"{name} does not support sparse gradients")
    return tensors


def split(
    tensors: list[Tensor],
    label: Callable[[Tensor], Any] | None = None,
    together: int = CPU_BATCH,
) -> list[list[Tensor]]:
    """Split a list by device, dtype and total size, keeping its order."""
    kinds: dict[Any, list[Tensor]] = {}
    if label is None and len({(p.device, p.dtype) for p in tensors}) == 1:
        kinds[None] = tensors
    else:
        for p in tensors:
            key = (p.device, p.dtype, label and label(p))
            kinds.setdefault(key, []).append(p)
    parts = []
    for alike in kinds.values():
        limit = together if alike[0].is_cpu else max(together, DEVICE_BATCH)
        start, size = 0, 0
        for end, p in enumerate(alike):
            numbers = p.numel()
            if size and size + numbers > limit:
                parts.append(alike[start:end])
                start, size = end, 0
            size += numbers
        parts.append(alike[start:])
    return parts


def resolve_lr(lr: float | Tensor, device: torch.device) -> float | Tensor:
    """The learning rate as a float where reading it is free, else as a 0-d tensor."""
    if not isinstance(lr, Tensor):
        return lr
    if lr.requires_grad:
        return lr.reshape(()).to(device)
    if batching.reads_flags_for_free(lr.device) or batching.reads_flags_for_free(
        device
    ):
        return float(lr)
    return lr.reshape(()).to(device, non_blocking=True)


PLAIN = {Tensor, torch.nn.Parameter}
WAYS = (None, False, True, "compile", "triton")


def check_fused(rule: Any, group: Mapping[str, Any]) -> None:
    """Refuse a ``fused`` that this rule does not have, or that cannot be combined."""
    way = group.get("fused")
    if not (way is None or isinstance(way, bool | str) and way in WAYS):
        raise ValueError(
            f"Invalid fused: {way!r}; it must be None, True, False, 'compile' or "
            "'triton'"
        )
    if not way:
        return
    if not rule.rule.fuses:
        raise ValueError(
            f"{rule.__name__} does not work entry by entry, so it has no fused form; "
            "leave fused=None"
        )
    if group["differentiable"]:
        raise RuntimeError("`fused` does not support `differentiable`")
    if group["foreach"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")


def way_of(optimizer: Any, batch: Batch) -> str:
    """How a batch is computed."""
    fused = batch.group.get("fused")
    if not fused or not {type(p) for p in batch.tensors} <= PLAIN:
        return "foreach" if batch.foreach else "loop"
    if fused == "triton":
        launching.must_have_triton(batch.tensors[0])
        return "triton"
    if rounding_of(batch.tensors[0], batch.group) != "nearest" or apart(batch.group):
        return "foreach"  # other passes round to the nearest, and decay plainly
    rule = optimizer.rule_of(batch.group)
    if not rule.fuses:
        return "foreach"
    if fused is True and rule.torch_kernel:
        return "torch"
    lacking = missing_compiler(batch.tensors[0].device)
    if lacking:
        raise RuntimeError(
            f"fused={fused!r} compiles the step, which needs {lacking}, and there is "
            "none here; install it, or leave fused=None"
        )
    return "compile"


def apply(optimizer: Any, batches: list[Batch]) -> None:
    """Run a rule over all batches."""
    ways = [way_of(optimizer, batch) for batch in batches]
    for batch, way in zip(batches, ways, strict=True):
        if way == "triton" and not _joint(batch):
            batch.tensors = launching.run_kernels(optimizer, batch)
        elif way == "compile" and not _joint(batch):
            batch.tensors = compiled.run_compiled(optimizer, batch)
        if not batch.tensors:
            continue
        batch.open(optimizer)
        if batch.params:
            rule = optimizer.rule_of(batch.group)
            lists = (batch.params, batch.grads, batch.states, batch.steps)
            if way == "loop" or rule.multi is None:
                for args in zip(*lists, strict=True):
                    rule.single(*args, batch.group)
            else:
                rule.multi(*lists, batch.group)
        batch.close(optimizer)


def _joint(batch: Batch) -> bool:
    """Whether other processes have a say in which of its tensors are skipped."""
    return getattr(batch, "agreed", None) is not None
