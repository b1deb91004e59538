"""SIRFShampoo against Muon, in steps and on a clock; structures of its factors.

What is on trial: "Kronecker factors without roots and inverses are fast and keep pace
on transformers" (Lin et al. 2024), with the factors refreshed every 10 steps, against
Muon, which nobody seems to have measured.

Problems, networks, schedule and the seed of the search are those of race.py. Everyone
tries nine settings with one seed, three rates times three values of a second number:
for SIRFShampoo the rate of the factors (at refresh 10 larger ones, as there are fewer
steps of them), for Muon the rate of its AdamW. Then three other seeds at the best. The
structures of the factors are tried on digits, at refresh 10. Whatever else there is
has its default.

``time`` is processor time of one thread, and told as a multiple of Muon's: contestants
take blocks of ten whole steps of training in turn, round after round, and of the ratios
of a round to Muon's block of that round the median and the quartiles are kept. "step"
is the whole step, "rule" the optimizer's part of it.

Made before: 21 runs with seed 100, of dense factors at refresh 1 and 10 on digits and
at 10 on text, to choose the nine settings.

Expected before the first run, by the race's margin for three seeds:
- slower: Muon beats SIRFShampoo on digits and on text, at either refresh;
- rare: refresh 10 ends within the margin of refresh 1 or better, on both;
- tuned: on text SIRFShampoo with a tuned rate of the factors beats the race's, which
  kept the default 0.01;
- cheap: on text a whole step at refresh 10 takes at most 1.3 of Muon's, and at refresh
  1 at least 1.5;
- clock: on text Muon is at the race's target first, in steps and in time;
- structures: lower triangular factors tie with dense ones, and diagonal, Toeplitz and
  block-diagonal ones are beaten by dense ones;
- index: at refresh 1 diagonal factors make a whole step cheaper than dense ones do, and
  lower and hierarchical ones, which are kept packed and multiplied dense, dearer.

Added when the best settings on text turned out to lie at the edge of the nine, for all
three: three more for each, beyond that edge (MORE). Expected: the order stays.

    python experiments/inverse_free_shampoo.py    # seven minutes

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import math
import os
import sys
import time
from itertools import product
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_declaration import LOOKS, SEARCH_SEED
from race_problems import known, trained
from store import RESULTS, Store, provenance
from torch import nn

from anthology import lab, optim
from anthology.norms import metrize

PATH = RESULTS / "inverse_free_shampoo.json"
SEEDS = (1, 2, 3)
RATES = (0.01, 0.04, 0.16)
SECOND = {1: (0.01, 0.05, 0.2), 10: (0.05, 0.2, 0.6)}  # factor_lr, by refresh
ADAMW = (1e-3, 3e-3, 1e-2)
MORE = {  # on text
    "Muon": ((0.02, 0.03), (0.04, 0.03), (0.08, 0.03)),
    "dense 1": ((0.0025, 0.2), (0.0025, 0.5), (0.01, 0.5)),
    "dense 10": ((0.0025, 0.6), (0.0025, 0.9), (0.01, 0.9)),
}
STRUCTURES = (
    "dense",
    "diagonal",
    "block-diagonal",
    "lower",
    "lower-toeplitz",
    "hierarchical",
)
BOTH = ("Muon", "dense 1", "dense 10")
RACERS = {
    "text": BOTH,
    "digits": (*BOTH, *(f"{name} 10" for name in STRUCTURES[1:])),
}
TIMED = ("Muon", *(f"{name} {t}" for t in (1, 10) for name in STRUCTURES))
ROUNDS, BLOCK = 15, 10


def settings(where: str, name: str) -> list[tuple[float, float]]:
    """What a contestant tries; "lower 10" is of lower factors, refresh 10."""
    second = ADAMW if name == "Muon" else SECOND[int(name.split()[1])]
    more = MORE[name] if where == "text" else ()
    return [*product(RATES, second), *more]


def build(
    name: str, model: nn.Module, terms: int, lr: float, second: float
) -> torch.optim.Optimizer:
    """The optimizer of a contestant."""
    if name == "Muon":
        return optim.Muon(metrize(model), lr, adamw_lr=second)
    structure, refresh = name.split()
    return optim.SIRFShampoo(
        model.parameters(),
        lr,
        second,
        refresh=int(refresh),
        structures={2: structure},  # vectors have diagonal factors
        batch_size=terms,
    )


def train(
    where: str, name: str, lr: float, second: float, seed: int
) -> list[tuple[int, float | None]]:
    """The loss on unseen data, every 25 steps; of a search at the end alone."""
    problem = known(where)
    model = problem.model(seed=seed)
    optimizer = build(name, model, problem.terms, lr, second)
    every = LOOKS if seed != SEARCH_SEED else None
    done = trained(problem, model, optimizer, seed, every)
    return [
        (at, round(x, 5) if math.isfinite(x) else None) for at, x in done.evaluations
    ]


def block(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any
) -> tuple[float, float]:
    """Processor time of ten steps of training, and of the optimizer in them."""
    rule, start = 0.0, time.process_time()
    for _ in range(BLOCK):
        x, y = next(batches)
        optimizer.zero_grad()
        lab.cross_entropy(model(x), y).backward()
        before = time.process_time()
        optimizer.step()
        rule += time.process_time() - before
    return time.process_time() - start, rule


def times(where: str) -> dict[str, dict[str, list[float]]]:
    """Quartiles of the time of a step as a multiple of Muon's, whole and of the rule."""
    problem, ratios = known(where), {name: ([], []) for name in TIMED}
    running = {}
    for name in TIMED:
        model = problem.model(seed=0)
        rule = build(name, model, problem.terms, 1e-3, 0.01)
        running[name] = model, rule, problem.batches(seed=0)
    for turn in range(ROUNDS + 1):
        took = {name: block(*entry) for name, entry in running.items()}
        if turn:  # the first is a warm-up
            for name, pair in took.items():
                for kept, mine, muon in zip(
                    ratios[name], pair, took["Muon"], strict=True
                ):
                    kept.append(mine / muon)
    return {
        name: {
            what: [round(q, 3) for q in quantiles(kept, n=4)]
            for what, kept in zip(("step", "rule"), pair, strict=True)
        }
        for name, pair in ratios.items()
    }


def stored() -> dict[str, Any]:
    """What has been run."""
    return Store(PATH, provenance("inverse_free_shampoo.py")).runs


def key(*run: object) -> str:
    """Under which a run is stored."""
    return "/".join(map(str, run))


def final(curve: list[tuple[int, float | None]]) -> float:
    """The last loss of a run; infinite if it was lost."""
    last = curve[-1][1]
    return math.inf if last is None else last


def best(runs: dict[str, Any], where: str, name: str) -> tuple[float, float]:
    """The setting with the smallest loss of the search."""
    return min(
        settings(where, name),
        key=lambda s: final(runs[key(where, name, *s, SEARCH_SEED)]),
    )


def curves(runs: dict[str, Any], where: str, name: str) -> list[Any]:
    """Those of the three seeds at the best setting."""
    setting = best(runs, where, name)
    return [runs[key(where, name, *setting, seed)] for seed in SEEDS]


def losses(runs: dict[str, Any], where: str, name: str) -> list[float]:
    """Their last losses."""
    return [final(curve) for curve in curves(runs, where, name)]


def main() -> None:
    """Make the runs that are missing, and tell the best."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("inverse_free_shampoo.py"))

    def need(*run: Any) -> None:
        store.once(key(*run), lambda: train(*run))

    for where, names in RACERS.items():
        store.once(key("time", where), lambda where=where: times(where))
        for name in names:
            for setting in settings(where, name):
                need(where, name, *setting, SEARCH_SEED)
            for seed in SEEDS:
                need(where, name, *best(store.runs, where, name), seed)
            found = losses(store.runs, where, name)
            print(where, name, *best(store.runs, where, name), mean(found), flush=True)


if __name__ == "__main__":
    main()
