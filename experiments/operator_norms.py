"""Which operator norm for a hidden layer? Ten of them on the digits of the race.

What is on trial: the norm by which the two hidden weights of a perceptron,
144-64-256-10, are measured. All else is the same for everyone: head and biases by
`metrize`, momentum 0.9, steps of fixed length, the rate up over a twentieth and then
linearly down to zero, no decay. The second hidden weight, 256×64, is tall, so UVᵀ need
not move its rows evenly; `even` scales the rows of UVᵀ to one length.

Each norm is scaled so that its step for a Gaussian gradient has the Frobenius norm of
the spectral one. Then everyone tries the same seven rates, a factor of two apart, with
one seed, and runs five other seeds at the best. Stored: the loss on unseen data, and
how far the rows of the tall weight have moved, the slowest twentieth over the median.

`feedback` is rank 8 with Dion's buffer, M ← M + G, from which a step takes a tenth of
the directions it used and leaves the others; it was added, with its two predictions,
when the others had been run.

    python experiments/operator_norms.py    # about four minutes on one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped. `PREDICTIONS` were written before the first run. Made before: one run of seed
100, spectral at 0.08, to see that it works and how long it takes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from race_declaration import SEARCH_SEED, SEEDS, SIGMA
from race_problems import known, trained
from store import RESULTS, Store, provenance
from torch import Tensor

from anthology import lab, norms, optim

PATH = RESULTS / "operator_norms.json"
RATES = tuple(0.01 * 2**k for k in range(7))
WIDTHS = [144, 64, 256, 10]
MARGIN = 3.09 * (2 / len(SEEDS)) ** 0.5  # times the deviation of a seed


class EvenRows(norms.RMSToRMS):
    """The spectral step with all rows that are not zero made equally long."""

    def _dualize(self, g: Tensor) -> Tensor:
        t = super()._dualize(g)
        rows = t.norm(dim=-1, keepdim=True)
        return t / rows.clamp(min=1e-12) * t.norm() / len(t) ** 0.5


NORMS: dict[str, norms.Norm] = {
    "spectral": norms.RMSToRMS(),
    "even": EvenRows(),
    "rank 8": norms.LowRank(8),
    "Frobenius": norms.Frobenius(),
    "signs": norms.MaxAbs(),
    "rows": norms.RMSToInf(),
    "columns": norms.OneToRMS(),
    "one a row": norms.RowL1(),
    "one a column": norms.ColumnL1(),
    "rank 1": norms.Nuclear(),
    "feedback": norms.LowRank(8),
}
# (says, better, worse): better ends lower, by more than the margin
PREDICTIONS: tuple[tuple[str, str, str], ...] = (
    ("spectral beats Frobenius", "spectral", "Frobenius"),
    ("spectral beats signs", "spectral", "signs"),
    ("spectral beats rows", "spectral", "rows"),
    ("spectral beats columns", "spectral", "columns"),
    (
        "spectral beats rank 8: a step of few directions is too few",
        "spectral",
        "rank 8",
    ),
    ("rank 8 beats rank 1", "rank 8", "rank 1"),
    ("rows beat columns, which are for inputs with one entry", "rows", "columns"),
    ("signs beat one a row", "signs", "one a row"),
    ("signs beat one a column", "signs", "one a column"),
    ("even rows beat spectral", "even", "spectral"),
    ("feedback beats rank 8", "feedback", "rank 8"),
    ("spectral beats feedback", "spectral", "feedback"),
)


def scale(norm: norms.Norm, shape: torch.Size) -> float:
    """Times this its steps for Gaussian gradients are as long as spectral ones."""
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(shape, generator=draw, dtype=torch.float64)
    ours, theirs = norm.dualize(g).norm(), norms.RMSToRMS().dualize(g).norm()
    return float(ours / theirs)


def groups(model: torch.nn.Module, norm: norms.Norm) -> list[dict[str, Any]]:
    """The model's own norms, but for the hidden weights."""
    found = []
    for row in norms.metrize(model).rows:
        group = {"params": [row.param], "norm": row.norm, "scale": row.scale}
        if row.role == "linear":
            group |= {"norm": norm, "scale": scale(norm, row.param.shape)}
        found.append(group)
    return found


class Feedback(torch.optim.Optimizer):
    """Averages dualized, but for hidden weights a buffer as Dion's, decomposed exactly."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            norm, length = group["norm"], group["lr"] / group["scale"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                if isinstance(norm, norms.LowRank):
                    m += p.grad
                    t = norm.dualize(m)
                    used = t @ (t.mT @ m)  # what the leading directions hold
                    m -= 0.1 * used
                else:
                    m.lerp_(p.grad, 0.1)
                    t = norm.dualize(m)
                p -= length * t


def train(name: str, lr: float, seed: int) -> dict[str, float]:
    """One run: the loss on unseen data, and how evenly the tall rows have moved."""
    problem = known("digits")
    model = lab.mlp(WIDTHS, seed=seed)
    tall = next(p for p in model.parameters() if p.shape == (256, 64))
    start = tall.detach().clone()
    found = groups(model, NORMS[name])
    optimizer: torch.optim.Optimizer = Feedback(found, lr)
    if name != "feedback":
        optimizer = optim.SteepestDescent(found, lr, momentum=0.9)
    done = trained(problem, model, optimizer, seed)
    moved = (tall.detach() - start).norm(dim=1)
    slow = moved.quantile(0.05) / moved.median() if moved.median() > 0 else 0.0
    loss = float(done.metric) if done.metric is not None else float("inf")
    return {"loss": round(loss, 5), "slow": round(float(slow), 4)}


def stored() -> dict[str, dict[str, float]]:
    """What has been run."""
    runs: dict[str, dict[str, float]] = Store(
        PATH, provenance("operator_norms.py")
    ).runs
    return runs


def best(runs: dict[str, dict[str, float]]) -> dict[str, tuple[float, list[Any]]]:
    """For each norm the best rate of the search, and its five runs."""
    found = {}
    for name in NORMS:
        tried = {lr: runs[f"{name}/{lr:g}/{SEARCH_SEED}"]["loss"] for lr in RATES}
        lr = min(tried, key=lambda rate: tried[rate])
        rows = [runs.get(f"{name}/{lr:g}/{seed}") for seed in SEEDS]
        found[name] = lr, [row for row in rows if row]
    return found


def outcomes(found: dict[str, tuple[float, list[Any]]]) -> dict[str, str]:
    """What came of each prediction, by the rule of the race."""
    losses = {name: [row["loss"] for row in rows] for name, (_, rows) in found.items()}
    came = {}
    for says, better, worse in PREDICTIONS:
        a, b = losses[better], losses[worse]
        sigma = max(SIGMA["digits"], stdev(a), stdev(b))
        gap = (mean(b) - mean(a)) / sigma
        held = "holds" if gap >= MARGIN else "is reversed" if -gap >= MARGIN else "ties"
        came[says] = held
    return came


def main() -> None:
    """Make the runs that are missing, and tell the best."""
    store = Store(PATH, provenance("operator_norms.py"))

    def need(name: str, lr: float, seed: int) -> None:
        store.once(f"{name}/{lr:g}/{seed}", lambda: train(name, lr, seed))

    for name in NORMS:
        for lr in RATES:
            need(name, lr, SEARCH_SEED)
    for name, (lr, _) in best(store.runs).items():
        for seed in SEEDS:
            need(name, lr, seed)
    found = best(store.runs)
    for name, (lr, rows) in found.items():
        told = [round(mean(row[what] for row in rows), 4) for what in rows[0]]
        print(f"{name:14}", lr, *told, flush=True)
    for says, held in outcomes(found).items():
        print(f"{held:12}", says)


if __name__ == "__main__":
    main()
