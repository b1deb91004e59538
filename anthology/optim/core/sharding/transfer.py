"""What processes tell each other in a step: who moves, and whole matrices both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

from .. import batch
from ..state import real, state_dtype
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


def vote(items: list[Seen], optimizer: Any) -> set[Seen]:
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
            moved = torch.stack(batch.nonzero_flags(grads)).int()
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


# From whom, to whom, what is sent from here, where to write what comes here.
Parcel = tuple[int, int, Tensor | None, Tensor | None]


def send(place: Place, like: Tensor, parcels: Iterable[Parcel]) -> Callable[[], None]:
    """Send pieces, without waiting; what it returns waits for ours and writes them."""
    rows: list[list[Tensor]] = [[] for _ in place.ranks]
    into: list[list[Tensor]] = [[] for _ in place.ranks]
    for source, target, sent, written in parcels:
        if source == place.rank and sent is not None:
            rows[target].append(sent.reshape(-1))
        if target == place.rank and written is not None:
            into[source].append(written)
    sizes = [sum(x.numel() for x in row) for row in into]
    came, work = place.exchange(rows, sizes, like)

    def write() -> None:
        work.wait()
        views = [x for row in into for x in row]
        parts = came.split([x.numel() for x in views])
        for x, part in zip(views, parts, strict=True):
            x.copy_(part.view(x.shape))

    return write


class Round:
    """Some tensors of one mesh and dtype that travel together; they set out at once."""

    def __init__(self, items: list[Seen], grads: bool) -> None:
        self.items, self.place = items, items[0].place
        self.open = {item.stand for item in items if item.mine}
        self._back: Callable[[], None] | None = None
        self._there: Callable[[], None] | None = self._send(self._shards(grads))

    def arrive(self) -> None:
        """Wait for the shards and put them together; the second call does nothing."""
        if self._there is not None:
            self._there()
            self._there = None

    def give_back(self) -> None:
        """Send every process its part of the new tensors, once; does not wait."""
        self.arrive()  # nobody may still be sending to this process
        if self._back is None:
            self._back = self._send(
                (item.owner or 0, rank, item.part(item.stand, rank), real(item.local))
                for item, rank in self._pieces()
            )

    def settle(self) -> None:
        """Wait for the new shards and write them."""
        if self._back is not None:
            self._back()
            for item in self.items:
                item.restore()

    def _send(self, parcels: Iterable[Parcel]) -> Callable[[], None]:
        return send(self.place, real(self.items[0].local), parcels)

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
    full: dict[Any, tuple[int, int]] = {}  # the last round of an owner, and its size
    for item in items:
        kind = (item.place, item.local.device, item.local.dtype)
        turn, got = full.get((*kind, item.owner), (0, 0))
        size = item.p.numel()
        if got and got + size > ROUND:
            turn, got = turn + 1, 0
        full[*kind, item.owner] = turn, got + size
        parts.setdefault((turn, *kind), []).append(item)
    return [Round(parts[key], grads) for key in sorted(parts, key=lambda k: k[0])]
