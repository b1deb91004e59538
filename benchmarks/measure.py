"""All contestants of a family in turn, round after round, on one set."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from anthology.cost import Limit, Rates, limit

from .clock import NEEDED, Sample, Stopwatch, Summary, summarise
from .contestants import Contestant, Family
from .memory import allocated
from .quality import efficiency
from .sets import ParameterSet, Shape, fill

Clock = Callable[[Callable[[], object]], Sample]
# Seconds that a sample should last, and bytes a number takes with four of state.
LEAST, BYTES = 5e-3, 24


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes
    ----------
    device : str
        "cpu" or a CUDA device.
    rounds : int
        Samples of each contestant; up to four times as many if they are noisy.
    seconds : float
        After how many seconds a family has had enough, if it has three rounds.
    by : str
        The clock that counts, "wall" or "cpu".
    memory : float
        Bytes that the contestants of a family may fill together.
    paths : tuple of str
        The paths of this package to measure; empty: all.
    """

    device: str = "cpu"
    rounds: int = 15
    seconds: float = 20.0
    by: str = "wall"
    memory: float = 8e9
    paths: tuple[str, ...] = ()

    def wants(self, c: Contestant) -> bool:
        """Whether a contestant takes part."""
        if c.ours and c.name.endswith("triton") and self.device == "cpu":
            return False
        return not (c.ours and self.paths) or c.name.endswith(self.paths)


@dataclass(frozen=True)
class Row:
    """One line of the report: a contestant of a family on a set, and its numbers."""

    set: str
    family: str
    name: str
    ours: bool
    numbers: int
    summary: Summary | None = None
    state_bytes: int = 0
    peak_bytes: int = 0
    best_peer: float | None = None
    limit: Limit | None = None
    absent: str = ""
    efficiency: float | None = None
    largest: int = 0

    @property
    def ratio(self) -> float | None:
        """Time over that of the best peer; None without one."""
        if self.summary is None or not self.best_peer:
            return None
        return self.summary.seconds / self.best_peer

    @property
    def reached(self) -> float | None:
        """The share of the limit's speed that was reached."""
        if self.summary is None or self.limit is None:
            return None
        return self.limit.seconds / self.summary.seconds

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "ratio": self.ratio, "reached": self.reached}


@dataclass
class _Running:
    contestant: Contestant
    cycle: Callable[[], None]
    runs: int
    state: int
    peak: int
    efficiency: float | None


def run_family(
    family: Family,
    chosen: ParameterSet,
    plan: Plan,
    rates: Rates,
    clock: Clock | None = None,
) -> list[Row]:
    """Measure every contestant of a family on one set.

    Parameters
    ----------
    family, chosen, plan
        Who, on what, and for how long.
    rates : Rates
        Of the device, for the limit.
    clock : callable, optional
        Runs what it is given and returns a `Sample`. Default None: `Stopwatch`.

    Returns
    -------
    list of Row
        One a contestant, those that could not run with the reason.
    """
    clock = clock or Stopwatch(plan.device)
    shapes = chosen.shapes(family.flat)
    numbers = sum(torch.Size(s).numel() for s in shapes)
    rows: list[Row] = []
    wanted = [c for c in family.contestants if plan.wants(c)]
    for part in _parts(wanted, numbers, plan.memory):
        running, absent = _start(part, shapes, family, plan, clock)
        samples = _rounds(running, plan, clock)
        for r, taken in zip(running, samples, strict=True):
            each = [s.over(r.runs * family.cycle) for s in taken]
            rows.append(
                replace(
                    _empty(r.contestant, family, chosen, numbers),
                    summary=summarise(each, plan.by),
                    state_bytes=r.state,
                    peak_bytes=r.peak,
                    limit=_limit(r.contestant, shapes, rates),
                    efficiency=r.efficiency,
                )
            )
        for c, reason in absent:
            rows.append(replace(_empty(c, family, chosen, numbers), absent=reason))
        del running
        gc.collect()
    return with_best_peer(rows)


def with_best_peer(rows: list[Row]) -> list[Row]:
    """Rows of one family and set with the time of the best peer in each."""
    times = [r.summary.seconds for r in rows if r.summary and not r.ours]
    best = min(times, default=None)
    return [replace(row, best_peer=best) for row in rows]


def _empty(c: Contestant, family: Family, chosen: ParameterSet, numbers: int) -> Row:
    largest = max(torch.Size(s).numel() for s in chosen.shapes(family.flat))
    return Row(chosen.name, family.name, c.name, c.ours, numbers, largest=largest)


def _parts(
    contestants: list[Contestant], numbers: int, memory: float
) -> list[list[Contestant]]:
    """Contestants that fit into the memory together; a peer's rivals stay near it."""
    size = max(1, int(memory // max(numbers * BYTES, 1)))
    return [contestants[i : i + size] for i in range(0, len(contestants), size)]


def _start(
    contestants: list[Contestant],
    shapes: list[Shape],
    family: Family,
    plan: Plan,
    clock: Clock,
) -> tuple[list[_Running], list[tuple[Contestant, str]]]:
    """Warm every contestant up, and watch what it allocates."""
    running, absent = [], []
    for c in contestants:
        params = fill(shapes, plan.device)
        try:
            found = _warm(c, params, family.cycle, plan.device)
            if family.orthogonal:
                found.efficiency = efficiency(c.make, shapes, plan.device)
        except ImportError as error:
            absent.append((c, f"not installed: {error.name or c.package}"))
            continue
        except (RuntimeError, TypeError, ValueError) as error:
            absent.append((c, f"{type(error).__name__}: {str(error).splitlines()[0]}"))
            continue
        if family.cycle == 1:
            once = clock(found.cycle)
            found.runs = max(1, min(50, int(LEAST / max(once.wall, 1e-9)) + 1))
        running.append(found)
    return running, absent


def _warm(
    c: Contestant, params: list[torch.Tensor], cycle: int, device: str
) -> _Running:
    if cycle == 1:
        c.make(params).step()  # compiles, and fills what is kept for good

    def begin() -> torch.optim.Optimizer:
        made = c.make(params)
        made.step()
        return made

    optimizer, state, _ = allocated(begin, device)

    def steps() -> None:
        for _ in range(cycle):
            optimizer.step()

    _, _, peak = allocated(steps, device)
    return _Running(c, steps, 1, state, peak, None)


def _rounds(running: list[_Running], plan: Plan, clock: Clock) -> list[list[Sample]]:
    """One sample of each in turn, until there are enough or the seconds are over.

    Four times the rounds are taken where clean samples are still lacking.
    """
    samples: list[list[Sample]] = [[] for _ in running]
    end, needed = time.monotonic() + plan.seconds, min(NEEDED, plan.rounds)
    for number in range(4 * plan.rounds):
        lacking = any(sum(s.clean for s in taken) < needed for taken in samples)
        if number >= plan.rounds and not lacking:
            break
        if number >= needed and time.monotonic() > end:
            break
        for r, taken in zip(running, samples, strict=True):

            def several(r: _Running = r) -> None:
                for _ in range(r.runs):
                    r.cycle()

            taken.append(clock(several))
    return samples


def _limit(c: Contestant, shapes: list[Shape], rates: Rates) -> Limit | None:
    """The limit of the rule, where it is known: of ours, and of PyTorch's."""
    if not (c.ours or c.package == "torch.optim"):
        return None
    params = [torch.empty(s, device="meta").requires_grad_() for s in shapes]
    return limit(c.make, params, rates=rates)
