"""Which tensors of Prodigy take their step in two passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from anthology.optim.core import batch as batching
from anthology.optim.core import dispatch
from anthology.optim.core.batch import Batch
from anthology.optim.core.decay import apart
from anthology.optim.core.rounding import rounding_of
from anthology.optim.parts.prodigy.distance import memory
from anthology.optim.parts.prodigy.passes import TwoPasses


def two_passes(optimizer: Any, batches: list[Batch]) -> list[Any]:
    """What of the batches goes in two passes, and the rest as it is."""
    parts: list[Any] = []
    found: dict[Any, TwoPasses] = {}
    for batch in batches:
        group, first = batch.group, batch.tensors[0]
        key = id(group["params"]), first.device, first.dtype, batch.counts
        if not all(type(p) in (Tensor, Parameter) for p in batch.tensors):
            parts.append(batch)
            continue
        if key not in found:
            way = dispatch.way_of(optimizer, batch)
            if not _served(optimizer, batch, way):
                parts.append(batch)
                continue
            found[key] = TwoPasses(optimizer, group, first, way, batch.counts)
            parts.append(found[key])
        left = [p for p in batch.tensors if not found[key].takes(p)]
        batch.tensors = left
        if left:
            parts.append(batch)
    for key in set(optimizer.shelves).difference(x.key for x in found.values()):
        if not optimizer.shelves[key].tidy():
            del optimizer.shelves[key]
    return [part for part in parts if part.tensors]


def _served(optimizer: Any, batch: Batch, way: str) -> bool:
    """Whether the passes do what a group asks for."""
    group, p = batch.group, batch.tensors[0]
    if batch.agreed is not None or rounding_of(p, group) != "nearest":
        return False
    if apart(group) or way == "loop" or group["slice_p"] > 1 or group["differentiable"]:
        return False
    if way == "foreach":
        real = torch.float32, torch.float64
        return batching.reads_flags_for_free(p.device) and p.dtype in real
    averages = group["betas"][0] > 0 and memory(group) > 0
    kinds = torch.float32, torch.bfloat16, torch.float16
    return way == "compile" or (averages and p.dtype in kinds)
