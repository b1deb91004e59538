"""How DTensor parameters (FSDP2, tensor parallelism) go through a rule.

A rule that works entry by entry sees the shard of this process. One that needs whole
matrices sees each on one process, chosen by cost: shards and gradients travel there
once, and new shards back, while others are computed. State lives where the rule runs.
Tensors on different meshes are different tensors: a layer that tensor parallelism
leaves out has copies, each of which would count where tensors are coupled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..batch import Batch
from ..dispatch import gather, resolve_lr
from ..state import State
from .checkpoint import quiet_state
from .mesh import Place, assign, everyone, matrix_cost
from .transfer import Round, Seen, rounds_of, vote


class Shards:
    """The layer between one optimizer and its DTensor parameters."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self._places: dict[Any, Place] = {}
        self._owners: dict[Tensor, int] = {}
        self._forget()

    def _forget(self) -> None:
        """What is known of one step only: what stands for what, and what travels."""
        for stand in getattr(self, "_seen", ()):
            self.optimizer.state.pop(stand, None)
        self._seen: dict[Tensor, Seen] = {}  # by what stands for it
        self._items: dict[Tensor, Seen] = {}  # by the parameter
        self._rounds: list[Round] = []

    # What the optimizer's rules ask

    def shown(self, p: Tensor) -> Tensor | None:
        """What stands for a parameter in this step; None if it is not for us."""
        if not isinstance(p, DTensor):
            return p
        return self._items[p].stand if p in self._items else None

    def label(self, stand: Tensor) -> Any:
        """What must not be mixed in one batch."""
        item = self._seen.get(stand)
        whole = item is not None and item.owner is not None
        return item is not None, whole, self._counts(item)

    def _counts(self, item: Seen | None) -> bool:
        """Whether sums over all tensors take a tensor from this process."""
        if item is None:  # a plain tensor, of which every process has a copy
            return dist.get_rank(self._everybody()) == 0
        return item.owner is not None or item.sends(item.place.rank)

    def _everybody(self) -> Any:
        """The group of all processes that share tensors; None for that of all."""
        places = list(self._places.values())
        return places[0].group if len(places) == 1 else None

    def everyone(self, x: Tensor) -> Tensor:
        """A small tensor of every process, stacked along a new first axis."""
        return everyone(x.double(), self._everybody()).to(x.dtype)

    def quiet_states(self, group: Mapping[str, Any]) -> list[State]:
        """What is kept here of tensors that another process computes in this step."""
        own = group["params"] if group.get("per_group") else None
        return [
            self.optimizer.state[item.p]
            for item in self._silent
            if own is None or item.group["params"] is own
        ]

    @property
    def _silent(self) -> list[Seen]:
        return [item for item in self._items.values() if item.stand is None]

    def place(self, p: Any) -> Place | None:
        """The processes that share a DTensor; None if this one is not among them."""
        mesh = p.device_mesh
        if mesh not in self._places and mesh.get_coordinate() is not None:
            self._places[mesh] = Place(mesh)
        return self._places.get(mesh)

    def owner(self, p: Tensor) -> int:
        """Who computes a tensor whole, as a number in the group of its mesh."""
        self._assign()
        return self._owners[p]

    # The step

    @torch.no_grad()
    def step(self) -> None:
        """One step over all parameters, DTensors and others."""
        optimizer = self.optimizer
        if any(group["differentiable"] for group in optimizer.param_groups):
            raise RuntimeError("differentiable=True cannot follow DTensor parameters")
        try:
            self._start(self._agreed(list(self._look())), grads=True)
            for part in self._rounds:
                if any(item.group.get("joined") for item in part.items):
                    part.arrive()  # read before their batches are opened
            batches = gather(optimizer)
            for batch in batches:
                self._attend(batch)
            optimizer.apply([*batches, *self._phantoms()])
            for part in self._rounds:
                part.give_back()
            self._count()
            for part in self._rounds:
                part.settle()
        finally:
            self._forget()

    @torch.no_grad()
    def create_state(self) -> None:
        """Make the state of every DTensor parameter now; all processes take part."""
        try:
            self._start(list(self._look()), grads=False)
            for part in self._rounds:
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
                    yield Seen(p, group, place, self._owners[p] if whole else None)

    def _assign(self) -> None:
        """Give an owner to every tensor that needs one and has none yet."""
        new: dict[Place, list[Sequence[Tensor]]] = {}
        for group in self.optimizer.rule_groups:
            whole = self.optimizer.needs_whole(group)
            for unit in _units(group):
                first, place = unit[0], None
                meshes = {getattr(p, "device_mesh", None) for p in unit}
                if len(meshes) > 1:
                    raise ValueError(
                        "tensors that are one matrix must lie on one device mesh, or "
                        f"none of them on any; got {len(meshes)} kinds"
                    )
                if whole and isinstance(first, DTensor) and first not in self._owners:
                    place = self.place(first)
                if place is not None:
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
            item.take_gradient()
        there: set[Seen] = set()
        for some in by_place.values():
            there |= vote(some, self.optimizer)
        absent = {item.p for item in items if item not in there}
        for group in self.optimizer.param_groups if absent else ():
            for unit in _units(group):
                if absent.intersection(unit):
                    absent.update(unit)
        return [item for item in items if item.p not in absent]

    def _start(self, items: list[Seen], grads: bool) -> None:
        """Put up what stands for each parameter; whole ones set out for their owner."""
        state = self.optimizer.state
        for item in items:
            item.put_up()
            self._items[item.p] = item
            kept = state[item.p]
            if item.stand is not None:
                self._seen[item.stand] = item
                state[item.stand] = kept
            elif "step" not in kept:
                kept.update(quiet_state(self.optimizer, item.local, item.group))
        whole = [item for item in items if item.owner is not None]
        self._rounds = rounds_of(whole, grads)

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
            for part in self._rounds:  # in order, until one is not ready
                if part.open:
                    return
                part.give_back()

        batch.before, batch.after = arrive, leave

    def _phantoms(self) -> Iterator[Batch]:
        """Tensors of zeros for groups of which another process has the tensors."""
        items = [item for item in self._items.values() if item.owner is not None]
        for group in self.optimizer.param_groups if self.optimizer.couples else ():
            some = [item for item in items if item.group is group]
            if some and not any(item.mine for item in some):
                small = min(some, key=lambda item: item.p.numel())
                stand = torch.zeros_like(small.local.new_empty(tuple(small.p.shape)))
                stand.grad = torch.zeros_like(stand)
                self._seen[stand] = small  # so that its state goes with the step
                lr = resolve_lr(group["lr"], stand.device)
                batch = Batch({**group, "lr": lr}, [stand])
                batch.counts = False
                yield batch

    def _count(self) -> None:
        """Count the steps that other processes have taken, as they do."""
        for item in self._silent:
            assert item.finite is not None
            took = item.finite if item.moved is None else item.finite & item.moved
            state = self.optimizer.state[item.p]
            state["step"] += took.float()
            state["skipped"] += 1.0 - item.finite.float()


def _units(group: Mapping[str, Any]) -> Iterable[Sequence[Tensor]]:
    """The parameters of a group, those together that are one matrix."""
    every = group["params"]
    width = 2 if group.get("joined") else 1
    return (every[i : i + width] for i in range(0, len(every), width))
