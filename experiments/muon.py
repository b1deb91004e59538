"""Muon with and without momentum, with and without decay: digits of the race.

What is on trial: whether what Muon loses without its momentum is lost to noise, as the
spectral step of a mini-batch suggests, or to weight decay, which acts on all of a
weight while only what mini-batches have in common pulls the other way.

Problem, network, schedule, AdamW's rate and seeds are those of race.py. Every
combination tries the same rates, a factor of two apart, with one seed, then five other
seeds at the best of them. All runs are stored, with the spectral norm of the second
matrix at the end.

    python experiments/muon.py    # about a minute

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_declaration import SEARCH_SEED, SEEDS
from race_problems import known, trained
from store import RESULTS, Store, provenance

from anthology import optim
from anthology.norms import metrize

PATH = RESULTS / "muon.json"
RATES = {"digits": (0.03, 0.06, 0.12, 0.24, 0.48, 0.96)}
KINDS = {
    "momentum": {},
    "no momentum": {"momentum": 0.0, "nesterov": False},
}
DECAYS = (0.1, 0.0)


def train(where: str, kind: str, decay: float, lr: float, seed: int) -> dict[str, Any]:
    """One run: the loss on unseen data and the size of a weight at the end."""
    problem = known(where)
    model = problem.model(seed=seed)
    optimizer = optim.Muon(metrize(model), lr, decay, adamw_lr=3e-3, **KINDS[kind])
    done = trained(problem, model, optimizer, seed)
    hidden = [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if optimizer.group_of(p, group)["rule"] == "muon"
    ]
    size = torch.linalg.matrix_norm(hidden[1].detach(), 2)
    return {"loss": round(float(done.metric), 5), "size": round(float(size), 3)}


def stored() -> dict[str, dict[str, float]]:
    """What has been run."""
    return Store(PATH, provenance("muon.py")).runs


def best(runs: dict[str, dict[str, float]], where: str) -> dict[Any, Any]:
    """For each combination the best rate of the search, and its five runs."""
    found = {}
    for kind, decay in product(KINDS, DECAYS):
        tried = {lr: runs[f"{where}/{kind}/{decay}/{lr}/0"] for lr in RATES[where]}
        lr = min(tried, key=lambda rate: tried[rate]["loss"])
        rows = [runs.get(f"{where}/{kind}/{decay}/{lr}/{seed}") for seed in SEEDS]
        found[kind, decay] = lr, [row for row in rows if row]
    return found


def main() -> None:
    """Make the runs that are missing, and tell the best."""
    store = Store(PATH, provenance("muon.py"))
    runs = store.runs

    def need(*run: Any) -> None:
        store.once("/".join(map(str, run)), lambda: train(*run))

    for where, rates in RATES.items():
        for kind, decay, lr in product(KINDS, DECAYS, rates):
            need(where, kind, decay, lr, SEARCH_SEED)
        for (kind, decay), (lr, _) in best(runs, where).items():
            for seed in SEEDS:
                need(where, kind, decay, lr, seed)
        for key, (lr, rows) in best(runs, where).items():
            told = [round(mean(row[what] for row in rows), 4) for what in rows[0]]
            print(where, *key, lr, *told, flush=True)


if __name__ == "__main__":
    main()
