"""Samples of time, and which of them the rest of the machine has spoiled.

Linux counts for every thread how long it was ready to run and had to wait for a
processor. A sample in which the threads of this process waited longer than 2 % of it
is noisy: somebody else ran. Medians are taken over the clean samples, or, marked so,
over the three that waited least where fewer than three are clean. On a CUDA device events on its own stream
are the clock, which other programs on the host do not disturb.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

TOLERATED = 0.02
NEEDED = 3


@dataclass(frozen=True)
class Sample:
    """Seconds of one run: on the wall, of the processors, and spent waiting."""

    wall: float
    cpu: float
    waited: float

    @property
    def clean(self) -> bool:
        """Whether nobody else held the processors."""
        return self.waited <= TOLERATED * self.wall

    def over(self, runs: int) -> Sample:
        """The share of one of several runs."""
        return Sample(self.wall / runs, self.cpu / runs, self.waited / runs)


@dataclass(frozen=True)
class Summary:
    """Medians in seconds, and how many samples of how many were clean."""

    seconds: float
    wall: float
    cpu: float
    clean: int
    samples: int

    @property
    def noisy(self) -> bool:
        """Whether the medians had to be taken over spoiled samples."""
        return self.clean < min(NEEDED, self.samples)


def summarise(samples: Sequence[Sample], by: str = "wall") -> Summary:
    """Medians of the clean samples, or of the least spoiled if there are too few.

    Parameters
    ----------
    samples : sequence of Sample
        At least one.
    by : str
        Which clock ``seconds`` is from, "wall" or "cpu".

    Returns
    -------
    Summary
        Of one step.
    """
    clean = [s for s in samples if s.clean]
    least = sorted(samples, key=lambda s: s.waited / max(s.wall, 1e-9))[:NEEDED]
    used = clean if len(clean) >= len(least) else least
    wall = statistics.median(s.wall for s in used)
    cpu = statistics.median(s.cpu for s in used)
    chosen = {"wall": wall, "cpu": cpu}[by]
    return Summary(chosen, wall, cpu, len(clean), len(samples))


class Stopwatch:
    """Takes samples on one device.

    Parameters
    ----------
    device : str
        "cpu" or a CUDA device.
    """

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def __call__(self, run: Callable[[], object]) -> Sample:
        """Run once."""
        if self.cuda:
            return self._events(run)
        before = _waited()
        cpu, wall = time.process_time(), time.perf_counter()
        run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        after = _waited()
        if before is None or after is None:  # no such count on this system
            return Sample(wall, cpu, max(wall - cpu, 0.0))
        return Sample(wall, cpu, max(after - before, 0.0))

    def _events(self, run: Callable[[], object]) -> Sample:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        cpu = time.process_time()
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        cpu = time.process_time() - cpu
        return Sample(start.elapsed_time(end) / 1e3, cpu, 0.0)


def _waited() -> float | None:
    """Seconds that the threads of this process have waited for a processor."""
    total = 0
    try:
        for task in Path("/proc/self/task").iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return total * 1e-9
