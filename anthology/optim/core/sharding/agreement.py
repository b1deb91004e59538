"""What all processes must know before a step: who moves, and who is skipped."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ..batch import _device_flags, _readable_flags, reads_flags_for_free
from ..evidence import nonzero_flags
from ..state import real, state_dtype
from .mesh import Place
from .transfer import Seen


def agree(place: Place, items: list[Seen], optimizer: Any) -> set[Seen]:
    """One message: which tensors have a gradient anywhere, which a bad one or zero."""
    with_grad = [item for item in items if item.grad is not None and item.grad.numel()]
    grads = [real(item.grad) for item in with_grad]  # type: ignore[arg-type]
    limits = [_limit(item, optimizer) for item in with_grad]
    device = items[0].local.device
    position = {item: i for i, item in enumerate(items)}
    message = torch.zeros(3, len(items), dtype=torch.int32)
    for item in items:
        message[0, position[item]] = item.grad is not None
    if with_grad and reads_flags_for_free(device):
        for item, fine in zip(with_grad, _readable_flags(grads, limits), strict=True):
            message[1, position[item]] = not fine
    message = message.to(device, non_blocking=True)
    if with_grad and not reads_flags_for_free(device):
        bad = torch.stack(_device_flags(grads, limits)).logical_not()
        where = torch.tensor([position[item] for item in with_grad])
        message[1].index_copy_(0, where.to(device, non_blocking=True), bad.int())
    resting = any(optimizer.rule_of(item.group).zero_is_none for item in with_grad)
    if resting:
        moved = torch.stack(nonzero_flags(grads)).int()
        where = torch.tensor([position[item] for item in with_grad])
        message[2].index_copy_(0, where.to(device, non_blocking=True), moved)
    dist.all_reduce(message, dist.ReduceOp.MAX, group=place.group)
    for item, bad, moved in zip(items, *message[1:], strict=True):
        item.finite = bad == 0
        item.moved = moved != 0 if optimizer.rule_of(item.group).zero_is_none else None
    if all(item.grad is not None for item in items):
        return set(items)  # nothing to read back
    there = message[0].tolist()
    return {item for item, found in zip(items, there, strict=True) if found}


def _limit(item: Seen, optimizer: Any) -> float:
    """The largest entry the state can hold, for the tensor as a whole."""
    shape, dtype = tuple(item.p.shape), state_dtype(item.local.dtype)
    whole = torch.empty(shape, dtype=dtype, device="meta")
    return float(optimizer.rule_of(item.group).gradient_limit(real(whole), item.group))
