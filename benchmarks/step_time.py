"""Time of one optimizer step against torch.optim, on this machine.

    python -m benchmarks.step_time [--repeats 15] [--device cpu]

Every method takes one step in turn, round after round, so that a disturbance of the
machine meets all of them; the median over the rounds is reported, and its ratio to
`torch.optim` with foreach. On a CPU it is time of the processor, one thread, which
other programs disturb least. Nothing is stored: figures belong to a machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from anthology.optim import AdamW, RootFreeRMSProp, SteepestDescent

Factory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


def gpt_like(device: str) -> list[torch.Tensor]:
    """About 12 million numbers in the shapes of a small transformer."""
    width, tokens, layers = 384, 4096, 6
    shapes: list[tuple[int, ...]] = [(tokens, width), (256, width)]
    for _ in range(layers):
        shapes += [(3 * width, width), (width, width), (4 * width, width)]
        shapes += [(width, 4 * width), (width,), (width,)]
    return parameters(shapes, device)


def many_small(device: str) -> list[torch.Tensor]:
    """500 matrices of 64 × 64: two million numbers, all of it overhead."""
    return parameters([(64, 64)] * 500, device)


def parameters(shapes: list[tuple[int, ...]], device: str) -> list[torch.Tensor]:
    """Random parameters with random gradients."""
    made = []
    for shape in shapes:
        p = torch.randn(shape, device=device).requires_grad_()
        p.grad = torch.randn(shape, device=device)
        made.append(p)
    return made


METHODS: dict[str, Factory] = {
    "torch AdamW foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "torch AdamW loop": lambda p: torch.optim.AdamW(p, foreach=False),
    "torch AdamW fused": lambda p: torch.optim.AdamW(p, fused=True),
    "AdamW": lambda p: AdamW(p),
    "AdamW loop": lambda p: AdamW(p, foreach=False),
    "AdamW fused": lambda p: AdamW(p, fused=True),
    "RootFreeRMSProp": lambda p: RootFreeRMSProp(p, batch_size=64),
    "SteepestDescent L∞": lambda p: SteepestDescent(p, 1e-3, 0.9, norm="LInf()"),
}


def measure(
    make: Callable[[str], list[torch.Tensor]], repeats: int, device: str
) -> dict[str, float]:
    """Median seconds of one step of each method, measured in turn."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    optimizers = {name: new(make(device)) for name, new in METHODS.items()}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for round_number in range(repeats + 2):
        for name, optimizer in optimizers.items():
            wait(device)
            start = clock()
            optimizer.step()
            wait(device)
            if round_number >= 2:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def wait(device: str) -> None:
    """Let the device finish."""
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print one table for each set of parameters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for make in (gpt_like, many_small):
        medians = measure(make, arguments.repeats, arguments.device)
        base = medians["torch AdamW foreach"]
        print(f"{make.__name__}: {(make.__doc__ or '').splitlines()[0]}")
        for name, seconds in medians.items():
            print(f"  {name:22} {1e3 * seconds:9.2f} ms  {seconds / base:6.2f}")


if __name__ == "__main__":
    main()
