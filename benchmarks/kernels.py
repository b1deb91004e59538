"""The Triton kernels against what the device can do, on CUDA.

    python -m benchmarks.kernels [--parts elementwise,products,batched,step]

Every kernel and its peer take turns, round after round, timed by events on the
device; medians. Element-wise passes are compared with the bandwidth of a copy,
symmetric products with a product of two matrices, whole steps with PyTorch's. The
goal, what was measured and whether it is reached stand in one line each.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anthology.cost.rates import device_rates
from anthology.kernels import prodigy
from anthology.kernels.entrywise import RULES, step
from anthology.kernels.symmetric import gram, quadratic
from anthology.linalg.polar import polar
from anthology.optim import AdamW, Muon

from .clock import Stopwatch
from .sets import SETS, fill

# Bytes that must move for each float32 parameter: gradient and parameter in, averages
# in and out, parameter out. Prodigy's two passes read and write 36 and 16.
BYTES = {0: 12, 1: 20, 2: 28}
PRODIGY_BYTES = 52


@dataclass(frozen=True)
class Goal:
    """A figure, what it should be, and whether larger or smaller is better."""

    name: str
    figure: float
    goal: float
    larger: bool
    detail: str

    @property
    def reached(self) -> bool:
        """Whether the figure is as good as the goal."""
        better = self.figure >= self.goal
        return better if self.larger else self.figure <= self.goal

    def __str__(self) -> str:
        sign = "≥" if self.larger else "≤"
        verdict = "reached" if self.reached else "MISSED"
        return (
            f"{verdict:8} {self.name:38} {self.figure:6.2f} {sign} {self.goal:4.2f}  "
            f"{self.detail}"
        )


def alternate(
    runs: dict[str, Callable[[], object]], device: str, rounds: int
) -> dict[str, float]:
    """Median seconds of each run, one after the other in every round."""
    watch = Stopwatch(device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 3):
        for name, run in runs.items():
            sample = watch(run)
            if number >= 3:
                times[name].append(sample.wall)
    return {name: statistics.median(values) for name, values in times.items()}


def elementwise(device: str, numbers: int, rounds: int) -> list[Goal]:
    """Each rule on one long tensor, against a copy and PyTorch's fused steps."""
    p, g, m, v, w0, s = (torch.randn(numbers, device=device) for _ in range(6))
    v.abs_()
    three = torch.tensor([1e-3, 1e-3, 1.0], device=device)
    other = torch.empty_like(p)

    def rule(name: str) -> Callable[[], object]:
        averages = [m, v][: RULES[name]]
        return lambda: step(name, p, g, averages, three, eps=1e-8, decay=0.01)

    def two_passes() -> None:
        betas = (0.9, 0.999, 0.999**0.5)
        prodigy.observe(p, g, w0, [m, v, s], three[:2], betas=betas)
        prodigy.move(p, [m, v], three[:2], decay=0.01)

    runs: dict[str, Callable[[], object]] = {"copy": lambda: other.copy_(p)}
    runs |= {name: rule(name) for name in RULES}
    runs["prodigy"] = two_passes
    if torch.device(device).type == "cuda":
        q = torch.nn.Parameter(torch.randn(numbers, device=device))
        q.grad = g
        runs["torch AdamW"] = torch.optim.AdamW([q], fused=True).step
        runs["torch SGD"] = torch.optim.SGD([q], momentum=0.9, fused=True).step
        runs["torch descent"] = torch.optim.SGD([q], fused=True).step
    times = alternate(runs, device, rounds)
    bandwidth = 8 * numbers / times["copy"]
    peers = {"adamw": "torch AdamW", "sgd": "torch SGD", "descent": "torch descent"}
    found = []
    for name in [*RULES, "prodigy"]:
        size = BYTES[RULES[name]] if name in RULES else PRODIGY_BYTES
        share = size * numbers / times[name] / bandwidth
        detail = f"of copy bandwidth, {1e3 * times[name]:.3f} ms"
        if peers.get(name) in times:
            ratio = times[name] / times[peers[name]]
            detail += f"; {ratio:.2f} of the time of {peers[name]} fused"
        found.append(Goal(f"{name}, {numbers:.0e} numbers", share, 0.9, True, detail))
    return found


def products(device: str, sides: list[int], rounds: int) -> list[Goal]:
    """XXᵀ and bA + cA² at half the multiplications, against the rate of a product."""
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        for side in sides:
            x = torch.randn(side, side, device=device).to(dtype)
            x /= side**0.5
            a = gram(x)
            runs: dict[str, Callable[[], object]] = {
                "product": lambda x=x: x @ x.mT,  # type: ignore[misc]
                "gram": lambda x=x: gram(x),  # type: ignore[misc]
                "quadratic": lambda a=a: quadratic(a, -4.775, 2.0315),  # type: ignore[misc]
            }
            times = alternate(runs, device, rounds)
            kind = str(dtype).removeprefix("torch.")
            for name in ("gram", "quadratic"):
                share = times["product"] / 2 / times[name]
                detail = f"of the symmetric limit, {1e3 * times[name]:.3f} ms"
                title = f"{name}, {kind}, {side}"
                found.append(Goal(title, share, 0.7, True, detail))
    return found


def factors(device: str, sides: list[int], rounds: int) -> list[Goal]:
    """Polar factors in bfloat16, against the rate of a product.

    Of a step's three products of square matrices two are symmetric, so that it needs
    as many multiplications as two whole ones.
    """
    found, steps = [], 5
    for side in sides:
        x = torch.randn(side, side, device=device)
        y = x.bfloat16()
        runs: dict[str, Callable[[], object]] = {
            "product": lambda y=y: y @ y.mT,  # type: ignore[misc]
            "polar": lambda x=x: polar(x, "muon", steps, dtype=torch.bfloat16),  # type: ignore[misc]
        }
        times = alternate(runs, device, rounds)
        share = 2 * steps * times["product"] / times["polar"]
        detail = f"of the symmetric limit, {1e3 * times['polar']:.3f} ms"
        found.append(Goal(f"polar, bfloat16, {side}", share, 0.7, True, detail))
    return found


def batched(device: str, count: int, side: int, rounds: int) -> list[Goal]:
    """Polar factors of a stack at once, against one after the other."""
    stack = torch.randn(count, side, side, device=device)

    def one(x: Tensor) -> Tensor:
        return polar(x, "polar-express", dtype=torch.bfloat16)

    runs: dict[str, Callable[[], object]] = {
        "loop": lambda: [one(x) for x in stack],
        "stack": lambda: one(stack),
    }
    times = alternate(runs, device, rounds)
    figure = times["loop"] / times["stack"]
    title = f"{count} matrices of {side}², batched"
    return [Goal(title, figure, 8.0, True, "times faster than the loop")]


def whole_step(device: str, shapes: str, rounds: int) -> list[Goal]:
    """A step of Muon over the matrices of a model, against PyTorch's.

    Both multiply in bfloat16, as PyTorch's does, and take five steps.
    """
    theirs = getattr(torch.optim, "Muon", None)
    if theirs is None:
        return []
    sizes = SETS[shapes].shapes(flat=True)
    ours = Muon(fill(sizes, device), ns_dtype="bfloat16")
    peer = theirs(fill(sizes, device))
    times = alternate({"ours": ours.step, "theirs": peer.step}, device, rounds)
    figure = times["ours"] / times["theirs"]
    detail = f"of torch.optim.Muon, {1e3 * times['ours']:.1f} ms"
    return [Goal(f"Muon, {shapes}", figure, 0.75, False, detail)]


def small_ones(device: str, count: int, side: int, rounds: int) -> list[Goal]:
    """AdamW on many small matrices by the kernels, against PyTorch's fused step."""
    sizes: list[tuple[int, ...]] = [(side, side)] * count
    ours = AdamW(fill(sizes, device), fused="triton")
    theirs = torch.optim.AdamW(fill(sizes, device), fused=True)
    times = alternate({"ours": ours.step, "theirs": theirs.step}, device, rounds)
    figure = times["ours"] / times["theirs"]
    detail = f"of torch.optim.AdamW fused, {1e3 * times['ours']:.2f} ms"
    return [Goal(f"AdamW, {count} matrices of {side}²", figure, 1.0, False, detail)]


# Sizes on the device, and those of a rehearsal.
PARTS: dict[str, Callable[[str, bool, int], list[Goal]]] = {
    "elementwise": lambda device, quick, rounds: elementwise(
        device, 3000 if quick else 10**8, rounds
    ),
    "small": lambda device, quick, rounds: small_ones(
        device, 3 if quick else 500, 8 if quick else 64, rounds
    ),
    "products": lambda device, quick, rounds: products(
        device, [32] if quick else [1024, 2048, 4096, 8192], rounds
    ),
    "factors": lambda device, quick, rounds: factors(
        device, [32] if quick else [2048, 4096, 8192], rounds
    ),
    "batched": lambda device, quick, rounds: batched(
        device, 3 if quick else 100, 8 if quick else 512, rounds
    ),
    "step": lambda device, quick, rounds: whole_step(
        device, "quick" if quick else "gpt2-medium", rounds
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Print every goal; say so where there is no CUDA device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--parts", default=",".join(PARTS), help="names, by commas")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="tiny sizes by Triton's interpreter on the CPU; figures mean nothing",
    )
    given = parser.parse_args(arguments)
    chosen = given.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {list(PARTS)}")
    if not given.rehearse and not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks.kernels measures kernels on a CUDA device, and PyTorch finds "
            "none here; `pytest tests/kernels` checks what they compute on any machine"
        )
    device = "cpu" if given.rehearse else "cuda"
    if given.rehearse:
        print(f"rehearsal on the CPU, torch {torch.__version__}")
    else:
        rates = device_rates(device)
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(f"{rates.bandwidth(1e12) / 1e12:.2f} TB/s, ", end="")
        print(f"{rates.rate('bfloat16') / 1e12:.0f} TFLOP/s in bfloat16")
    for name in chosen:
        for goal in PARTS[name](device, given.rehearse, given.rounds):
            print(goal, flush=True)


if __name__ == "__main__":
    main()
