"""Tests for a CUDA device; without one they are rehearsed on the CPU.

There Triton's interpreter stands in for the device and a step for its captured graph;
what has no likeness on a CPU is skipped. ``ANTHOLOGY_DEVICE=cpu`` rehearses anywhere.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import pytest
import torch

CUDA = torch.cuda.is_available() and os.environ.get("ANTHOLOGY_DEVICE") != "cpu"
TOO_LATE = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"
if not CUDA and not TOO_LATE:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> str:
    """Where the test runs."""
    if not find_spec("triton"):
        pytest.skip("needs triton, which `pip install triton` has for Linux")
    if not CUDA and TOO_LATE:
        pytest.skip("triton was imported before: run tests/cuda first, or alone")
    return "cuda" if CUDA else "cpu"


@pytest.fixture
def card(device: str) -> str:
    """A real device: what is tested has no likeness on a CPU."""
    if device == "cpu":
        pytest.skip("needs a CUDA device")
    return device


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def no_waiting(device: str) -> Callable[[], Any]:
    """Within it, PyTorch raises an error where the host waits for the device."""
    return _no_waiting if device == "cuda" else nullcontext


@pytest.fixture
def capture(device: str) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Records a step as a CUDA graph, without taking it; what returns replays it."""

    def on_device(step: Callable[[], object]) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    return on_device if device == "cuda" else lambda step: step
