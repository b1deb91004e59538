"""Checkpoints of optimizers whose parameters are DTensors.

State lives where a rule runs: as plain shards, or whole on the owner. What goes into
a checkpoint is a DTensor for each entry, so that `torch.distributed.checkpoint` can
save it from any number of processes and load it on any other. Saving and loading are
therefore collective: every process must take part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from ..state import State, fresh_state, restored_state
from .mesh import Place


def numbered(groups: Any) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
    """Every parameter with its number in a checkpoint and its group."""
    number = 0
    for group in groups:
        for p in group["params"]:
            yield number, p, group
            number += 1


def packed(shards: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """A state dict with DTensors in it."""
    optimizer = shards.optimizer
    state: dict[Any, Any] = dict(saved["state"])
    for number, p, group in numbered(optimizer.param_groups):
        if not isinstance(p, DTensor) or not p.numel():
            continue
        place = shards.place(p)
        if place is None:
            state.pop(number, None)
        elif optimizer.needs_whole(optimizer.group_of(p, group)):
            state[number] = told(shards, p, group, state.get(number, {}))
        elif number in state:
            entries = told(shards, p, group, state[number])
            for name in set(optimizer.partial).intersection(entries):
                x = entries[name]
                own = x if place.counts(p.placements, place.rank) else x * 0
                entries[name] = place.everyone(own).sum(0)
            state[number] = entries
        if not state.get(number, True):
            del state[number]
    return {**saved, "state": state}


def told(
    shards: Any, p: Any, group: Mapping[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Entries of the state of a DTensor parameter, as DTensors."""
    optimizer = shards.optimizer
    if not optimizer.needs_whole(optimizer.group_of(p, group)):
        return {name: _wrapped(p, x) for name, x in state.items()}
    return _given(shards.place(p), shards.owner(p), state, p.to_local().device)


def _wrapped(p: Any, x: Tensor) -> Tensor:
    """A shard of the state as a DTensor placed as its parameter."""
    if not isinstance(x, Tensor) or not x.ndim or x.shape != p.to_local().shape:
        return x
    return _placed(x, p.device_mesh, p.placements, p)


def _placed(part: Tensor, mesh: Any, placements: Any, like: Any) -> Tensor:
    """A DTensor of which this is the part of this process."""
    made: Tensor = DTensor.from_local(
        part,
        mesh,
        placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )
    return made


def _given(
    place: Place, owner: int, state: Mapping[str, Tensor], home: torch.device
) -> dict[str, Any]:
    """What the owner keeps, told to all; of tensors each process gets its part."""
    mine, source = place.rank == owner, place.ranks[owner]
    heads = {
        name: (x.shape, x.dtype, x.device.type) if isinstance(x, Tensor) else x
        for name, x in state.items()
    }
    told: list[Any] = [heads]
    dist.broadcast_object_list(told, source, group=place.group)
    entries: dict[str, Any] = {}
    rows = [Replicate()] * (place.mesh.ndim - 1) + [Shard(0)]
    for name, head in told[0].items():
        if not isinstance(head, tuple) or not isinstance(head[0], torch.Size):
            entries[name] = head  # something of the user's
            continue
        shape, dtype, kind = head
        device = torch.device("cpu") if kind == "cpu" else home
        x = state[name].detach().clone() if mine else None
        x = torch.empty(shape, dtype=dtype, device=device) if x is None else x
        x = x.contiguous()
        dist.broadcast(x, source, group=place.group)
        if x.ndim:
            part = x[place.box(shape, rows, place.rank)].clone()
            x = _placed(part, place.mesh, rows, x)
        entries[name] = x
    return entries


def unpacked(shards: Any, p: Any, group: dict[str, Any], saved: Any) -> State:
    """The local state of a DTensor parameter, from a checkpoint."""
    optimizer, place = shards.optimizer, shards.place(p)
    if place is None:
        return {}
    local, group = p.detach().to_local(), optimizer.group_of(p, group)
    if optimizer.needs_whole(group):
        every = {name: _whole(saved[name]) for name in sorted(saved)}
        if shards.owner(p) == place.rank:
            model = local.new_empty(tuple(p.shape))
            fresh = fresh_state(model, group, optimizer.rule_of(group).new_state)
            return restored_state(every, optimizer.awaited(fresh, every))
        quiet = fresh_state(local.new_empty(0), group, optimizer.quiet_state)
        own = (*quiet, *(n for n, x in every.items() if not isinstance(x, Tensor)))
        known = {name: x for name, x in every.items() if name in own}
        return restored_state(known, quiet)
    parts = {name: _shard(saved[name], p, place) for name in sorted(saved)}
    for name in set(optimizer.partial).intersection(parts):
        parts[name] = parts[name] * (place.rank == 0)  # a sum is one process's
    fresh = fresh_state(local, group, optimizer.rule_of(group).new_state)
    return restored_state(parts, optimizer.awaited(fresh, parts))


def agreed(shards: Any, found: list[str]) -> list[str]:
    """What was found here or by another process, so that all go on or none does."""
    params = [p for _, p, _ in numbered(shards.optimizer.param_groups)]
    places = [shards.place(p) for p in params if isinstance(p, DTensor) and p.numel()]
    for place in dict.fromkeys(x for x in places if x is not None):
        told: list[list[str]] = [[]] * place.size
        dist.all_gather_object(told, found, group=place.group)
        found = found or next(filter(None, told), [])
    return found


def _whole(x: Any) -> Any:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _shard(x: Any, p: Any, place: Place) -> Any:
    if isinstance(x, DTensor):
        if x.placements != p.placements:
            x = x.redistribute(p.device_mesh, p.placements)
        return x.to_local()
    if isinstance(x, Tensor) and x.ndim and x.shape == p.shape:
        return x[place.box(p.shape, p.placements, place.rank)]
    return x
