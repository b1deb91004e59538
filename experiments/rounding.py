"""What SOAP and Shampoo make of rounding, and what a relative ε costs.

``python experiments/rounding.py digits`` trains a perceptron on the digits, and
``... text`` a small transformer on the bytes of Python's standard library, with AdamW
and with SOAP and Shampoo as published and with a relative ε (about ten minutes each on
one CPU core); the results are stored in ``results/``. The defaults of both classes and
the README's sentence on processes rest on it.

Two measures. ``apart``: the same batches go through the model whole or in two halves
whose gradients are added, as two processes would, which differ by rounding alone;
the largest difference of a weight after ten steps, in units of the learning rate, for
each seed. ``loss``: the cross-entropy on data not trained on, after the last step, for
each seed at the learning rate that was best for seed 0.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab
from anthology.optim import SOAP, Shampoo

STORE = Path(__file__).parent / "results" / "rounding.json"
SEEDS = (0, 1, 2, 3, 4)
APART_AFTER = 10
RATES = {"AdamW": 3e-3, "SOAP": 6e-3, "Shampoo": 0.12}
POWERS = (-1, 0, 1, 2)  # of the rate: that number times a power of two
SOAP_OFF = {"relative_eps": False, "basis_eps": 0.0, "eps": 1e-8}
CONTESTANTS: dict[str, tuple[type, dict[str, Any]]] = {
    "AdamW": (torch.optim.AdamW, {}),
    "SOAP, published": (SOAP, SOAP_OFF),
    "SOAP, 0.03": (SOAP, {"relative_eps": True, "basis_eps": 0.1, "eps": 0.03}),
    "SOAP, 0.1": (SOAP, {"relative_eps": True, "basis_eps": 0.1, "eps": 0.1}),
    "Shampoo, published": (Shampoo, {"relative_eps": False, "eps": 1e-12}),
    "Shampoo, 1e-4": (Shampoo, {"relative_eps": True, "eps": 1e-4}),
}
Pair = tuple[Tensor, Tensor]


class Digits:
    """A perceptron 64-64-64-10; batches of 128."""

    steps = 150

    def __init__(self) -> None:
        self.data = lab.digits()

    def model(self, seed: int) -> nn.Module:
        return lab.mlp([64, 64, 64, 10], seed=seed)

    def batches(self, seed: int) -> Iterator[Pair]:
        return self.data.batches(128, seed=seed)

    def measure(self, net: nn.Module) -> float:
        return lab.mean_loss(net, self.data.x_test, self.data.y_test)


class Bytes:
    """A causal transformer, 64 wide and 2 deep; batches of 8 windows of 32 bytes."""

    steps = 60

    def __init__(self) -> None:
        self.data = lab.text(size=1_000_000)
        self.test = self.data.test_batch(256, 32)

    def model(self, seed: int) -> nn.Module:
        return lab.transformer(width=64, depth=2, context=32, seed=seed)

    def batches(self, seed: int) -> Iterator[Pair]:
        return self.data.batches(8, 32, seed)

    def measure(self, net: nn.Module) -> float:
        return lab.mean_loss(net, *self.test)


Problem = Digits | Bytes
PROBLEMS: dict[str, Callable[[], Problem]] = {"digits": Digits, "text": Bytes}


def build(name: str, net: nn.Module, lr: float) -> torch.optim.Optimizer:
    """A contestant for a network."""
    kind, settings = CONTESTANTS[name]
    return kind(net.parameters(), lr=lr, **settings)


def rate(name: str, power: int) -> float:
    """The learning rate of a contestant."""
    return RATES[CONTESTANTS[name][0].__name__] * 2.0**power


def train(problem: Problem, name: str, power: int, seed: int) -> float:
    """The loss after the last step, the rate falling linearly; NaN if diverged."""
    net = problem.model(seed)
    optimizer = build(name, net, rate(name, power))
    run = lab.fit(
        net,
        optimizer,
        problem.batches(seed),
        problem.steps,
        schedule="linear",
        evaluate=lambda: problem.measure(net),
    )
    return float(run.metric)


def apart(problem: Problem, name: str, power: int, seed: int) -> float:
    """How far whole batches and halves of them lead apart, in learning rates."""
    ends = []
    for parts in (1, 2):
        net, source = problem.model(seed), problem.batches(seed)
        optimizer = build(name, net, rate(name, power))
        for _ in range(APART_AFTER):
            x, y = next(source)
            for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
                (lab.cross_entropy(net(a), b) / parts).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return float((ends[0] - ends[1]).abs().max()) / rate(name, power)


def compete(problem: Problem, name: str) -> dict[str, Any]:
    """Both measures of one contestant."""
    tried = [train(problem, name, power, 0) for power in POWERS]
    known = [x if math.isfinite(x) else math.inf for x in tried]
    best = POWERS[known.index(min(known))]
    losses = [min(known), *(train(problem, name, best, s) for s in SEEDS[1:])]
    return {
        "lr": rate(name, best),
        "tried": [_stored(x) for x in tried],
        "loss": [_stored(x) for x in losses],
        "apart": [_stored(apart(problem, name, best, s)) for s in SEEDS],
    }


def _stored(value: float) -> float | None:
    """Four significant digits; null where a run diverged."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def main() -> None:
    (key,) = sys.argv[1:]
    torch.set_num_threads(1)
    problem = PROBLEMS[key]()
    found = {}
    for name in CONTESTANTS:
        found[name] = compete(problem, name)
        print(key, name, found[name], flush=True)
    kept = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    record = {
        "command": "python experiments/rounding.py digits (and text)",
        "date": datetime.date.today().isoformat(),
        "machine": f"one thread of {os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": list(SEEDS),
        "apart_after": APART_AFTER,
        "powers": list(POWERS),
        "results": {**kept.get("results", {}), key: found},
    }
    STORE.parent.mkdir(exist_ok=True)
    STORE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
