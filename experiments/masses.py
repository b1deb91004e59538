"""Are masses what holds the modular norm back in deep transformers?

In `transfer.py` the modular norm ends higher than the layers' own norms on `text-depth`,
and with six blocks its best rate is twice that of one. There every layer has mass 1, so
blocks that are added take from what the embedding and the head may move: the head's
share is 1/12 with one block and 1/52 with six. Here all blocks together have mass 5,
however many they are, as in Modula's GPT; everything else is that of `transfer.py`.

    python experiments/masses.py    # about 5 minutes on one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped. `PREDICTIONS` were written before the first run.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
import transfer
from store import RESULTS, Store, provenance
from torch import nn

from anthology import lab, norms, optim

PATH = RESULTS / "masses.json"
WHERE, DEPTHS, BLOCKS_MASS = "text-depth", (1, 6), 5.0
POWERS = transfer.POWERS["modular"]
PREDICTIONS = {
    "lower": "with six blocks the best loss is lower than with equal masses",
    "level": "with six blocks the best loss is within 0.05 of the layers' own norms",
    "stays": "the best rate stays within a factor of two from one block to six",
}
"""Written before the first run."""


def tared(model: nn.Module, depth: int) -> norms.Modular:
    """The modular norm of a transformer whose 2·depth shortcuts have mass 5 in all."""
    own = lambda name, p, module: isinstance(module, nn.Linear) and p.ndim == 2
    return norms.modular_norm(
        model,
        mass={transfer.Shortcut: BLOCKS_MASS / (2 * depth)},
        overrides=[(own, norms.RMSToRMS("polar-express", 6))],
    )


def train(depth: int, power: int, seed: int) -> float | None:
    """Loss on unseen text after the last step; None if the run left the numbers."""
    model = transfer.network(WHERE, depth, seed)
    batches, test = transfer.task(WHERE, seed)
    groups = tared(model, depth).groups
    run = lab.fit(
        model,
        optim.SteepestDescent(groups, 2.0**power, momentum=0.9),
        batches,
        transfer.STEPS["text"],
        schedule="linear",
        evaluate=lambda: lab.mean_loss(model, *test),
    )
    found = math.nan if run.metric is None else run.metric
    return float(f"{found:.4g}") if math.isfinite(found) else None


def key(depth: int, power: int, seed: int) -> str:
    return f"{depth}/{power}/{seed}"


def losses(runs: transfer.Runs, depth: int, power: int) -> list[float]:
    """The losses over the seeds; infinity where a run left the numbers."""
    found = [runs[key(depth, power, seed)] for seed in transfer.SEEDS]
    return [math.inf if x is None else x for x in found]


def best(runs: transfer.Runs, depth: int) -> tuple[int, float, float]:
    """The power of two with the least mean loss, that loss, and its spread."""
    power = min(POWERS, key=lambda power: mean(losses(runs, depth, power)))
    found = losses(runs, depth, power)
    return power, mean(found), stdev(found)


def outcomes(runs: transfer.Runs) -> dict[str, bool]:
    """Which of the predictions are borne out."""
    (one, _, _), (six, loss, _) = (best(runs, depth) for depth in DEPTHS)
    rivals = transfer.stored()
    equal, layers = (
        transfer.transfer(rivals, WHERE, rule).tuned[0]
        for rule in ("modular", "layers")
    )
    return {
        "lower": loss < equal,
        "level": abs(loss - layers) < 0.05,
        "stays": abs(six - one) <= 1,
    }


def stored() -> transfer.Runs:
    """What has been run."""
    runs: transfer.Runs = Store(PATH, provenance("masses.py")).runs
    return runs


def main(act: Callable[..., Any] = train) -> None:
    """Make the runs that are missing, and tell what came of the predictions."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("masses.py"))
    for depth in DEPTHS:
        for power in POWERS:
            for seed in transfer.SEEDS:
                run = (depth, power, seed)
                store.once(key(*run), partial(act, *run))
        print(depth, best(store.runs, depth), flush=True)
    for name, found in outcomes(store.runs).items():
        verdict = "holds" if found else "is contradicted"
        print(f"{PREDICTIONS[name]}: {verdict}")


if __name__ == "__main__":
    main()
