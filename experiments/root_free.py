"""Does the root cost generalisation? Five optimizers, one budget each.

The claim on trial (Lin et al. 2024, abstract): without the square root, adaptive
methods close the gap in generalisation to SGD on convolutional networks. In the
common race (race.py) every digit is seen about once; here 200 digits are trained on
until all contestants fit them. Problem and contestants are in root_free_problems.py.

Fairness. Every contestant has three free settings (rate, decay, weight of the
new gradient in its average), the same 32 scrambled Sobol points of the unit
cube, ranges of the same width around the best of a coarse pilot, the same
warm-up and linear fall of the rate. The best point is chosen on a validation
part; only the chosen ones see the test part, with five seeds of weights and
batches. Everything else is at the published default: momentum 0.9 for the
adaptive methods, ε = 1e-8 with the root, 1e-4 without.

`conv` alone leaves SGD with a training loss over six times that of the others: it
compares speed, not generalisation. So in `long`, added after this was seen, the
three best points of every contestant train three times as long, and the best of
them, again by the validation part, goes to the test.

    python experiments/root_free.py    # about a quarter of an hour

Each run is stored as soon as it ends; started again, the script goes on where
it stopped. Training is chaotic: another processor or version of the package
rounds otherwise, which acts like another seed.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from root_free_problems import (
    CONTESTANTS,
    DECAY,
    FRESH,
    PROBLEMS,
    RATES,
    Conv,
    Settings,
    contestant,
)
from store import RESULTS, Store, provenance

from anthology import lab

SEARCH_SEED, TRIALS, SEEDS = 2024, 32, 5


def run(
    problem: Conv, name: str, settings: Settings, seed: int, part: str
) -> dict[str, Any]:
    """Train once; what the run was worth on a part of the data."""
    model = problem.model(seed)
    optimizer = contestant(name, model.parameters(), settings, problem.terms)
    start = time.process_time()
    result = lab.fit(
        model,
        optimizer,
        problem.batches(seed),
        problem.steps,
        evaluate=lambda: problem.measure(model, part),
        schedule="linear",
        warmup=problem.steps // 20,
    )
    last = result.losses[-50:]
    return {
        part: _finite(result.metric),
        "train": _finite(math.nan if result.diverged else sum(last) / len(last)),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def _finite(value: float | None) -> float | None:
    """Six digits, or None (JSON has no NaN)."""
    return round(value, 6) if value is not None and math.isfinite(value) else None


def points(name: str) -> list[Settings]:
    """The settings a contestant tries: the same cube points for everyone."""
    cube = torch.quasirandom.SobolEngine(3, scramble=True, seed=SEARCH_SEED)
    ranges = [RATES[name], DECAY, FRESH.get(name, FRESH["others"])]
    return [
        Settings(
            *(
                float(f"{low * (high / low) ** u:.4g}")
                for (low, high), u in zip(ranges, point, strict=True)
            )
        )
        for point in cube.draw(TRIALS).tolist()
    ]


def ranked(trials: list[dict[str, Any]]) -> list[int]:
    """The numbers of the trials from best to worst on the validation part."""
    values = [t["validation"] for t in trials]
    cost = [math.inf if v is None else v for v in values]
    return sorted(range(len(cost)), key=cost.__getitem__)


def finalists(store: Store, name: str) -> list[Settings]:
    """The settings of the three best trials of the shorter training."""
    trials = [store.runs[f"conv/{name}/trial/{i}"] for i in range(TRIALS)]
    return [points(name)[i] for i in ranked(trials)[:3]]


def compete(store: Store, key: str, problem: Conv, name: str) -> None:
    """All trials of one contestant, then its best one with all seeds."""
    tried = finalists(store, name) if key == "long" else points(name)

    def trial(settings: Settings) -> dict[str, Any]:
        return vars(settings) | run(problem, name, settings, 0, "validation")

    def final(seed: int) -> dict[str, Any]:
        chosen = {"trial": winner}
        return chosen | run(problem, name, tried[winner], seed, "test")

    trials = [
        store.once(f"{key}/{name}/trial/{i}", lambda s=s: trial(s))
        for i, s in enumerate(tried)
    ]
    winner = ranked(trials)[0]
    for seed in range(SEEDS):
        store.once(f"{key}/{name}/final/{seed}", lambda seed=seed: final(seed))


def main() -> None:
    torch.set_num_threads(1)
    facts = provenance("root_free.py") | {
        "search": {"points": TRIALS, "seed": SEARCH_SEED, "design": "scrambled Sobol"},
        "seeds": list(range(SEEDS)),
        "ranges": {"rate": RATES, "decay": DECAY, "fresh": FRESH},
    }
    store = Store(RESULTS / "root_free.json", facts)
    for key, problem in PROBLEMS.items():
        for name in CONTESTANTS:
            compete(store, key, problem(), name)


if __name__ == "__main__":
    main()
