"""What all processes must know before a step: who moves, and who is skipped."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from .. import batch
from ..evidence import nonzero_flags
from ..state import real, state_dtype
from .transfer import Seen


def agree(items: list[Seen], optimizer: Any) -> set[Seen]:
    """Of one mesh, by one message: those with a gradient anywhere; what all are like."""
    device = items[0].local.device
    resting = [optimizer.rule_of(item.group).zero_is_none for item in items]
    some = [i for i, x in enumerate(items) if x.grad is not None and x.grad.numel()]
    message = torch.zeros(3, len(items), dtype=torch.int32)  # there, bad, not zero
    message[0] = torch.tensor([item.grad is not None for item in items])
    message = message.to(device, non_blocking=True)
    if some:
        grads = [real(items[i].grad) for i in some]  # type: ignore[arg-type]
        limits = [_limit(items[i], optimizer) for i in some]
        if batch.reads_flags_for_free(device):
            fine = torch.tensor(batch._readable_flags(grads, limits))
        else:
            fine = torch.stack(batch._device_flags(grads, limits))
        where = torch.tensor(some).to(device, non_blocking=True)
        message[1].index_copy_(0, where, fine.logical_not().int())
        if any(resting):
            moved = torch.stack(nonzero_flags(grads)).int()
            message[2].index_copy_(0, where, moved)
    dist.all_reduce(message, dist.ReduceOp.MAX, group=items[0].place.group)
    for item, rests, bad, moved in zip(items, resting, *message[1:], strict=True):
        item.finite, item.moved = bad == 0, moved != 0 if rests else None
    if all(item.grad is not None for item in items):
        return set(items)  # nothing to read back
    there = message[0].tolist()
    return {item for item, found in zip(items, there, strict=True) if found}


def _limit(item: Seen, optimizer: Any) -> float:
    """The largest entry the state can hold, for the tensor as a whole."""
    shape, dtype = tuple(item.p.shape), state_dtype(item.local.dtype)
    whole = torch.empty(shape, dtype=dtype, device="meta")
    return float(optimizer.rule_of(item.group).gradient_limit(real(whole), item.group))
