"""Lion with a shorter memory on the problems of the race, at its rate and its seeds.

``python experiments/lion_memory.py`` takes a minute on one CPU core and stores the loss
on unseen data of each run: digits with β = (0.9, 0.95), text with (0.8, 0.9). The claim
`lion-memory-is-stale` rests on it; its test repeats one run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from race_declaration import SEEDS
from race_problems import known, trained
from store import RESULTS, Store, provenance

from anthology.optim import Lion

STORE = RESULTS / "lion_memory.json"
RULES = {"digits": (0.006, (0.9, 0.95)), "text": (0.002, (0.8, 0.9))}


def loss(where: str, seed: int) -> float:
    """Of one run, on unseen data."""
    problem = known(where)
    model = problem.model(seed=seed)
    run = trained(problem, model, Lion(model.parameters(), *RULES[where]), seed)
    return float(run.metric)


def key(where: str, seed: int) -> str:
    """Under which a run is stored."""
    return f"{where} {seed}"


def main() -> None:
    """Run what is not stored."""
    torch.set_num_threads(1)
    store = Store(STORE, provenance("lion_memory.py"))
    for where in RULES:
        for seed in SEEDS:
            store.once(key(where, seed), lambda run=(where, seed): loss(*run))


if __name__ == "__main__":
    main()
