"""Which process computes which matrix: by cost, the most expensive first."""

from __future__ import annotations

import math
from collections.abc import Sequence


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
