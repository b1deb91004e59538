"""How far is a network on real digits from its equation of motion?

``python experiments/counter_term_digits.py`` trains a tanh perceptron 64-16-10
on 100 handwritten digits by full-batch gradient descent in float64, follows the
truncated equation of motion for the same time, and stores the distance between
the two in ``results/``, for every step size, order, way and seed (about five
minutes on one CPU core). The chapter chapters/motion/counter-term plots them
and re-runs one point.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import grad, jvp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab
from anthology.motion import discretization_error, ravel_model

STORE = Path(__file__).parent / "results" / "counter_term_digits.json"
SEEDS = (0, 1, 2)
TIME = 8.0
RATES = (1.0, 0.5, 0.25, 0.125)
ORDERS = {"series": (1, 2, 3), "differences": (1, 2, 3, 4)}
SAMPLES, WIDTH = 100, 16


def problem(seed: int, device: torch.device | str = "cpu"):
    """Loss on a flat vector and start; another seed is another network."""
    data = lab.digits(device)
    x, y = data.x[:SAMPLES].double(), data.y[:SAMPLES]
    net = lab.mlp([64, WIDTH, 10], activation=nn.Tanh, seed=seed).to(device)
    return ravel_model(net, lambda net: lab.cross_entropy(net(x), y))


def descend(f, w: Tensor, lr: float) -> list[Tensor]:
    path = [w]
    for _ in range(round(TIME / lr)):
        path.append(path[-1] - lr * grad(f)(path[-1]))
    return path


def relative_error(f, path: list[Tensor], lr: float, order: int, way: str) -> float:
    """‖motion − descent‖ / ‖descent − start‖ when the time is over."""
    error = discretization_error(
        grad(f),
        path[0],
        lr,
        len(path) - 1,
        order,
        method=way,
        solver="dopri5",
        rtol=1e-7,
        atol=1e-8,
    )
    return float(error.norm() / (path[-1] - path[0]).norm())


def sharpest(f, w: Tensor, iterations: int = 40) -> tuple[float, float]:
    """Largest curvature, and the share of ‖g‖² that lies along its direction.

    By power iteration from a seeded vector.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w)
    for _ in range(iterations):
        v = jvp(grad(f), (w,), (v / v.norm(),))[1]
    g = grad(f)(w)
    return float(v.norm()), float((g @ v / v.norm() / g.norm()) ** 2)


def run(seed: int, lr: float) -> dict:
    f, w0 = problem(seed)
    path = descend(f, w0, lr)
    sampled = path[:: len(path) // 4]
    row = {
        "loss": [_stored(float(f(path[0]))), _stored(float(f(path[-1])))],
        "lr_times_sharpness": _stored(lr * max(sharpest(f, w)[0] for w in sampled)),
    }
    for way, orders in ORDERS.items():
        row[way] = [_stored(relative_error(f, path, lr, n, way)) for n in orders]
    return row


def stored_results() -> dict[str, dict[str, dict]]:
    """results[learning rate][seed]: errors by way and order, loss, sharpness."""
    return json.loads(STORE.read_text(encoding="utf-8"))["results"]


def _stored(value: float) -> float:
    return float(f"{value:.6g}")


def main() -> None:
    torch.set_num_threads(1)
    results: dict[str, dict[str, dict]] = {}
    for lr in RATES:
        results[str(lr)] = {}
        for seed in SEEDS:
            results[str(lr)][str(seed)] = run(seed, lr)
            print(lr, seed, results[str(lr)][str(seed)], flush=True)
    record = {
        "command": "python experiments/counter_term_digits.py",
        "date": datetime.date.today().isoformat(),
        "machine": f"one thread of 2 CPU cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "seeds": list(SEEDS),
        "time": TIME,
        "samples": SAMPLES,
        "width": WIDTH,
        "measure": "|motion - descent| / |descent - start|, by order from 1",
        "results": results,
    }
    STORE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
