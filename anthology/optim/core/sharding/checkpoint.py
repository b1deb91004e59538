"""Checkpoints of optimizers whose parameters are DTensors, by all processes together.

State lives where a rule runs, as plain shards or whole on the owner. A checkpoint has a
DTensor for each entry, to be saved and loaded by any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from ..state import State, fresh_state, no_state, restored_state, state_dtype
from .mesh import Place, everyone


def packed(shards: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict with DTensors in it."""
    state: dict[Any, Any] = dict(saved["state"])
    groups = shards.optimizer.param_groups
    pairs = [(p, group) for group in groups for p in group["params"]]
    for number, (p, group) in enumerate(pairs):
        if isinstance(p, DTensor) and p.numel():
            kept = state.get(number, {})
            state[number] = told(shards, p, group, kept) if shards.place(p) else {}
    return {**saved, "state": {n: kept for n, kept in state.items() if kept}}


def told(
    shards: Any, p: Any, group: Mapping[str, Any], state: Mapping[str, Any]
) -> dict[str, Any]:
    """Entries of the state of a DTensor parameter, as DTensors."""
    optimizer, place = shards.optimizer, shards.place(p)
    local = p.to_local()
    if optimizer.needs_whole(optimizer.group_of(p, group)):
        return _given(place, shards.owner(p), state, local.device)
    found = dict(state)
    for name, x in state.items():
        if name in optimizer.partial:
            own = x if place.counts(p.placements, place.rank) else x * 0
            found[name] = everyone(own, place.group).sum(0)
        elif isinstance(x, Tensor) and x.ndim and x.shape == local.shape:
            form = {"shape": p.shape, "stride": p.stride(), "run_check": False}
            found[name] = DTensor.from_local(x, p.device_mesh, p.placements, **form)
    return found


def _given(
    place: Place, owner: int, state: Mapping[str, Any], home: torch.device
) -> dict[str, Any]:
    """What the owner keeps, told to all; of tensors each process gets its part."""
    source = place.ranks[owner]
    heads = {
        name: (x.shape, x.dtype, x.device.type) if isinstance(x, Tensor) else x
        for name, x in state.items()
    }
    sent: list[Any] = [heads]
    dist.broadcast_object_list(sent, source, group=place.group)
    entries: dict[str, Any] = {}
    copies = [Replicate()] * place.mesh.ndim
    for name, head in sent[0].items():
        if not isinstance(head, tuple) or not isinstance(head[0], torch.Size):
            entries[name] = head  # something of the user's
            continue
        shape, dtype, kind = head
        if place.rank == owner:
            x = state[name].detach().clone().contiguous()
        else:
            x = torch.empty(shape, dtype=dtype, device="cpu" if kind == "cpu" else home)
        dist.broadcast(x, source, group=place.group)
        if x.ndim:
            whole = DTensor.from_local(x, place.mesh, copies, run_check=False)
            x = whole.redistribute(place.mesh, [*copies[1:], Shard(0)])
        entries[name] = x
    return entries


def unpacked(shards: Any, p: Any, group: dict[str, Any], saved: Any) -> State:
    """The local state of a DTensor parameter, from a checkpoint."""
    optimizer, place = shards.optimizer, shards.place(p)
    if place is None:
        return {}
    local, group = p.detach().to_local(), optimizer.group_of(p, group)
    whole = optimizer.needs_whole(group)
    kept = {n: _local(saved[n], None if whole else p, place) for n in sorted(saved)}
    if whole and shards.owner(p) != place.rank:
        quiet = quiet_state(optimizer, local, group)
        own = {n for n, x in kept.items() if n in quiet or not isinstance(x, Tensor)}
        return restored_state({n: x for n, x in kept.items() if n in own}, quiet)
    if not whole and place.rank:  # a sum is one process's
        kept |= {name: kept[name] * 0 for name in optimizer.partial if name in kept}
    model = local.new_empty(tuple(p.shape)) if whole else local
    fresh = fresh_state(model, group, optimizer.rule_of(group).new_state)
    return restored_state(kept, optimizer.awaited(fresh, kept))


def quiet_state(optimizer: Any, local: Tensor, group: Mapping[str, Any]) -> State:
    """What every process keeps of a tensor that another one computes."""
    rule, kept = optimizer.rule_of(group), {"step", "skipped", *optimizer.shared}
    empty = local.new_empty(0, dtype=state_dtype(local.dtype))
    fresh = fresh_state(empty, group, rule.new_state if optimizer.shared else no_state)
    return {name: x for name, x in fresh.items() if name in kept}


def agreed(shards: Any, found: list[str]) -> list[str]:
    """What was found here or by another process, so that all go on or none does."""
    params = [p for group in shards.optimizer.param_groups for p in group["params"]]
    places = [shards.place(p) for p in params if isinstance(p, DTensor) and p.numel()]
    for place in dict.fromkeys(x for x in places if x is not None):
        every: list[list[str]] = [[]] * place.size
        dist.all_gather_object(every, found, group=place.group)
        found = found or next(filter(None, every), [])
    return found


def _local(x: Any, p: Any, place: Place) -> Any:
    """All of an entry, or the part that goes with the shard of a parameter."""
    if isinstance(x, DTensor):
        if p is None:
            return x.full_tensor()
        if x.placements != p.placements:
            x = x.redistribute(p.device_mesh, p.placements)
        return x.to_local()
    if p is not None and isinstance(x, Tensor) and x.ndim and x.shape == p.shape:
        return x[place.box(p.shape, p.placements, place.rank)]
    return x
