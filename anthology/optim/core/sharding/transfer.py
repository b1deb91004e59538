"""Whole matrices on their way to the process that computes them, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from ..state import real
from .mesh import Place, flat, volume

# Numbers that travel to one process together. While it computes one round the next is
# on its way.
ROUND = 2**24


@dataclass(eq=False)
class Seen:
    """A DTensor parameter during one step, as this process sees it."""

    p: Any
    group: dict[str, Any]
    place: Place
    owner: int | None
    local: Tensor
    placements: Any
    grad: Tensor | None = None
    stand: Tensor | None = None
    finite: Tensor | None = None
    moved: Tensor | None = None

    @property
    def taken(self) -> Tensor:
        """0-d, one where its step is taken; only once `finite` is known."""
        assert self.finite is not None
        flag = self.finite if self.moved is None else self.finite & self.moved
        return flag.float()

    @property
    def mine(self) -> bool:
        """Whether this process computes the whole tensor."""
        return self.owner == self.place.rank

    def box(self, rank: int) -> tuple[slice, ...]:
        """The part of the whole tensor that a process holds."""
        return self.place.box(self.p.shape, self.placements, rank)

    def sends(self, rank: int) -> bool:
        """Whether a process is the one that sends its piece."""
        return self.place.counts(self.placements, rank)

    def numbers(self, rank: int) -> int:
        """How many real numbers that part has."""
        return volume(self.box(rank), self.local)

    def await_whole(self) -> None:
        """Make room on the owner for the whole tensor and its gradient."""
        if self.mine:
            self.stand = self.local.new_empty(tuple(self.p.shape))
            self.stand.grad = torch.empty_like(self.stand)


def seen(p: Any, group: dict[str, Any], place: Place, owner: int | None) -> Seen:
    """A DTensor as this process sees it; see `Seen`."""
    placements = p.placements
    shown = p.detach()
    if owner is not None and any(type(x) not in (Shard, Replicate) for x in placements):
        placements = (Replicate(),) * place.mesh.ndim
        shown = shown.redistribute(place.mesh, placements)
    return Seen(p, group, place, owner, shown.to_local().detach(), placements)


def restore(item: Seen) -> None:
    """Write the shard of a tensor that was put together by PyTorch."""
    if item.placements != item.p.placements:
        whole = DTensor.from_local(
            item.local, item.p.device_mesh, item.placements, run_check=False
        )
        part = whole.redistribute(item.p.device_mesh, item.p.placements)
        item.p.detach().to_local().copy_(part.to_local())


class Round:
    """Some tensors of one mesh and dtype that travel together."""

    def __init__(self, items: list[Seen], grads: bool = True) -> None:
        self.items, self.grads = items, grads
        self.place = items[0].place
        self.like = real(items[0].local)
        self.open = {item.stand for item in items if item.mine}
        self._came: tuple[Tensor, Any] | None = None
        self._back: tuple[Tensor, Any] | None = None

    def fetch(self) -> None:
        """Send every shard to the owner of its tensor; does not wait."""
        rows: list[list[Tensor]] = [[] for _ in self.place.ranks]
        sizes = [0] * self.place.size
        for item in self.items:
            owner = item.owner or 0
            if item.sends(self.place.rank):
                rows[owner] += [flat(x) for x in self._parts(item)]
            if item.mine:
                for rank in filter(item.sends, range(self.place.size)):
                    sizes[rank] += item.numbers(rank) * (1 + self.grads)
        self._came = self.place.exchange(rows, sizes, self.like)

    def _parts(self, item: Seen) -> list[Tensor]:
        if not self.grads:
            return [item.local]
        grad = torch.zeros_like(item.local) if item.grad is None else item.grad
        return [item.local, grad.to(item.local.dtype)]

    def arrive(self) -> None:
        """Wait for the shards and put them together; the second call does nothing."""
        if self._came is None:
            return
        (numbers, work), self._came = self._came, None
        work.wait()
        start = 0
        for rank in range(self.place.size):
            for item in self.items:
                if item.stand is None or not item.sends(rank):
                    continue
                whole = [item.stand, item.stand.grad][: 1 + self.grads]
                for x in whole:
                    stop = start + item.numbers(rank)
                    part = real(x)[item.box(rank)]  # type: ignore[arg-type]
                    part.copy_(numbers[start:stop].view(part.shape))
                    start = stop

    def give_back(self) -> None:
        """Send every process its part of the new tensors; does not wait."""
        rows: list[list[Tensor]] = [[] for _ in self.place.ranks]
        sizes = [0] * self.place.size
        for item in self.items:
            sizes[item.owner or 0] += item.numbers(self.place.rank)
            if item.stand is not None:
                for rank, row in enumerate(rows):
                    row.append(real(item.stand)[item.box(rank)].reshape(-1))
        self._back = self.place.exchange(rows, sizes, self.like)

    def settle(self) -> None:
        """Wait for the new shards and write them."""
        if self._back is None:
            return
        numbers, work = self._back
        work.wait()
        start = 0
        for rank in range(self.place.size):
            for item in self.items:
                if item.owner == rank:
                    stop = start + item.numbers(self.place.rank)
                    part = real(item.local)
                    part.copy_(numbers[start:stop].view(part.shape))
                    start = stop
        for item in self.items:
            restore(item)


def rounds_of(items: list[Seen], grads: bool = True) -> list[Round]:
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
