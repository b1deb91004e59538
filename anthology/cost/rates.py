"""How fast a device moves bytes and multiplies matrices, as measured."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product

import torch
from torch import Tensor

# Bytes in play while bandwidth is measured: twice as many from rung to rung, and
# closer where the last cache of a CPU ends.
CPU_SETS = tuple(
    int(x * 2**20) for x in (0.25, 0.5, 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256)
)
DEVICE_SETS = tuple(2**k for k in (23, 24, 25, 26, 27, 28, 31))
# Products (batch, rows, inner, columns) of which the fastest counts.
CPU_SIDES = ((1, 1024, 1024, 1024), (6, 384, 1536, 384), (1, 384, 1536, 1536))
DEVICE_SIDES = ((1, 8192, 8192, 8192), (1, 4096, 4096, 4096), (8, 4096, 4096, 4096))
DTYPES = ("float32", "bfloat16", "float64")
# Passes over the whole ladder, so that a disturbance of a second spoils one of them,
# and samples in each; bytes that a sample moves at least.
PASSES, SAMPLES, LEAST = 5, 2, 2**24

Way = tuple[int, Callable[[], object]]  # bytes moved, and how


@dataclass(frozen=True)
class Rates:
    """Measured rates of one device.

    `ladder` has pairs of bytes and bytes a second: bandwidth by the size of the working
    set, smallest first. `matmul` has operations a second by dtype, "float32" at least.
    """

    ladder: tuple[tuple[int, float], ...]
    matmul: Mapping[str, float]

    def bandwidth(self, working_set: float) -> float:
        """Bytes a second for a step that touches so many different bytes.

        Between two sizes of the ladder a power of the size that meets both; beyond its
        ends, that of the end.

        >>> Rates(((100, 8e9), (400, 2e9)), {"float32": 1e12}).bandwidth(200)
        4000000000.0
        """
        above = bisect_left([size for size, _ in self.ladder], working_set)
        if above in (0, len(self.ladder)):
            return self.ladder[min(above, len(self.ladder) - 1)][1]
        (low, fast), (high, slow) = self.ladder[above - 1 : above + 1]
        share = math.log(working_set / low) / math.log(high / low)
        return float(fast * (slow / fast) ** share)

    def rate(self, dtype: str) -> float:
        """Operations a second in a dtype; of "float32" where it was not measured."""
        return self.matmul.get(dtype, self.matmul["float32"])


def device_rates(
    device: torch.device | str = "cpu", threads: int | None = None
) -> Rates:
    """Measure a device, "cpu" or a CUDA device, once a process.

    A CPU with so many ``threads``, by default as many as PyTorch uses now. The best
    sample counts, since what others do to a machine can only slow it down: by time of
    the processor for one thread of a CPU, else on the wall. Bandwidth is that of the
    fastest of five ways to change arrays in place, from one array scaled to the four of
    PyTorch's fused AdamW; the rate of products that of the fastest of several shapes.
    What a set reaches every smaller one reaches too.
    """
    found = torch.device(device)
    count = (threads or torch.get_num_threads()) if found.type == "cpu" else 1
    return _measured(str(found), count)


@cache
def _measured(device: str, threads: int) -> Rates:
    on_cpu, before = torch.device(device).type == "cpu", torch.get_num_threads()
    sizes = CPU_SETS if on_cpu else DEVICE_SETS
    pool = torch.ones(max(sizes) // 4, device=device)
    ways = [_ways(pool[: size // 4]) for size in sizes]
    best = [0.0] * len(sizes)
    try:
        if on_cpu:
            torch.set_num_threads(threads)
        for _, (i, each) in product(range(PASSES), enumerate(ways)):
            rates = [moved / _fastest(run, moved, device) for moved, run in each]
            best[i] = max(best[i], *rates)
        matmul = {name: _products(name, device) for name in DTYPES}
    finally:
        torch.set_num_threads(before)
    rising = [max(best[i:]) for i in range(len(best))]
    return Rates(tuple(zip(sizes, rising, strict=True)), matmul)


def _ways(pool: Tensor) -> list[Way]:
    """Ways to change arrays that fill a pool of ones."""

    def arrays(count: int) -> list[Tensor]:
        n = pool.numel() // count
        return [pool[i * n : (i + 1) * n] for i in range(count)]

    (a,), (b, c), (d, e, f) = arrays(1), arrays(2), arrays(3)
    ways: list[Way] = [
        (8 * a.numel(), lambda: a.mul_(1.0)),
        (12 * b.numel(), lambda: b.lerp_(c, 0.5)),
        (16 * d.numel(), lambda: d.addcmul_(e, f, value=0.0)),
    ]
    if pool.device.type in ("cpu", "cuda"):
        p, q = (x[0].requires_grad_() for x in (arrays(3), arrays(4)))
        (_, p.grad, m), (_, q.grad, n, v) = arrays(3), arrays(4)
        sgd = torch.optim.SGD([p], 0.0, 0.9, dampening=0.9, fused=True)
        adamw = torch.optim.AdamW([q], 0.0, weight_decay=0.0, fused=True)
        sgd.state[p]["momentum_buffer"] = m
        adamw.state[q] = {"exp_avg": n, "exp_avg_sq": v}
        adamw.state[q]["step"] = torch.ones((), device=pool.device)
        ways += [(20 * p.numel(), sgd.step), (28 * q.numel(), adamw.step)]
    return ways


def _products(name: str, device: str) -> float:
    """Operations a second of the fastest product of several shapes."""
    found = []
    sides = CPU_SIDES if torch.device(device).type == "cpu" else DEVICE_SIDES
    for batch, rows, inner, columns in sides:
        x = torch.randn(batch, rows, inner, device=device).to(getattr(torch, name))
        y = torch.randn(batch, inner, columns, device=device).to(x)
        run = partial(torch.bmm, x, y, out=x.new_empty(batch, rows, columns))
        flops = 2.0 * batch * rows * inner * columns
        found += [flops / _fastest(run, LEAST, device) for _ in range(PASSES)]
    return max(found)


def _fastest(run: Callable[[], object], moved: int, device: str) -> float:
    """Seconds of the fastest sample of runs that move so many bytes, each a run's."""
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    runs = max(1, LEAST // moved)
    best = math.inf
    with torch.no_grad():
        run()
        for _ in range(SAMPLES):
            _wait(device)
            start = clock()
            for _ in range(runs):
                run()
            _wait(device)
            best = min(best, (clock() - start) / runs)
    return best


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
