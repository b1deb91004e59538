"""What does one velocity of the truncated motion cost, by either way?

``python experiments/counter_term_cost.py`` counts the calls of the gradient and
measures the CPU time of one velocity in units of one gradient (medians), for
the two-weight network and for a perceptron on digits, and stores both in
``results/`` (about ten minutes on one CPU core, half of them for the last order
of the series on the perceptron). The chapter chapters/motion/counter-term plots
the times and counts the calls again.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import grad

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.motion import equation_of_motion, ravel_model

STORE = Path(__file__).parent / "results" / "counter_term_cost.json"
ORDERS = (1, 2, 3, 4, 5, 6, 7, 8)
WAYS = ("series", "differences")
LR = 0.05
SAMPLES, WIDTHS = 500, (64, 64, 64, 10)

Field = Callable[[Tensor], Tensor]


def network() -> tuple[Field, Tensor]:
    """Gradient and start of a perceptron whose arithmetic outweighs Python."""
    data = lab.digits("cpu")
    x, y = data.x[:SAMPLES].double(), data.y[:SAMPLES]
    net = lab.mlp(WIDTHS, activation=nn.Tanh)
    f, w0 = ravel_model(net, lambda net: lab.cross_entropy(net(x), y))
    return grad(f), w0


def seconds(function: Field, w: Tensor) -> float:
    """Median CPU time of a call, after one to warm up.

    At least five calls and 0.3 seconds; three calls where one takes 20 seconds.
    """
    function(w)
    times: list[float] = []
    while len(times) < 3 or (len(times) < 5 and sum(times) < 60) or sum(times) < 0.3:
        start = time.process_time()
        function(w)
        times.append(time.process_time() - start)
    return statistics.median(times)


def calls(gradient: Field, w: Tensor, order: int, way: str) -> int:
    """How often one velocity calls the gradient."""
    count = 0

    def counted(v: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return gradient(v)

    equation_of_motion(counted, order, LR, way)(w)
    return count


def measure(gradient: Field, w: Tensor) -> dict[str, dict[str, list]]:
    unit = seconds(gradient, w)
    entry = {}
    for way in WAYS:
        fields = [equation_of_motion(gradient, order, LR, way) for order in ORDERS]
        entry[way] = {
            "calls": [calls(gradient, w, order, way) for order in ORDERS],
            "time": [float(f"{seconds(f, w) / unit:.3g}") for f in fields],
        }
        print(way, entry[way], flush=True)
    return entry


def stored_results() -> dict[str, dict[str, dict[str, list]]]:
    """results[problem][way]: calls and time of one velocity, by order from 1."""
    return json.loads(STORE.read_text(encoding="utf-8"))["results"]


def main() -> None:
    torch.set_num_threads(1)
    record = {
        "command": "python experiments/counter_term_cost.py",
        "date": datetime.date.today().isoformat(),
        "machine": f"one thread of 2 CPU cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "seeds": [0],
        "samples": SAMPLES,
        "widths": list(WIDTHS),
        "measure": "CPU time of one velocity / CPU time of one gradient",
        "results": {
            "two weights": measure(two_weights.gradient, two_weights.start()),
            "digits": measure(*network()),
        },
    }
    STORE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
