"""Does a better polar factor train better? Muon on the race's text, six ways.

What is on trial: Muon's five polynomials miss the polar factor by a tenth of its
size. Is there anything to gain from missing it by less, and when is it missed by too
much?

Problem. The transformer of the race on Python's own source, 300 steps; the measure
is the cross-entropy per byte, in nats, of unseen modules. Hidden matrices get Muon
with `metrize`, the rest AdamW at 3e-3, as in the race.

Fairness. Each way tries three rates, a factor of two apart, with one seed, and more
as long as the best one is the first or the last; then it runs five other seeds at the
best of them. Every run is stored, none is selected.
The grids are centred on the race's middle rate for Muon, 0.01; twice that after one
polynomial and eight times after none, because their results are as much shorter.

Expected before the first run: exact, Polar Express and Muon's five cannot be told
apart by the race's rule (a difference of 3.09 sigma, sigma = 0.02, or more if the
seeds say so); neither can Muon's three; one polynomial is worse, and none, which is
the gradient divided by its length, much worse.

    python experiments/polar_methods.py   # about four minutes on one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_declaration import SEARCH_SEED, SEEDS, SIGMA
from race_problems import known, trained
from race_runs import rounded
from race_statistics import ties
from store import RESULTS, Store, provenance

from anthology import linalg, optim
from anthology.norms import metrize

PATH = RESULTS / "polar_methods.json"
# Way: method, polynomials, and the middle of its rates.
WAYS: dict[str, tuple[str, int | None, float]] = {
    "none": ("identity", 1, 0.08),
    "Muon's, one": ("muon", 1, 0.02),
    "Muon's, three": ("muon", 3, 0.01),
    "Muon's, five": ("muon", 5, 0.01),
    "Polar Express, six": ("polar-express", 6, 0.01),
    "exact": ("svd", None, 0.01),
}
IDENTITY = linalg.CoefficientSet(lambda k: ((1.0, 0.0, 0.0),) * k, 1, None, "here")


def first_rates(way: str) -> list[float]:
    """The three rates that a way tries first."""
    return [rounded(WAYS[way][2] * 2.0**k) for k in (0, -1, 1)]


def run(way: str, lr: float, seed: int) -> dict[str, float | None]:
    """Train once: the loss at the end, and how good the last steps were."""
    method, steps, _ = WAYS[way]
    if method == "identity":
        linalg.COEFFICIENT_SETS.setdefault(method, IDENTITY)
    problem = known("text")
    model = problem.model(seed=seed)
    muon = optim.Muon(
        metrize(model), lr=lr, method=method, ns_steps=steps, adamw_lr=3e-3
    )
    done = trained(problem, model, muon, seed)
    loss = done.metric if math.isfinite(done.metric) else None
    return {
        "loss": None if loss is None else float(f"{loss:.5g}"),
        "efficiency": float(f"{efficiency(muon, method, steps):.3g}"),
    }


def efficiency(muon: optim.Muon, method: str, steps: int | None) -> float:
    """Mean share ⟨M, X⟩/(‖M‖_*‖X‖₂) over the averages M at the end."""
    found = []
    for state in muon.state.values():
        average = state.get("momentum_buffer")
        if average is not None and average.ndim == 2:
            step = linalg.polar(average, method, steps)
            found.append(linalg.certificate(average, step).efficiency.item())
    return mean(found) if found else math.nan


def tried(content: dict[str, Any], way: str) -> list[float]:
    """The rates of the search that are stored, smallest first."""
    names = [name.split("/") for name in content["runs"]]
    return sorted(float(n[1]) for n in names if n[0] == way and int(n[2]) == 0)


def best(content: dict[str, Any], way: str) -> float:
    """The rate with the smallest loss of the search."""
    return min(
        tried(content, way),
        key=lambda lr: losses([content["runs"][key(way, lr, SEARCH_SEED)]])[0],
    )


def beyond(content: dict[str, Any], way: str) -> float | None:
    """The rate to try next where the best one is at an end of those tried."""
    lr, rates = best(content, way), tried(content, way)
    if lr not in (rates[0], rates[-1]):
        return None
    return rounded(lr / 2 if lr == rates[0] else 2 * lr)


def finals(content: dict[str, Any], way: str) -> list[dict[str, float | None]]:
    """The five runs at the best rate."""
    return [content["runs"][key(way, best(content, way), seed)] for seed in SEEDS]


def losses(runs: list[dict[str, float | None] | None]) -> list[float]:
    """Their losses, infinite where there is none."""
    return [
        math.inf if run is None or run["loss"] is None else run["loss"] for run in runs
    ]


def told_apart(one: list[float], other: list[float]) -> bool:
    """Whether the race's rule finds the means of two sets of seeds different."""
    return not ties(one, other, SIGMA["text"])


def key(way: str, lr: float, seed: int) -> str:
    """Under which name a run is stored."""
    return f"{way}/{lr:g}/{seed}"


def load() -> dict[str, Any]:
    """What is stored."""
    return Store(PATH, provenance("polar_methods.py")).content


def repeat(content: dict[str, Any], way: str, seed: int) -> tuple[float, float]:
    """A stored final run again: its loss now, and the stored one."""
    lr = best(content, way)
    return losses([run(way, lr, seed), content["runs"][key(way, lr, seed)]])


def main() -> None:
    """All runs that are missing, round by round over the ways."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("polar_methods.py"))

    def keep(way: str, lr: float, seed: int) -> None:
        store.once(key(way, lr, seed), lambda: run(way, lr, seed))

    for k in range(3):
        for way in WAYS:
            keep(way, first_rates(way)[k], SEARCH_SEED)
    for way in WAYS:
        while (lr := beyond(store.content, way)) is not None:
            keep(way, lr, SEARCH_SEED)
    for seed in SEEDS:
        for way in WAYS:
            keep(way, best(store.content, way), seed)


if __name__ == "__main__":
    main()
