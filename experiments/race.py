"""One race for the whole book: every optimizer, three problems, one budget each.

What is raced on is in race_problems.py, who races in race_contestants.py, what was
decided and expected beforehand in race_declaration.py, the rule in race_statistics.py
and the table in race_table.py.

    python experiments/race.py                 # about an hour on one core
    python experiments/race.py --problem text  # one problem
    python experiments/race.py --forget SOAP   # drop its runs, which are made again
    python experiments/race.py --table         # what is known so far, nothing is run
    python experiments/race.py --long          # afterwards: larger, three rates each,
                                               # some 40 hours; --only SGD Muon for less

Each run is a line of results/race.jsonl as soon as it ends, with the versions it ran
under; started again, the script goes on where it stopped. Runs go round all
contestants, so that what is there is comparable at any time. results/race.json is
written from those lines.

A chapter uses three functions, with this folder on its path:

>>> curves = race.slice(["SGD", "Muon"], "text")   # what was measured, to plot
>>> told = race.draw(["SGD", "Muon"])              # the same, drawn, all problems
>>> loss = race.repeat("SGD", "digits")            # one point again, a second
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
import time
from datetime import date
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_contestants import build, names, state_bytes
from race_declaration import LOOKS, PILOT, SEARCH_SEED, SEEDS, SHORT
from race_figure import draw
from race_problems import known, trained
from race_runs import (
    Result,
    Run,
    Runs,
    digits,
    final_rate,
    long_runs,
    neighbours,
    pilot_rates,
    slice,
)
from race_table import came_of, tell

from anthology import __version__

__all__ = ["came_of", "draw", "repeat", "slice", "train", "trained"]


def train(run: Run, curve: bool = False) -> Result:
    """Make one run; `loss` is None where it was not finite, or an error ended it."""
    try:
        return versions() | measured(run, curve)
    except RuntimeError as error:  # a decomposition that failed, for example
        return versions() | {"loss": None, "curve": [], "error": str(error)[:200]}


def measured(run: Run, curve: bool) -> Result:
    """The loss of one run and what it cost; with its curve where that is wanted."""
    where, name, lr, seed = run
    p = known(where)
    model = p.model(seed=seed)
    optimizer = build(name, model, p, lr)
    every = LOOKS * p.steps // known(where.removesuffix("-long")).steps
    start, wall = time.process_time(), time.perf_counter()
    done = trained(p, model, optimizer, seed, every if curve else None)
    weights = sum(w.numel() for w in model.parameters())
    steps = len(done.losses)
    found: Result = {
        "loss": digits(done.metric),
        "ms": digits((time.process_time() - start) / steps * 1e3, 3),
        "wall": digits(time.perf_counter() - wall, 3),
        "state": digits(state_bytes(optimizer) / weights, 4),
    }
    if curve:
        found["curve"] = [[at, digits(loss, 4)] for at, loss in done.evaluations]
    return found


@cache
def versions() -> Result:
    """What a line says of the code that made it."""
    head = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--", str(HERE.parent / "*.py"))
    at = head + "+" * bool(changed) or __version__
    return {"at": at, "torch": torch.__version__, "date": date.today().isoformat()}


def git(*asked: str) -> str:
    """What git says of this folder, nothing where it is not under git."""
    command = ["git", "-C", str(HERE), *asked]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return told.stdout.strip()


def compete(runs: Runs, where: str) -> None:
    """All runs on a problem, round by round over the contestants."""
    for k in range(len(PILOT)):
        for name in names():
            runs.get((where, name, pilot_rates(where, name)[k], SEARCH_SEED))
    best = {name: runs.best(where, name, pilot_rates(where, name)) for name in names()}
    for k in range(2):
        for name in names():
            runs.get((where, name, neighbours(best[name])[k], SEARCH_SEED))
    for seed in SEEDS:
        for name in names():
            runs.get((where, name, final_rate(runs, where, name), seed), curve=True)


def repeat(
    name: str, where: str = "digits", rate: float | None = None, seed: int = SEEDS[0]
) -> float:
    """One run again, now: its test loss at the end, infinite if it diverged.

    Without a rate it is the final one; `digits` takes about a second. Processors
    round otherwise, which acts like another seed.
    """
    lr = final_rate(Runs(), where, name) if rate is None else rate
    loss = train((where, name, lr, seed))["loss"]
    return math.inf if loss is None else float(loss)


def provenance() -> Result:
    """How the results came about."""
    return {
        "command": "python experiments/race.py",
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, one thread used, shared with others",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problem", choices=[*SHORT, "all"], default="all")
    parser.add_argument("--forget", nargs="*", default=[], help="contestants")
    parser.add_argument("--long", action="store_true", help="the longer setting")
    parser.add_argument("--only", nargs="*", default=names(), help="of the longer one")
    parser.add_argument("--table", action="store_true", help="print it, run nothing")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    runs = Runs(train=None if chosen.table else train)
    if chosen.forget:
        runs.forget(chosen.forget)
    if runs.train and chosen.long:
        for run in long_runs(runs):
            where, name, *_ = run
            chosen_problem = chosen.problem in ("all", where.removesuffix("-long"))
            if chosen_problem and name in chosen.only:
                runs.get(run, curve=True)
    elif runs.train:
        for where in SHORT:
            if chosen.problem in (where, "all"):
                compete(runs, where)
    tell(Runs(runs.path), provenance())


if __name__ == "__main__":
    main()
