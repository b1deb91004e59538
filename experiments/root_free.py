"""With or without the root: five optimizers, two problems, one budget each.

The claim on trial (Lin et al. 2024, abstract): without the square root,
adaptive methods close the gap in generalisation to SGD on convolutional
networks, and keep pace with the root on transformers. Problems and contestants
are in root_free_problems.py.

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

    python experiments/root_free.py                 # about half an hour
    python experiments/root_free.py --problem conv  # one problem
    python experiments/root_free.py --budget large  # bigger nets, a GPU

Each run is stored as soon as it ends; started again, the script goes on where
it stopped. Training is chaotic: another processor or version of the package
rounds otherwise, which acts like another seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
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
    Problem,
    Settings,
    contestant,
)

from anthology import lab

RESULTS = HERE / "results"
SEARCH_SEED, TRIALS, SEEDS = 2024, 32, 5


def run(
    problem: Problem, name: str, settings: Settings, seed: int, part: str
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


def points(problem: str, name: str) -> list[Settings]:
    """The settings a contestant tries: the same cube points for everyone."""
    cube = torch.quasirandom.SobolEngine(3, scramble=True, seed=SEARCH_SEED)
    ranges = [RATES[problem][name], DECAY, FRESH.get(name, FRESH["others"])]
    return [
        Settings(
            *(
                float(f"{low * (high / low) ** u:.4g}")
                for (low, high), u in zip(ranges, point, strict=True)
            )
        )
        for point in cube.draw(TRIALS).tolist()
    ]


class Store:
    """One JSON file, written anew after each run; holds what was done so far."""

    def __init__(self, path: Path, provenance: dict[str, Any]) -> None:
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {}
        self.content.setdefault("provenance", provenance)
        self.runs = self.content.setdefault("runs", {})

    def once(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored result under this key, or else the one `work` returns."""
        if key not in self.runs:
            self.runs[key] = work()
            self.save()
            print(key, self.runs[key], flush=True)
        return self.runs[key]

    def save(self) -> None:
        """Replace the file in one go, so that a stop cannot leave half of it."""
        self.path.parent.mkdir(exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.content, indent=1) + "\n")
        draft.replace(self.path)


def provenance(budget: str, device: torch.device) -> dict[str, Any]:
    """How the results came about."""
    cpu = f"{os.cpu_count()} CPU cores, one thread used"
    on_gpu = device.type == "cuda"
    return {
        "command": f"python experiments/root_free.py --budget {budget}",
        "date": date.today().isoformat(),
        "machine": torch.cuda.get_device_name(device) if on_gpu else cpu,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "search": {"points": TRIALS, "seed": SEARCH_SEED, "design": "scrambled Sobol"},
        "seeds": list(range(SEEDS)),
        "ranges": {"rate": RATES, "decay": DECAY, "fresh": FRESH},
    }


def ranked(trials: list[dict[str, Any]]) -> list[int]:
    """The numbers of the trials from best to worst on the validation part."""
    values = [t["validation"] for t in trials]
    cost = [math.inf if v is None else v for v in values]
    return sorted(range(len(cost)), key=cost.__getitem__)


def finalists(store: Store, problem: str, name: str) -> list[Settings]:
    """The settings of the three best trials of another problem."""
    trials = [store.runs[f"{problem}/{name}/trial/{i}"] for i in range(TRIALS)]
    return [points(problem, name)[i] for i in ranked(trials)[:3]]


def compete(store: Store, key: str, problem: Problem, name: str) -> None:
    """All trials of one contestant, then its best one with all seeds."""
    long = key == "long"
    tried = finalists(store, "conv", name) if long else points(key, name)

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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problem", choices=[*PROBLEMS, "all"], default="all")
    parser.add_argument("--budget", choices=["small", "large"], default="small")
    chosen = parser.parse_args()
    large = chosen.budget == "large"
    device = lab.pick_device() if large else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    path = RESULTS / f"root_free{'_large' if large else ''}.json"
    store = Store(path, provenance(chosen.budget, device))
    for key, build in PROBLEMS.items():
        if chosen.problem in (key, "all"):
            problem = build(large, device)
            for name in CONTESTANTS:
                compete(store, key, problem, name)


if __name__ == "__main__":
    main()
