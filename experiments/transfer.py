"""Does a tuned rate survive a change of width, or of depth? Four rules, two tasks.

What is on trial: a learning rate that is found on a small network and taken to a larger
one. `digits-width` is a perceptron 144-w-w-10 on digits at random places, as torch
initialises it; `digits-depth` a chain of L hidden layers of width 64 without shortcuts,
orthogonal weights of RMS→RMS norm √2. `text-width` and `text-depth` are causal
transformers on the bytes of Python's standard library: one block of width w, and L
blocks of width 32. Their shortcuts are x ↦ (1−s)x + s·branch(x) with s = 1/(4L), so
that the sensitivity of the whole stays bounded: 6.2 for one block, never 15.3.

Only the rule differs: Adam; all linear weights by UVᵀ; each layer by its own norm
(`metrize`); each layer by its own norm with the scales of the modular norm
(`modular_norm`). Momentum 0.9, no decay, the rate falls linearly to zero, eight rates by
factors of two for everyone, three seeds for each.

    python experiments/transfer.py    # about 40 minutes on one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped. `PREDICTIONS` were written before the first run.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch
from problems import CANVAS, paste
from store import RESULTS, Store, provenance
from torch import Tensor, nn

from anthology import lab, norms, optim

PATH = RESULTS / "transfer.json"
SEEDS = (0, 1, 2)
SIZES = {
    "digits-width": (32, 96, 288),
    "digits-depth": (2, 4, 8),
    "text-width": (32, 64, 128),
    "text-depth": (1, 2, 6),
}
STEPS = {"digits": 200, "text": 100}
IMAGES, CONTEXT, TEXTS = 64, 32, 16
# The powers of two each rule may try: eight for everyone, around what runs of another
# seed had found at steps of four.
POWERS = {
    "Adam": range(-10, -2),
    "UVᵀ": range(-8, 0),
    "layers": range(-9, -1),
    "modular": range(-5, 3),
}


class Shortcut(nn.Module):
    """x ↦ (1 − share)·x + share·branch(x)."""

    def __init__(self, branch: nn.Module, share: float) -> None:
        super().__init__()
        self.branch, self.share = branch, share

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (1 - self.share) * x + self.share * self.branch(x)
        return out


class Attention(nn.Module):
    """Causal attention of (n, t, width) to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        mask = torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1)
        out: Tensor = self.inner(x, x, x, attn_mask=mask, need_weights=False)[0]
        return out


class Places(nn.Module):
    """A vector for each token, plus one for each place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)

    def forward(self, x: Tensor) -> Tensor:
        at = torch.arange(x.shape[1], device=x.device)
        out: Tensor = self.token(x) + self.place(at)
        return out


@norms.module_rule(Shortcut)
def _shortcut(module: Any, reader: norms.Reader) -> norms.Modular:
    branch = norms.compose(reader(module.branch), norms.bond(module.share))
    return norms.concat(norms.bond(1 - module.share), branch)


@norms.module_rule(Attention)
def _attention(module: Any, reader: norms.Reader) -> norms.Modular:
    return reader(module.inner)


@norms.module_rule(Places)
def _places(module: Any, reader: norms.Reader) -> norms.Modular:
    return norms.concat(reader(module.token), reader(module.place))


def blocks(width: int, depth: int) -> nn.Sequential:
    """A transformer whose sensitivity stays bounded, however deep it is."""
    share, parts = 1 / (4 * depth), []
    for _ in range(depth):
        inner = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
        for branch in ([Attention(width, width // 16)], inner):
            layers = nn.Sequential(nn.LayerNorm(width), *branch)
            parts.append(Shortcut(layers, share))
    head = nn.Linear(width, 256, bias=False)
    return nn.Sequential(Places(width), *parts, nn.LayerNorm(width), head)


def network(where: str, size: int, seed: int) -> nn.Module:
    """The network of a family and a size, from its own seed."""
    pixels = CANVAS**2
    if where == "digits-width":
        return lab.mlp([pixels, size, size, 10], seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if where.startswith("text"):
            return blocks(size, 1) if where == "text-width" else blocks(32, size)
        net = lab.mlp([pixels, *[64] * size, 10], seed=seed)
        for layer in net:
            if isinstance(layer, nn.Linear):
                ratio = layer.out_features / layer.in_features
                nn.init.orthogonal_(layer.weight, math.sqrt(2 * ratio))
                nn.init.zeros_(layer.bias)
    return net


def build(rule: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of a rule."""
    if rule == "Adam":
        return optim.Adam(model.parameters(), lr, betas=(0.9, 0.99))
    fast = ("polar-express", 6)
    own = lambda name, p, module: isinstance(module, nn.Linear) and p.ndim == 2
    by_hand = {"UVᵀ": norms.Spectral(*fast), "layers": norms.RMSToRMS(*fast)}
    if rule == "modular":
        override = [(own, norms.RMSToRMS(*fast))]
        groups = norms.modular_norm(model, overrides=override).groups
    else:
        groups = norms.metrize(model, [(own, by_hand[rule])], head=False)
    return optim.SteepestDescent(groups, lr, momentum=0.9)


def task(where: str, seed: int) -> tuple[Any, tuple[Tensor, Tensor]]:
    """Batches without end, and what is not trained on."""
    if where.startswith("text"):
        words = lab.text("cpu")
        return words.batches(TEXTS, CONTEXT, seed), words.test_batch(128, CONTEXT)
    data, places = lab.digits("cpu"), torch.Generator().manual_seed(seed)
    batches = ((paste(x, places), y) for x, y in data.batches(IMAGES, seed))
    still = torch.Generator().manual_seed(1)
    return batches, (
        paste(data.x_test.repeat(2, 1, 1, 1), still),
        data.y_test.repeat(2),
    )


def train(where: str, size: int, rule: str, power: int, seed: int) -> float | None:
    """Loss on unseen data after the last step; None if the run left the numbers."""
    model = network(where, size, seed)
    batches, test = task(where, seed)
    run = lab.fit(
        model,
        build(rule, model, 2.0**power),
        batches,
        STEPS[where.split("-")[0]],
        schedule="linear",
        evaluate=lambda: lab.mean_loss(model, *test),
    )
    found = math.nan if run.metric is None else run.metric
    return float(f"{found:.4g}") if math.isfinite(found) else None


@dataclass(frozen=True)
class Prediction:
    """The largest size's best rate over the smallest's, in powers of two."""

    where: str
    rule: str
    low: float
    high: float
    says: str


# Written before the first run.
PREDICTIONS = (
    Prediction("digits-width", "layers", -1, 1, "stays within a factor of two"),
    Prediction("digits-width", "modular", -1, 1, "stays within a factor of two"),
    Prediction("digits-width", "Adam", -9, -2, "falls to a quarter or less"),
    Prediction("digits-width", "UVᵀ", 1, 9, "doubles or more"),
    Prediction("text-width", "layers", -1, 1, "stays within a factor of two"),
    Prediction("text-width", "modular", -1, 1, "stays within a factor of two"),
    Prediction("text-width", "Adam", -9, -1, "falls to a half or less"),
    Prediction("digits-depth", "layers", -9, -2, "falls to a quarter or less"),
    Prediction("digits-depth", "modular", -1, 1, "stays within a factor of two"),
    Prediction("digits-depth", "Adam", -9, -1, "falls to a half or less"),
    Prediction("text-depth", "layers", -1, 1, "stays within a factor of two"),
    Prediction("text-depth", "modular", -1, 1, "stays within a factor of two"),
    Prediction("text-depth", "Adam", -1, 1, "stays within a factor of two"),
)

Runs = Mapping[str, float | None]


def key(where: str, size: int, rule: str, power: int, seed: int) -> str:
    return f"{where}/{size}/{rule}/{power}/{seed}"


def losses(runs: Runs, where: str, size: int, rule: str, power: int) -> list[float]:
    """The losses over the seeds; infinity where a run left the numbers."""
    found = [runs[key(where, size, rule, power, seed)] for seed in SEEDS]
    return [math.inf if x is None else x for x in found]


def best(runs: Runs, where: str, size: int, rule: str) -> int:
    """The power of two with the least mean loss over the seeds."""
    return min(
        POWERS[rule], key=lambda power: mean(losses(runs, where, size, rule, power))
    )


@dataclass(frozen=True)
class Transfer:
    """A rule on a family: where its best rate goes, and what the small one's costs."""

    powers: tuple[int, ...]  # best power of two at each size
    drift: int  # largest size against smallest
    tuned: tuple[float, float]  # loss at the largest size: mean and spread
    carried: tuple[float, float]  # the same with the rate of the smallest


def transfer(runs: Runs, where: str, rule: str) -> Transfer:
    """What came of a rule on a family of networks."""
    sizes = SIZES[where]
    powers = tuple(best(runs, where, size, rule) for size in sizes)
    told = []
    for power in (powers[-1], powers[0]):
        found = losses(runs, where, sizes[-1], rule, power)
        finite = all(map(math.isfinite, found))
        told.append((mean(found), stdev(found) if finite else math.inf))
    return Transfer(powers, powers[-1] - powers[0], told[0], told[1])


def holds(runs: Runs, prediction: Prediction) -> bool:
    """Whether a prediction is borne out by the runs."""
    drift = transfer(runs, prediction.where, prediction.rule).drift
    return prediction.low <= drift <= prediction.high


def stored() -> Runs:
    """What has been run."""
    runs: Runs = Store(PATH, provenance("transfer.py")).runs
    return runs


def main(act: Callable[..., Any] = train) -> None:
    """Make the runs that are missing, and tell what came of the predictions."""
    torch.set_num_threads(1)
    store = Store(PATH, provenance("transfer.py"))
    for where, sizes in SIZES.items():
        for size in sizes:
            for rule, powers in POWERS.items():
                for power in powers:
                    for seed in SEEDS:
                        run = (where, size, rule, power, seed)
                        store.once(key(*run), partial(act, *run))
        for rule in POWERS:
            print(where, rule, transfer(store.runs, where, rule), flush=True)
    for p in PREDICTIONS:
        verdict = "holds" if holds(store.runs, p) else "is contradicted"
        print(f"{p.where}: the rate of {p.rule} {p.says}: {verdict}")


if __name__ == "__main__":
    main()
