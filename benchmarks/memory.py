"""What a step allocates: bytes that stay, and the most there was on top."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile

# Else the profiler tells the terminal when it begins and ends, at every level below.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")

T = TypeVar("T")


def allocated(run: Callable[[], T], device: str) -> tuple[T, int, int]:
    """Run once and watch the allocator.

    Parameters
    ----------
    run : callable
        What is watched.
    device : str
        Whose memory.

    Returns
    -------
    tuple
        What it returned; bytes more than before at its end; the most bytes more
        than before at any time.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = run()
        torch.cuda.synchronize()
        kept = torch.cuda.memory_allocated() - before
        return result, kept, torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = run()
    now = peak = 0
    for change in _changes(found):
        now += change
        peak = max(peak, now)
    return result, now, peak


def _changes(found: Any) -> list[int]:
    """Bytes taken (positive) and given back (negative), in order."""
    events = found.profiler.kineto_results.events()
    memory = [e for e in events if e.name() == "[memory]"]
    memory = [e for e in memory if e.device_type().name == "CPU"]
    return [e.nbytes() for e in sorted(memory, key=lambda e: e.start_ns())]
