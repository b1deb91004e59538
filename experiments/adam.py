"""Sign descent, with and without what Adam adds: five rules, two problems.

What is on trial: how much of Adam's advantage over gradient descent does sign
descent with momentum have already, and how much is left for the second average?

Problems. `text`: the bytes of Python's standard library, a small causal
transformer; the measure is the cross-entropy per byte, in nats, of unseen
modules. `digits`: 8 × 8 handwritten digits, a perceptron; the measure is the
cross-entropy of unseen digits.

Fairness. Every rule has one free setting, the learning rate, and tries five of
them, a factor of two apart, each with the same three seeds of weights and
batches, and the same linear fall of the rate. The grids are centred on the best
of a coarse pilot. Every run is stored, none is selected.

    python experiments/adam.py                   # about ten minutes
    python experiments/adam.py --problem digits  # one problem
    python experiments/adam.py --budget large    # bigger nets, a GPU

Each run is stored as soon as it ends; started again, the script goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from datetime import date
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab, norms, optim

RESULTS = Path(__file__).parent / "results"
SEEDS, TRIALS = (0, 1, 2), 5
# The middle of each grid, from a coarse pilot.
CENTRE = {
    "text": {
        "gradient with momentum": 0.5,
        "sign without momentum": 5e-3,
        "sign with momentum": 1e-3,
        "Adam": 6e-3,
        "Adam, equal averages": 4e-3,
    },
    "digits": {
        "gradient with momentum": 3.0,
        "sign without momentum": 6e-3,
        "sign with momentum": 6e-3,
        "Adam": 3e-2,
        "Adam, equal averages": 3e-2,
    },
}
RULES = tuple(CENTRE["text"])


def rule(name: str, model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of that name for all weights of a model."""
    params = list(model.parameters())
    if name == "gradient with momentum":
        return optim.SteepestDescent(
            params, lr, momentum=0.9, norm=norms.L2(), step="steepest", across="l2"
        )
    if name == "sign without momentum":
        return optim.SteepestDescent(params, lr, norm=norms.LInf())
    if name == "sign with momentum":
        return optim.SteepestDescent(params, lr, momentum=0.9, norm=norms.LInf())
    if name == "Adam":
        return optim.Adam(params, lr, betas=(0.9, 0.999))
    return optim.Adam(params, lr, betas=(0.95, 0.95))


class Bytes:
    """The standard library, byte by byte, and a small transformer."""

    def __init__(self, device: torch.device, large: bool = False) -> None:
        self.data, self.device = lab.text(device), device
        self.size, self.context = (64, 256) if large else (16, 64)
        self.width, self.depth = (256, 4) if large else (48, 2)
        self.steps = 2000 if large else 400
        self.unseen = self.data.test_batch(256, self.context)

    def model(self, seed: int) -> nn.Module:
        net = lab.transformer(
            width=self.width, depth=self.depth, context=self.context, seed=seed
        )
        return net.to(self.device)

    def batches(self, seed: int):
        return self.data.batches(self.size, self.context, seed)


class Digits:
    """Handwritten digits and a perceptron with one hidden layer."""

    steps, size = 400, 64

    def __init__(self, device: torch.device, large: bool = False) -> None:
        self.data, self.device = lab.digits(device), device
        self.width = 512 if large else 64
        self.unseen = self.data.test

    def model(self, seed: int) -> nn.Module:
        return lab.mlp([64, self.width, 10], seed=seed).to(self.device)

    def batches(self, seed: int):
        return self.data.batches(self.size, seed)


PROBLEMS = {"text": Bytes, "digits": Digits}


def run(problem: Bytes | Digits, name: str, lr: float, seed: int) -> dict[str, float]:
    """Train once; losses on unseen data and over the last fifty batches."""
    net = problem.model(seed)
    result = lab.fit(
        net,
        rule(name, net, lr),
        problem.batches(seed),
        problem.steps,
        evaluate=lambda: lab.mean_loss(net, *problem.unseen),
        schedule="linear",
    )
    last = result.losses[-50:]
    value = result.metric if math.isfinite(result.metric) else None
    train = None if result.diverged else round(sum(last) / len(last), 6)
    return {"unseen": None if value is None else round(value, 6), "train": train}


def grid(problem: str, name: str) -> list[float]:
    """Five rates, a factor of two apart, around the pilot's best."""
    middle = CENTRE[problem][name]
    half = TRIALS // 2
    return [float(f"{middle * 2.0**k:.6g}") for k in range(-half, half + 1)]


def by_rate(content: dict, problem: str, name: str) -> tuple[list[float], ...]:
    """Rates, and for each the lowest, middle and highest stored unseen loss."""
    losses: dict[float, list[float]] = {}
    for row in content["runs"]:
        if (row["problem"], row["rule"]) == (problem, name):
            value = math.inf if row["unseen"] is None else row["unseen"]
            losses.setdefault(row["lr"], []).append(value)
    ordered = [sorted(values) for values in losses.values()]
    low, high = [v[0] for v in ordered], [v[-1] for v in ordered]
    return list(losses), low, [v[len(v) // 2] for v in ordered], high


def repeat(
    content: dict, device: torch.device, problem: str, name: str, lr: float, seed: int
) -> tuple[float, float]:
    """Train a stored run again: its unseen loss now, and the stored one."""
    key = {"problem": problem, "rule": name, "lr": lr, "seed": seed}
    stored = next(row for row in content["runs"] if key.items() <= row.items())
    now = run(PROBLEMS[problem](device), name, lr, seed)
    return now["unseen"], stored["unseen"]


def provenance(budget: str, device: torch.device) -> dict[str, object]:
    return {
        "command": f"python experiments/adam.py --budget {budget}",
        "date": date.today().isoformat(),
        "machine": (
            torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{os.cpu_count()} CPU cores, one thread used"
        ),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": list(SEEDS),
    }


def save(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)


def compete(path: Path, content: dict, key: str, problem: Bytes | Digits) -> None:
    """All runs of one problem that are not stored yet."""
    runs = content.setdefault("runs", [])
    done = {(r["problem"], r["rule"], r["lr"], r["seed"]) for r in runs}
    tries = [(n, lr, s) for n in RULES for lr in grid(key, n) for s in SEEDS]
    for name, lr, seed in tries:
        if (key, name, lr, seed) in done:
            continue
        start = time.process_time()
        row = {"problem": key, "rule": name, "lr": lr, "seed": seed}
        row |= run(problem, name, lr, seed)
        row["cpu_seconds"] = round(time.process_time() - start, 1)
        runs.append(row)
        save(path, content)
        print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", choices=[*PROBLEMS, "all"], default="all")
    parser.add_argument("--budget", choices=["small", "large"], default="small")
    chosen = parser.parse_args()
    large = chosen.budget == "large"
    device = lab.pick_device() if large else torch.device("cpu")
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    path = RESULTS / ("adam_large.json" if large else "adam.json")
    content = json.loads(path.read_text()) if path.exists() else {}
    content.setdefault("provenance", provenance(chosen.budget, device))
    for key, build in PROBLEMS.items():
        if chosen.problem in (key, "all"):
            compete(path, content, key, build(device, large))


if __name__ == "__main__":
    main()
