"""The one place that chooses how a batch is computed.

A loop over the rule for one tensor is the definition. The same with list operations
(``foreach``) is the default. ``fused`` asks for one pass over the memory: True takes
what makes one here, ``"compile"`` takes `torch.compile`, ``"triton"`` the kernels of
this package on CUDA. All are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .decay import apart
from .fused import passes as compiled
from .fused import triton as launching
from .fused.compile import missing_compiler
from .rounding import rounding_of

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
    if not rule.rule.entrywise and not getattr(rule, "has_passes", False):
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
        launching.require(batch.tensors[0])
        return "triton"
    if rounding_of(batch.tensors[0], batch.group) != "nearest" or apart(batch.group):
        return "foreach"  # other passes round to the nearest, and decay plainly
    rule = optimizer.rule_of(batch.group)
    if not rule.entrywise:
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
            batch.tensors = launching.run(optimizer, batch)
        elif way == "compile" and not _joint(batch):
            batch.tensors = compiled.run(optimizer, batch)
        if not batch.tensors:
            continue
        batch.open(optimizer)
        if batch.params:
            lists = (batch.params, batch.grads, batch.states, batch.steps)
            rule = optimizer.rule_of(batch.group)
            rule.run(*lists, batch.group, lists=way != "loop")
        batch.close(optimizer)


def _joint(batch: Batch) -> bool:
    """Whether other processes have a say in which of its tensors are skipped."""
    return getattr(batch, "agreed", None) is not None
