"""Scion's ball on digits of the race: how large it must be, and where to start in it.

What is on trial: whether the radius matters once the length of a step, γρ, is tuned
for it; whether what Scion loses without its momentum is lost to the ball; whether a
start on the edge of the ball, as published, is better than PyTorch's; and whether it is
the head that a small ball holds back, which the published settings give a larger one.

Problem, network, schedule and seeds are those of race.py. Each combination of a radius
(None: unconstrained), a momentum and a setting (other settings than the plain one with
momentum only) tries the same lengths of a step, a factor of two apart, with one seed,
then three other seeds at the best of them. All runs are stored, with the norm of each
weight matrix at the end.

    python experiments/scion.py    # about four minutes of one quiet core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_declaration import SEARCH_SEED
from race_declaration import SEEDS as ALL_SEEDS
from race_problems import known, trained
from store import RESULTS, Store, provenance

from anthology import norms, optim

PATH = RESULTS / "scion.json"
WHERE = "digits"
SEEDS = ALL_SEEDS[:3]  # five were declared; the machine at hand was too busy for them
LENGTHS = (0.03, 0.06, 0.12, 0.24)  # γρ at the top of the schedule
RADII = (1.0, 3.0, 10.0, 30.0, 100.0, None)
MOMENTA = (0.9, 0.0)
# edge: matrices start with the norm ρ; free head: the last matrix has no ball
SETTINGS = {"plain": RADII, "edge": RADII[:3], "free head": RADII[:3]}
CASES = [
    (radius, beta, setting)
    for setting, radii in SETTINGS.items()
    for beta in (MOMENTA if setting == "plain" else MOMENTA[:1])
    for radius in radii
]

# Written before the first run but one: radius 3, momentum 0.9, on the edge, length 0.12
# and seed 100 had ended at 1.6 while this file was tried. "Level" is the race's margin:
# 3.09 standard deviations of a difference of two means.
EXPECTED = (
    "with momentum, radius 30, radius 100 and no ball are level",
    "with momentum, radius 1 ends above a loss of 1, radius 3 behind radius 30",
    "without momentum, no ball ends at less than 0.3, radius 30 above 0.4 as in the race",
    "at radius 3 every matrix fills at least 90 % of its ball, at radius 100 none 30 %",
    "a start on the edge is level with PyTorch's at each of the three radii",
    "with momentum and a free head, radius 3 is level with radius 30",
)


def to_the_edge(groups: list[dict[str, Any]], radius: float, seed: int) -> None:
    """Random weights of norm ρ: ρ times the unit step of a Gaussian gradient."""
    draw = torch.Generator().manual_seed(seed)
    for group in groups:
        norm = norms.from_spec(group["norm"])
        for p in group["params"]:
            if p.ndim == 2:
                noise = torch.randn(p.shape, generator=draw).to(p)
                p.data.copy_(radius * norm.dualize(noise))


def train(
    radius: float | None, momentum: float, setting: str, length: float, seed: int
) -> dict[str, Any]:
    """One run: the loss on unseen data and the norms of the matrices at the end."""
    problem = known(WHERE)
    model = problem.model(seed=seed)
    groups = norms.metrize(model)
    if setting == "edge" and radius:
        to_the_edge(groups, radius, seed)
    for group in groups:
        free = setting == "free head" and group["role"] == "head"
        group["unconstrained"] = free or radius is None
    unit = radius or 1.0
    optimizer = optim.Scion(groups, length / unit, momentum, unit)
    done = trained(problem, model, optimizer, seed)
    loss = min(float(done.metric), 99.0)
    return {"loss": round(loss, 5), "sizes": sizes(optimizer.param_groups)}


def sizes(groups: list[dict[str, Any]]) -> list[float]:
    """The norm of each weight matrix, by its own ruler; the head is the last."""
    measured = [
        float(norms.from_spec(group["norm"]).norm(p.detach()))
        for group in groups
        for p in group["params"]
        if p.ndim == 2
    ]
    return [round(x, 3) for x in measured]


def key(*run: Any) -> str:
    """The name under which a run is stored."""
    return "/".join(map(str, run))


def stored() -> dict[str, Any]:
    """What has been run."""
    runs: dict[str, Any] = Store(PATH, provenance("scion.py")).runs
    return runs


def best(runs: dict[str, Any]) -> dict[Any, Any]:
    """For each case the best length of the search, and its three runs."""
    found = {}
    for case in CASES:
        tried = {x: runs[key(*case, x, SEARCH_SEED)]["loss"] for x in LENGTHS}
        length = min(tried, key=lambda x: tried[x])
        rows = [runs.get(key(*case, length, seed)) for seed in SEEDS]
        found[case] = length, [row for row in rows if row]
    return found


def main() -> None:
    """Make the runs that are missing, and tell the best."""
    store = Store(PATH, provenance("scion.py"))
    store.content.setdefault("expected", EXPECTED)

    def need(*run: Any) -> None:
        store.once(key(*run), lambda: train(*run))

    for case in CASES:
        for length in LENGTHS:
            need(*case, length, SEARCH_SEED)
    for seed in SEEDS:
        for case, (length, _) in best(store.runs).items():
            need(*case, length, seed)
    for case, (length, rows) in best(store.runs).items():
        print(*case, length, round(mean(row["loss"] for row in rows), 4), flush=True)


if __name__ == "__main__":
    main()
