"""What `anthology.motion.Probe` adds to the time of training, and how little is enough.

Two models that a stranger could have written, a convolutional network and a
``torch.nn.TransformerEncoder``, train for some steps with and without a probe, in
turns, so that whatever else the machine does falls on both. A row is the median over the
rounds of the processor time with a probe over that without.

Predicted before the first run: without the fixed batch less than 5 %; with it, each
tenth step, 20 % (two gradients of a batch as large as that of training, for ten
steps), and one sharpness, some twenty products of the Hessian, as much as 40 steps.
Measured: each of the three costs more than that, one sharpness more than a hundred steps.

    python experiments/probe_cost.py    # a minute of one core
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology.motion import Probe

RESULTS = Path(__file__).parent / "results" / "probe_cost.json"
STEPS, ROUNDS = 20, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "steps and norms, each step": {"parts": ["steps", "penalty"], "every": 1},
    "and the batch, each tenth": {
        "parts": ["steps", "turn"],
        "every": {"turn": 10},
    },
    "and the sharpness, each twentieth": {
        "parts": ["steps", "turn", "sharpness"],
        "every": {"turn": 10, "sharpness": 20},
    },
}


class Encoder(nn.Module):
    """Classes of sequences, by PyTorch's own encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of shape (batch, 10)."""
        scores: Tensor = self.head(self.body(self.embed(x)).mean(1))
        return scores


def convolutional() -> nn.Module:
    """Three convolutions with batch normalisation, and a linear head."""
    layers: list[nn.Module] = []
    for old, new in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(old, new, 3, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(new), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 10))


def problem(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.randint(10, (64,))
    if name == "CNN":
        return convolutional(), torch.randn(64, 3, 32, 32), y
    return Encoder(), torch.randint(64, (64, 32)), y


def seconds(name: str, steps: int, **options: Any) -> float:
    """Processor time of some steps, of which the first is not counted."""
    net, x, y = problem(name)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    if options:
        Probe(net, optimizer, lambda f: cross_entropy(f(x), y), **options)
    for k in range(steps + 1):
        if k == 1:
            start = time.process_time()
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
    return time.process_time() - start


def ratio(name: str, options: dict[str, Any], steps: int) -> float:
    """Median of the rounds, with and without a probe in turns."""
    found = []
    for turn in range(ROUNDS):
        both = [options, {}] if turn % 2 else [{}, options]
        times = [seconds(name, steps, **o) for o in both]
        found.append(times[both.index(options)] / times[both.index({})])
    return round(statistics.median(found), 2)


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "at step", RuntimeWarning)
    rows = {
        label: {
            name: ratio(name, options, STEPS) for name in ("CNN", "TransformerEncoder")
        }
        for label, options in SETTINGS.items()
    }
    provenance = {
        "command": "python experiments/probe_cost.py",
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, one thread used",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": [0],
        "rounds": ROUNDS,
    }
    content = {"provenance": provenance, "ratios": rows}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")
    for label, row in rows.items():
        print(label, row)


if __name__ == "__main__":
    main()
