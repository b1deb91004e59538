"""Whole matrices on their way to the process that computes them, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from ..state import real
from .mesh import Place

# Numbers that travel to one process together. While it computes one round the next is
# on its way.
ROUND = 2**24


@dataclass(eq=False)
class Seen:
    """A DTensor parameter during one step, as this process sees it."""

    p: Any
    group: dict[str, Any]
    place: Place
    owner: int | None  # who computes it whole, None where shards do
    grad: Tensor | None = None
    stand: Tensor | None = None  # for the rule, None where another process has it
    finite: Tensor | None = None
    moved: Tensor | None = None

    def __post_init__(self) -> None:
        self.placements, shown = self.p.placements, self.p.detach()
        kinds = {type(x) for x in self.placements}
        if self.owner is not None and not kinds <= {Shard, Replicate}:
            self.placements = (Replicate(),) * self.place.mesh.ndim
            shown = shown.redistribute(self.place.mesh, self.placements)
        self.local: Tensor = shown.to_local().detach()

    @property
    def mine(self) -> bool:
        """Whether this process computes the whole tensor."""
        return self.owner == self.place.rank

    def sends(self, rank: int) -> bool:
        """Whether a process is the one that sends its piece."""
        return self.place.counts(self.placements, rank)

    def take_gradient(self) -> None:
        """Keep the shard of the gradient that belongs to that of the parameter."""
        grad = self.p.grad
        if grad is not None:
            if grad.placements != self.placements:
                grad = grad.redistribute(self.p.device_mesh, self.placements)
            self.grad = grad.detach().to_local().to(self.local.dtype)

    def put_up(self) -> None:
        """Make what stands for it: its shard, on the owner room for all of it."""
        if self.owner is None:
            self.stand = self.local
            self.stand.grad = self.slope()
        elif self.mine:
            self.stand = self.local.new_empty(tuple(self.p.shape))
            self.stand.grad = torch.empty_like(self.stand)

    def slope(self) -> Tensor:
        """The shard of the gradient; zeros if another process has one."""
        return torch.zeros_like(self.local) if self.grad is None else self.grad

    def part(self, x: Tensor | None, rank: int) -> Tensor | None:
        """The part of a whole tensor that a process holds, where there is one here."""
        if x is None:
            return None
        return real(x)[self.place.box(self.p.shape, self.placements, rank)]

    def restore(self) -> None:
        """Write the shard of a tensor that was put together by PyTorch."""
        mesh, placements = self.p.device_mesh, self.p.placements
        if self.placements != placements:
            whole = DTensor.from_local(
                self.local, mesh, self.placements, run_check=False
            )
            part = whole.redistribute(mesh, placements)
            self.p.detach().to_local().copy_(part.to_local())


# From whom, to whom, what is sent from here, where to write what comes here.
Parcel = tuple[int, int, Tensor | None, Tensor | None]


class Message:
    """Pieces of tensors between the processes of a mesh; sent at once, without waiting."""

    def __init__(self, place: Place, like: Tensor, parcels: Iterable[Parcel]) -> None:
        rows: list[list[Tensor]] = [[] for _ in place.ranks]
        self._into: list[list[Tensor]] = [[] for _ in place.ranks]
        for source, target, sent, written in parcels:
            if source == place.rank and sent is not None:
                rows[target].append(sent.reshape(-1))
            if target == place.rank and written is not None:
                self._into[source].append(written)
        sizes = [sum(x.numel() for x in row) for row in self._into]
        self._came, self._work = place.exchange(rows, sizes, like)

    def write(self) -> None:
        """Wait for what comes and write it."""
        self._work.wait()
        start = 0
        for x in (x for row in self._into for x in row):
            stop = start + x.numel()
            x.copy_(self._came[start:stop].view(x.shape))
            start = stop


class Round:
    """Some tensors of one mesh and dtype that travel together; they set out at once."""

    def __init__(self, items: list[Seen], grads: bool) -> None:
        self.items, self.place = items, items[0].place
        self.like = real(items[0].local)
        self.open = {item.stand for item in items if item.mine}
        self._there: Message | None = self._message(self._shards(grads))
        self._back: Message | None = None

    def arrive(self) -> None:
        """Wait for the shards and put them together; the second call does nothing."""
        if self._there is not None:
            self._there.write()
            self._there = None

    def give_back(self) -> None:
        """Send every process its part of the new tensors; does not wait."""
        self._back = self._message(
            (item.owner or 0, rank, item.part(item.stand, rank), real(item.local))
            for item, rank in self._pieces()
        )

    def settle(self) -> None:
        """Wait for the new shards and write them."""
        if self._back is not None:
            self._back.write()
            for item in self.items:
                item.restore()

    def _message(self, parcels: Iterable[Parcel]) -> Message:
        return Message(self.place, self.like, parcels)

    def _pieces(self) -> Iterator[tuple[Seen, int]]:
        """Every tensor with who holds a piece of it; of others' only our own."""
        for item in self.items:
            every = range(self.place.size) if item.mine else (self.place.rank,)
            yield from ((item, rank) for rank in every)

    def _shards(self, grads: bool) -> Iterator[Parcel]:
        for item, rank in self._pieces():
            if item.sends(rank):
                owner, stand = item.owner or 0, item.stand
                yield rank, owner, real(item.local), item.part(stand, rank)
                if grads:
                    slope = item.slope() if rank == self.place.rank else item.local
                    stand = None if stand is None else stand.grad
                    yield rank, owner, real(slope), item.part(stand, rank)


def rounds_of(items: list[Seen], grads: bool) -> list[Round]:
    """Split tensors into rounds in which every owner has about as much to get."""
    parts: dict[Any, list[Seen]] = {}
    got: dict[Any, list[int]] = {}
    for item in items:
        kind = (item.place, item.local.device, item.local.dtype)
        turn = got.setdefault((*kind, item.owner), [0, 0])  # which round, how full
        size = item.p.numel()
        if turn[1] and turn[1] + size > ROUND:
            turn[:] = [turn[0] + 1, 0]
        turn[1] += size
        parts.setdefault((turn[0], *kind), []).append(item)
    turns = sorted(parts, key=lambda key: int(key[0]))
    return [Round(parts[key], grads) for key in turns]
