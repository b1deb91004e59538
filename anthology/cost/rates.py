"""How fast a device moves bytes and multiplies matrices, as measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

# Bytes in play while bandwidth is measured, and the side of the matrices.
CPU_SETS = (2**18, 2**21, 2**23, 2**25, 2**28)
DEVICE_SETS = (2**24, 2**26, 2**31)
CPU_SIDE, DEVICE_SIDE = 1024, 8192
DTYPES = ("float32", "bfloat16", "float64")
SAMPLES = 9


@dataclass(frozen=True)
class Rates:
    """Measured rates of one device.

    Attributes
    ----------
    ladder : tuple of (bytes, bytes per second)
        Bandwidth by the size of the working set, smallest first: inside each cache
        and, last, outside of all.
    matmul : mapping of str to float
        Floating point operations a second by dtype, "float32" at least.
    """

    ladder: tuple[tuple[int, float], ...]
    matmul: Mapping[str, float]

    def bandwidth(self, working_set: float) -> float:
        """Bytes a second for a step that touches so many different bytes.

        Parameters
        ----------
        working_set : float
            Bytes.

        Returns
        -------
        float
            Of the smallest set measured that is not smaller; beyond the largest,
            that of the largest.
        """
        fits = [rate for size, rate in self.ladder if size >= working_set]
        return fits[0] if fits else self.ladder[-1][1]

    def rate(self, dtype: str) -> float:
        """Operations a second in a dtype.

        Parameters
        ----------
        dtype : str
            For example "bfloat16".

        Returns
        -------
        float
            That of "float32" where the dtype was not measured.
        """
        return self.matmul.get(dtype, self.matmul["float32"])


def device_rates(
    device: torch.device | str = "cpu", threads: int | None = None
) -> Rates:
    """Measure a device; a second measurement in a process is the first one's result.

    Parameters
    ----------
    device : torch.device or str
        For example "cpu" or "cuda". Default "cpu".
    threads : int, optional
        Threads on a CPU; without meaning elsewhere. Default None: as many as PyTorch
        uses now.

    Returns
    -------
    Rates
        Medians; on a CPU by time of the processors. Bandwidth is that of a copy or of
        scaling in place, whichever is faster, reading and writing both counted.
    """
    found = torch.device(device)
    count = (threads or torch.get_num_threads()) if found.type == "cpu" else 1
    return _measured(str(found), count)


@cache
def _measured(device: str, threads: int) -> Rates:
    on_cpu = torch.device(device).type == "cpu"
    with _threads(threads if on_cpu else None), torch.no_grad():
        sets = CPU_SETS if on_cpu else DEVICE_SETS
        ladder = [(size, _bandwidth(size, device)) for size in sets]
        matmul = {name: _matmul(name, device) for name in DTYPES}
    # what a large set reaches a small one does too
    best = [max(rate for _, rate in ladder[i:]) for i in range(len(ladder))]
    sizes = [size for size, _ in ladder]
    return Rates(tuple(zip(sizes, best, strict=True)), matmul)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _bandwidth(size: int, device: str) -> float:
    """Bytes a second of the faster of a copy and a scaling, in a set of this size."""
    half = torch.ones(size // 8, device=device)
    other, whole = torch.ones_like(half), torch.ones(size // 4, device=device)
    runs = max(1, 2**23 // size)

    def copy() -> None:
        for _ in range(runs):
            other.copy_(half)

    def scale() -> None:
        for _ in range(runs):
            whole.mul_(1.0)

    copied = runs * size / _median(copy, device)
    return max(copied, 2 * runs * size / _median(scale, device))


def _matmul(name: str, device: str) -> float:
    side = CPU_SIDE if torch.device(device).type == "cpu" else DEVICE_SIDE
    x = torch.randn(side, side, device=device).to(getattr(torch, name))
    out = torch.empty_like(x)
    return 2.0 * side**3 / _median(lambda: torch.mm(x, x, out=out), device)


def _median(run: Callable[[], object], device: str) -> float:
    """Median seconds of a run, the first two not counted.

    On a CPU time of the processors over threads, which other programs hardly change.
    """
    on_cpu = torch.device(device).type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    times = []
    for _ in range(SAMPLES + 2):
        _wait(device)
        start = clock()
        run()
        _wait(device)
        times.append(clock() - start)
    return statistics.median(times[2:]) / (torch.get_num_threads() if on_cpu else 1)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
