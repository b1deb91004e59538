"""The runs of the race: where they are stored, and which follow from which."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from race_contestants import VARIANTS, middle, names
from race_declaration import (
    COARSE,
    FINE,
    LONG_SEEDS,
    PILOT,
    SEARCH_SEED,
    SEEDS,
    SHORT,
)

RESULTS = Path(__file__).resolve().parent / "results"
Result = dict[str, Any]
Run = tuple[str, str, float, int]  # problem, contestant, rate, seed
Train = Callable[[Run, bool], Result]  # of a run, and whether its curve is kept


def digits(value: float | None, places: int = 5) -> float | None:
    """So many digits; None where it is not finite (JSON has no NaN)."""
    finite = value is not None and math.isfinite(value)
    return float(f"{value:.{places}g}") if finite else None


def key(run: Run) -> str:
    """Under which name a run is stored."""
    where, name, lr, seed = run
    return f"{where}/{name}/{lr:g}/{seed}"


class Runs:
    """The lines of race.jsonl, and the runs that are missing."""

    def __init__(
        self, path: Path = RESULTS / "race.jsonl", train: Train | None = None
    ) -> None:
        self.path, self.train = path, train
        lines = path.read_text().splitlines() if path.exists() else []
        self.found: dict[str, Result] = {
            line.pop("run"): line for line in map(json.loads, lines)
        }

    def get(self, run: Run, curve: bool = False) -> Result | None:
        """A stored run; made now if they know how, None if it is missing."""
        name = key(run)
        if name not in self.found and self.train:
            self.found[name] = self.train(run, curve)
            self.path.parent.mkdir(exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"run": name} | self.found[name]) + "\n")
            print(name, self.found[name]["loss"], flush=True)
        return self.found.get(name)

    def loss(self, run: Run, curve: bool = False) -> float:
        """The loss of a run; infinite if it is missing or was not finite."""
        found = self.get(run, curve)
        lost = found is None or found["loss"] is None
        return math.inf if lost else float(found["loss"])

    def best(self, where: str, name: str, rates: Iterable[float]) -> float:
        """The rate with the smallest loss of the search; of equal ones the smallest."""
        searched = sorted(rates)
        return min(searched, key=lambda lr: self.loss((where, name, lr, SEARCH_SEED)))

    def forget(self, forgotten: Iterable[str]) -> None:
        """Drop all runs of contestants, with and without momentum."""
        gone = set(forgotten)
        unknown = gone - {name.removesuffix("-0") for name in names()}
        if unknown:
            raise ValueError(f"no contestants: {unknown}; they are {names()}")
        self.found = {
            k: v
            for k, v in self.found.items()
            if k.split("/")[1].removesuffix("-0") not in gone
        }
        lines = (json.dumps({"run": k} | v) for k, v in self.found.items())
        draft = self.path.with_suffix(".part")
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.replace(self.path)


def pilot_rates(where: str, name: str) -> list[float]:
    """The five rates of the pilot, the middle one first."""
    return [rounded(middle(name, where) * COARSE**k) for k in PILOT]


def neighbours(rate: float) -> list[float]:
    """Half and twice a rate."""
    return [rounded(rate / FINE), rounded(rate * FINE)]


def rounded(rate: float) -> float:
    """Four digits, as in the names of runs."""
    return float(f"{rate:.4g}")


def searched(runs: Runs, where: str, name: str) -> list[float]:
    """The rates of the search: the pilot's, and the neighbours of its best one."""
    pilot = pilot_rates(where, name)
    return sorted([*pilot, *neighbours(runs.best(where, name, pilot))])


def finished(runs: Runs, where: str, name: str) -> bool:
    """Whether the search is complete, whatever its runs were worth."""
    tried = searched(runs, where, name)
    return all(runs.get((where, name, lr, SEARCH_SEED)) for lr in tried)


def final_rate(runs: Runs, where: str, name: str) -> float:
    """The best rate of the search."""
    if not finished(runs, where, name):
        raise ValueError(f"the search of {name} on {where} is not finished")
    return runs.best(where, name, searched(runs, where, name))


def long_runs(runs: Runs) -> Iterator[Run]:
    """The longer setting: what the short one found best, and its neighbours."""
    for seed in LONG_SEEDS:
        for where in SHORT:
            for k in range(3):
                for name in names():
                    rate = final_rate(runs, where, name)
                    lr = [rate, *neighbours(rate)][k]
                    yield (f"{where}-long", name, lr, seed)


def slice(chosen: Iterable[str], where: str, runs: Runs | None = None) -> Result:
    """What was measured of some contestants on a problem, for a plot.

    Returns
    -------
    dict
        For each name ``rate`` (the final one), ``rates`` (each rate of the search
        with its loss, None if lost), ``losses`` (one for each final seed) and
        ``curves`` (for each final seed the steps and test losses).

    Raises
    ------
    ValueError
        If there is no such contestant, or its search is not finished.
    """
    runs = runs or Runs()
    told: Result = {}
    for name in chosen:
        if name not in (*names(), *VARIANTS):
            raise ValueError(f"no contestant is {name!r}; they are {names()}")
        best = final_rate(runs, where, name)
        finals = [runs.get((where, name, best, seed)) for seed in SEEDS]
        told[name] = {
            "rate": best,
            "rates": {
                lr: digits(runs.loss((where, name, lr, SEARCH_SEED)))
                for lr in searched(runs, where, name)
            },
            "losses": [found and found["loss"] for found in finals],
            "curves": [found["curve"] for found in finals if found],
        }
    return told
