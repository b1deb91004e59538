"""Which process computes which matrix: by cost, the most expensive first."""

from __future__ import annotations

import math
from collections.abc import Sequence


def matrix_cost(shape: Sequence[int]) -> float:
    """The work of one step of a matrix method, for comparison only.

    Parameters
    ----------
    shape : sequence of int
        Shape of the parameter. Beyond two axes it counts as the dearer of one matrix
        (first axis × the rest) and a stack of those of its last two axes.

    Returns
    -------
    float
        20m²n + 10m³ for a matrix with sides m ≤ n, the floating-point operations of
        five Newton-Schulz steps; the number of entries for up to one axis.

    Examples
    --------
    >>> from anthology.optim.core.sharding.assign import matrix_cost
    >>> matrix_cost((10, 20))
    50000.0
    """
    entries = math.prod(shape)
    if len(shape) < 2 or not entries:
        return float(entries)
    rows, columns = shape[-2:]
    flat = _cost(shape[0], entries // shape[0])
    return max(flat, entries // (rows * columns) * _cost(rows, columns))


def _cost(rows: int, columns: int) -> float:
    m, n = sorted((rows, columns))
    return 20.0 * m * m * n + 10.0 * m**3


def assign(
    costs: Sequence[float], ranks: int, loads: Sequence[float] | None = None
) -> list[int]:
    """Give each task to a process so that none has much more than its share.

    Parameters
    ----------
    costs : sequence of float
        One a task, at least 0.
    ranks : int
        Number of processes.
    loads : sequence of float, optional
        What each has to do already. Default nothing.

    Returns
    -------
    list of int
        The process of each task: the longest task first, each to the process with the
        least to do, the lower number where two have the same. The largest load is at
        most 4/3 of the least possible (Graham 1969), if nothing was there before.

    Raises
    ------
    ValueError
        If there is no process, or `loads` has not one entry for each.

    Examples
    --------
    >>> from anthology.optim.core.sharding.assign import assign
    >>> assign([5.0, 4.0, 3.0, 3.0, 3.0], 2)
    [0, 1, 1, 0, 1]
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    heap = list(loads) if loads is not None else [0.0] * ranks
    if len(heap) != ranks:
        raise ValueError(f"loads needs one entry for each of {ranks} processes")
    owners = [0] * len(costs)
    for task in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owner = heap.index(min(heap))
        heap[owner] += costs[task]
        owners[task] = owner
    return owners


def traffic(
    shapes: Sequence[Sequence[int]], owners: Sequence[int], ranks: int
) -> list[tuple[int, int]]:
    """The numbers that each process sends and receives in one step.

    The rows of every parameter are dealt out, ⌈rows/ranks⌉ to each process in turn as
    long as there are any. Shards of parameter and gradient go to the owner, the new
    shards come back; what a process has already does not travel.

    Parameters
    ----------
    shapes : sequence of sequence of int
        One a parameter, none of them empty.
    owners : sequence of int
        Of `assign`.
    ranks : int
        Number of processes.

    Returns
    -------
    list of tuple of int
        Sent and received, one pair a process.

    Examples
    --------
    >>> from anthology.optim.core.sharding.assign import traffic
    >>> traffic([(4, 3)], [0], 2)  # 6 + 6 numbers to process 0, 6 back
    [(6, 12), (12, 6)]
    """
    sent, received = [0] * ranks, [0] * ranks
    for shape, owner in zip(shapes, owners, strict=True):
        row = math.prod(shape[1:])
        part = -(-shape[0] // ranks)
        for rank in range(min(ranks, -(-shape[0] // part))):
            if rank != owner:
                numbers = row * min(part, shape[0] - rank * part)
                sent[rank] += 2 * numbers
                received[owner] += 2 * numbers
                sent[owner] += numbers
                received[rank] += numbers
    return list(zip(sent, received, strict=True))
