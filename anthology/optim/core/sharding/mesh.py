"""A device mesh: who holds which piece, who computes which tensor, and messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import Replicate, Shard


class Place:
    """The processes of one mesh, in the order of their group."""

    def __init__(self, mesh: Any) -> None:
        self.mesh = mesh
        self.group = _group_of(mesh)
        self.ranks = dist.get_process_group_ranks(self.group)
        self.rank, self.size = dist.get_rank(self.group), len(self.ranks)
        self.loads = [0.0] * self.size
        self._coordinates: list[list[int]] = [
            (mesh.mesh == rank).nonzero()[0].tolist() for rank in self.ranks
        ]

    def box(
        self, shape: Sequence[int], placements: Any, rank: int
    ) -> tuple[slice, ...]:
        """The part of a tensor that a process holds."""
        box = [(0, n) for n in shape]
        steps = zip(self.mesh.shape, self._coordinates[rank], placements, strict=True)
        for size, index, placement in steps:
            if type(placement) not in (Shard, Replicate):
                raise NotImplementedError(
                    f"a whole matrix cannot be put together from {placement}: shard "
                    "each axis of a tensor over one axis of the mesh only"
                )
            if isinstance(placement, Shard):
                first, last = box[placement.dim]
                part = -(-(last - first) // size)
                first = min(first + part * index, last)
                box[placement.dim] = (first, min(first + part, last))
        return tuple(slice(*ends) for ends in box)

    def counts(self, placements: Any, rank: int) -> bool:
        """Whether a process is the first of those that hold the same piece."""
        pairs = zip(self._coordinates[rank], placements, strict=True)
        return not any(index and p.is_replicate() for index, p in pairs)

    def exchange(
        self, rows: list[list[Tensor]], sizes: list[int], like: Tensor
    ) -> tuple[Tensor, Any]:
        """Send lists of tensors, one list to each process, without waiting."""
        counts = [sum(x.numel() for x in row) for row in rows]
        out = torch.cat([like.new_empty(0), *(x for row in rows for x in row)])
        came = like.new_empty(sum(sizes))
        work = dist.all_to_all_single(
            came, out, sizes, counts, group=self.group, async_op=True
        )
        return came, work


def everyone(x: Tensor, group: Any = None) -> Tensor:
    """A small tensor of every process of a group, stacked along a new first axis."""
    out = x.new_empty(dist.get_world_size(group), *x.shape)
    dist.all_gather_into_tensor(out.view(-1), x.contiguous().view(-1), group=group)
    return out


def _group_of(mesh: Any) -> Any:
    """A process group of all processes of a mesh."""
    if mesh.ndim == 1:
        return mesh.get_group()
    ranks = sorted(mesh.mesh.flatten().tolist())
    if ranks == list(range(dist.get_world_size())):
        return dist.group.WORLD
    return dist.new_group(ranks, use_local_synchronization=True)


def matrix_cost(shape: Sequence[int]) -> float:
    """Five Newton-Schulz steps, 20m²n + 10m³ with m ≤ n; the entries of a vector."""
    entries = math.prod(shape)
    if len(shape) < 2 or not entries:
        return float(entries)

    def cost(rows: int, columns: int) -> float:
        m, n = sorted((rows, columns))
        return 20.0 * m * m * n + 10.0 * m**3

    # beyond two axes the dearer of one matrix and a stack of those of the last two
    stack = entries // math.prod(shape[-2:]) * cost(*shape[-2:])
    return max(stack, cost(shape[0], entries // shape[0]))


def assign(
    costs: Sequence[float], ranks: int, loads: Sequence[float] | None = None
) -> list[int]:
    """The process of each task, the longest first, each to who has least to do so far.

    The largest load is at most 4/3 of the least possible, if `loads` is nothing
    (Graham 1969). Of two with as much to do the lower number takes it.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    work = list(loads) if loads is not None else [0.0] * ranks
    if len(work) != ranks:
        raise ValueError(f"loads needs one entry for each of {ranks} processes")
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[task] = work.index(min(work))
        work[owners[task]] += costs[task]
    return owners
