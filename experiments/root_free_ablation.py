"""What the two ingredients beside the root do: the start at one, the factor B.

A perceptron on the digits, 200 steps of RootFreeRMSProp (momentum 0.9, the rate
falling linearly to zero), for every combination of start S₀ ∈ {1, 0}, factor
∈ {B, 1}, average α ∈ {0.9, 0.99}, batch size B ∈ {16, 64, 256}, ten rates a
factor of four apart, and three seeds. The measure is the mean loss on all
training images after the last step; a run that is not finite is stored as null.

"start 1/B" (factor 1, α = 0.9) divides ε by B as well: only with both does the
proposition on mean and sum say where the best rate goes.

    python experiments/root_free_ablation.py        # about two minutes
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from store import RESULTS, Store, provenance

from anthology import lab
from anthology.optim.root_free import RootFreeRMSProp

STARTS, FACTORS, ALPHAS, BATCHES = (1, 0), ("B", "1"), (0.9, 0.99), (16, 64, 256)
RATES = [2.0**k for k in range(-16, 4, 2)]
SEEDS, STEPS = (0, 1, 2), 200
EPS = 1e-4


def started_at(first: float) -> type[RootFreeRMSProp]:
    """The same method with another S₀."""

    def new_state(param, group):
        state = RootFreeRMSProp.rule.new_state(param, group)
        state["exp_avg_sq"].fill_(first)
        return state

    class Started(RootFreeRMSProp):
        rule = replace(RootFreeRMSProp.rule, new_state=new_state)

    return Started


def run(data, start, factor, alpha, size, lr, seed) -> dict:
    """One training run; the loss on all training images at its end."""
    net = lab.mlp([64, 64, 10], seed=seed)
    first, eps = (1 / size, EPS / size) if start == "1/B" else (start, EPS)
    terms = size if factor == "B" else 1
    opt = started_at(first)(net.parameters(), lr, alpha, eps, batch_size=terms)
    begin = time.process_time()
    result = lab.fit(
        net,
        opt,
        data.batches(size, seed),
        STEPS,
        evaluate=lambda: lab.mean_loss(net, data.x, data.y),
        schedule="linear",
    )
    finite = math.isfinite(result.metric)
    return {
        "loss": float(f"{result.metric:.4g}") if finite else None,
        "cpu_seconds": round(time.process_time() - begin, 2),
    }


def main() -> None:
    torch.set_num_threads(1)
    facts = provenance("root_free_ablation.py") | {"seeds": list(SEEDS)}
    store = Store(RESULTS / "root_free_ablation.json", facts)
    data = lab.digits()
    cases = [*itertools.product(STARTS, FACTORS, ALPHAS), ("1/B", "1", 0.9)]
    grid = itertools.product(cases, BATCHES, RATES, SEEDS)
    for (start, factor, alpha), size, lr, seed in grid:
        key = f"start {start}/factor {factor}/alpha {alpha}/batch {size}"
        store.once(
            f"{key}/rate {lr:g}/seed {seed}",
            lambda p=(start, factor, alpha, size, lr, seed): run(data, *p),
        )


if __name__ == "__main__":
    main()
