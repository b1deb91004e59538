"""How DTensor parameters (FSDP2, tensor parallelism) go through a rule.

A rule that works entry by entry sees the shard of this process. A rule that needs
whole matrices sees a whole one, on one process: each is given to a process by cost,
its shards and those of its gradient travel there once, and the new shards travel back
once, while other matrices are being computed. State lives where the rule runs.

Whether a tensor has a gradient, and whether all of it is finite, is agreed on first:
a shard without a gradient counts as zero if another has one, and a NaN anywhere skips
the tensor everywhere. Numbers that couple tensors are exchanged by `Shards.everyone`.
Tensors on different meshes are different tensors: a layer that tensor parallelism
leaves out has copies, each of which would count where tensors are coupled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..batch import Batch
from ..dispatch import gather, resolve_lr
from ..state import State, fresh_state, state_dtype
from .agreement import agree
from .assign import assign, matrix_cost
from .checkpoint import agreed, packed, told, unpacked
from .mesh import Place
from .transfer import Round, Seen, rounds_of, seen


class Shards:
    """The layer between one optimizer and its DTensor parameters."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.silent: list[Seen] = []
        self._places: dict[Any, Place] = {}
        self._owners: dict[Tensor, int] = {}
        self._seen: dict[Tensor, Seen] = {}
        self._stands: dict[Tensor, Tensor | None] = {}
        self._rounds: list[Round] = []
        self._sent = 0

    # What the optimizer's rules ask

    def shown(self, p: Tensor) -> Tensor | None:
        """What stands for a parameter in this step; None if it is not for us."""
        return self._stands.get(p) if isinstance(p, DTensor) else p

    def label(self, stand: Tensor) -> Any:
        """What must not be mixed in one batch."""
        item = self._seen.get(stand)
        whole = item is not None and item.owner is not None
        return item is not None, whole, self._counts(item)

    def _counts(self, item: Seen | None) -> bool:
        """Whether sums over all tensors take a tensor from this process."""
        if item is None:  # a plain tensor, of which every process has a copy
            places = list(self._places.values())
            return (places[0].rank if len(places) == 1 else dist.get_rank()) == 0
        return item.owner is not None or item.sends(item.place.rank)

    def everyone(self, x: Tensor) -> Tensor:
        """A small tensor of every process, stacked along a new first axis."""
        wide, places = x.double(), list(self._places.values())
        if len(places) == 1:
            return places[0].everyone(wide).to(x.dtype)
        out = wide.new_empty(dist.get_world_size(), *x.shape)
        dist.all_gather_into_tensor(out.view(-1), wide.reshape(-1))
        return out.to(x.dtype)

    def quiet_states(self, group: Mapping[str, Any]) -> list[State]:
        """What is kept here of tensors that another process computes in this step."""
        own = group["params"] if group.get("per_group") else None
        found = [x for x in self.silent if own is None or x.group["params"] is own]
        return [self._quiet(item) for item in found]

    def packed(self, saved: dict[str, Any]) -> dict[str, Any]:
        """A state dict with DTensors in it; see `checkpoint.packed`."""
        return packed(self, saved)

    def unpacked(self, p: Any, group: dict[str, Any], saved: Any) -> State:
        """The local state of a DTensor from one; see `checkpoint.unpacked`."""
        return unpacked(self, p, group, saved)

    def told(self, p: Any, group: Mapping[str, Any], kept: State) -> State:
        """Entries of a state as DTensors; see `checkpoint.told`."""
        return told(self, p, group, kept)

    def agreed(self, found: list[str]) -> list[str]:
        """What was found by any process; see `checkpoint.agreed`."""
        return agreed(self, found)

    # The step

    @torch.no_grad()
    def step(self) -> None:
        """One step over all parameters, DTensors and others."""
        optimizer = self.optimizer
        if any(group["differentiable"] for group in optimizer.param_groups):
            raise RuntimeError("differentiable=True cannot follow DTensor parameters")
        items = self._agreed(list(self._look()))
        self._rounds = self._start(items, grads=True)
        try:
            for part in self._rounds:
                if any(item.group.get("joined") for item in part.items):
                    part.arrive()  # read before their batches are opened
            batches = gather(optimizer)
            for batch in batches:
                self._attend(batch)
            optimizer.apply(batches + self._phantoms(items))
            self._send(everything=True)
            for item in self.silent:
                self._count(item)
            for part in self._rounds:
                part.settle()
        finally:
            self._forget()

    @torch.no_grad()
    def create_state(self) -> None:
        """Make the state of every DTensor parameter now; all processes take part."""
        try:
            for part in self._start(list(self._look()), grads=False):
                part.arrive()
            for stand, item in self._seen.items():
                self.optimizer.state_of(stand, item.group)
        finally:
            self._forget()

    def _look(self) -> Iterator[Seen]:
        """Every DTensor of which this process is to hold a part."""
        self._assign()
        for group in self.optimizer.rule_groups:
            whole = self.optimizer.needs_whole(group)
            for p in group["params"]:
                place = self.place(p) if isinstance(p, DTensor) and p.numel() else None
                if place is not None:
                    owner = self._owners[p] if whole else None
                    yield seen(p, group, place, owner)

    def place(self, p: Any) -> Place | None:
        """The processes that share a DTensor; None if this one is not among them."""
        mesh = p.device_mesh
        if mesh.get_coordinate() is None:
            return None
        if mesh not in self._places:
            self._places[mesh] = Place(mesh)
        return self._places[mesh]

    def owner(self, p: Tensor) -> int:
        """Who computes a tensor whole, as a number in the group of its mesh."""
        self._assign()
        return self._owners[p]

    def _assign(self) -> None:
        """Give an owner to every tensor that needs one and has none yet."""
        new: dict[Place, list[list[Tensor]]] = {}
        for group in self.optimizer.rule_groups:
            for unit in self.optimizer.units(group):
                first = unit[0]
                meshes = {getattr(p, "device_mesh", None) for p in unit}
                if len(meshes) > 1:
                    raise ValueError(
                        "tensors that are one matrix must lie on one device mesh, or "
                        f"none of them on any; got {len(meshes)} kinds"
                    )
                if isinstance(first, DTensor) and first not in self._owners:
                    place = self.place(first)
                    if place is not None and self.optimizer.needs_whole(group):
                        new.setdefault(place, []).append(unit)
        for place, units in new.items():
            costs = [sum(matrix_cost(p.shape) for p in unit) for unit in units]
            owners = assign(costs, place.size, place.loads)
            for unit, cost, owner in zip(units, costs, owners, strict=True):
                place.loads[owner] += cost
                self._owners |= dict.fromkeys(unit, owner)

    def _agreed(self, items: list[Seen]) -> list[Seen]:
        """Those that have a gradient somewhere, and whether all of it is finite."""
        by_place: dict[Place, list[Seen]] = {}
        for item in items:
            by_place.setdefault(item.place, []).append(item)
            grad = item.p.grad
            if grad is not None:
                if grad.placements != item.placements:
                    grad = grad.redistribute(item.p.device_mesh, item.placements)
                item.grad = grad.detach().to_local().to(item.local.dtype)
        there: set[Seen] = set()
        for place, some in by_place.items():
            there |= agree(place, some, self.optimizer)
        absent = {item.p for item in items if item not in there}
        for group in self.optimizer.param_groups:
            for unit in self.optimizer.units(group):
                if absent.intersection(unit):
                    absent.update(unit)
        return [item for item in items if item.p not in absent]

    def _start(self, items: list[Seen], grads: bool) -> list[Round]:
        """Put up what stands for each parameter; whole ones set out for their owner."""
        for item in items:
            if item.owner is not None:
                item.await_whole()
            else:
                item.stand = item.local
                shard = item.grad
                item.stand.grad = (
                    torch.zeros_like(item.local) if shard is None else shard
                )
            if item.stand is None:
                self.silent.append(item)
                self._quiet(item)
                continue
            self._stands[item.p] = item.stand
            self._seen[item.stand] = item
            self.optimizer.state[item.stand] = self.optimizer.state[item.p]
        rounds = rounds_of([item for item in items if item.owner is not None], grads)
        for part in rounds:
            part.fetch()
        return rounds

    def _attend(self, batch: Batch) -> None:
        """Tell a batch what was agreed, when to wait and when it is done."""
        items = [self._seen.get(p) for p in batch.tensors]
        batch.counts = self._counts(items[0])
        if items[0] is None:
            return
        batch.agreed = [x.finite for x in items if x and x.finite is not None]
        batch.moved = [x.moved for x in items if x and x.moved is not None]
        tensors = set(batch.tensors)
        parts = [part for part in self._rounds if tensors & part.open]

        def arrive() -> None:
            for part in parts:
                part.arrive()

        def leave() -> None:
            for part in parts:
                part.open -= tensors
            self._send()

        batch.before, batch.after = arrive, leave

    def _send(self, everything: bool = False) -> None:
        """Send back, in order, the rounds of which nothing is left to compute here."""
        while self._sent < len(self._rounds):
            part = self._rounds[self._sent]
            if part.open and not everything:
                return
            part.arrive()  # nobody may still be sending to this process
            part.give_back()
            self._sent += 1

    def _phantoms(self, items: list[Seen]) -> list[Batch]:
        """Tensors of zeros for groups of which another process has the tensors."""
        found: list[Batch] = []
        if not self.optimizer.couples:
            return found
        for group in self.optimizer.param_groups:
            some = [x for x in items if x.group is group and x.owner is not None]
            if not some or any(item.mine for item in some):
                continue
            small = min(some, key=lambda item: item.p.numel())
            stand = torch.zeros_like(small.local.new_empty(tuple(small.p.shape)))
            stand.grad = torch.zeros_like(stand)
            lr = resolve_lr(group["lr"], stand.device)
            batch = Batch({**group, "lr": lr}, [stand])
            batch.counts = False
            self._stands[stand] = stand  # so that its state goes with the step
            self._seen[stand] = small
            found.append(batch)
        return found

    def _quiet(self, item: Seen) -> State:
        """The state that every process keeps of a tensor that another computes."""
        state: State = self.optimizer.state[item.p]
        if "step" not in state:
            empty = item.local.new_empty(0, dtype=state_dtype(item.local.dtype))
            state.update(fresh_state(empty, item.group, self.optimizer.quiet_state))
        return state

    def _count(self, item: Seen) -> None:
        if item.finite is not None:
            state = self._quiet(item)
            state["step"] += item.taken
            state["skipped"] += 1.0 - item.finite.float()

    def _forget(self) -> None:
        for stand in self._seen:
            self.optimizer.state.pop(stand, None)
        self._seen, self._stands, self._rounds = {}, {}, []
        self.silent, self._sent = [], 0
