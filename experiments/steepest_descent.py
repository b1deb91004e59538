"""Does a tuned learning rate survive a change of width? Four rules, one network.

``python experiments/steepest_descent.py`` trains a perceptron 64-w-w-10 on the
digits for every rule, width, learning rate and seed, and stores the results in
``results/`` (about six minutes on one CPU core). The chapter
chapters/norms/steepest-descent plots them and re-runs one point.

Only the ruler differs between the rules: same start (torch's default), same
batches, no averages, learning rate falling linearly to zero, ten learning rates
by factors of two for each.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab, norms
from anthology.optim import SteepestDescent

STORE = Path(__file__).parent / "results" / "steepest_descent.json"
WIDTHS = (32, 128, 512)
SEEDS = (0, 1, 2, 3, 4)
STEPS, BATCH = 50, 128
# The powers of two each rule may try: ten for everyone.
POWERS = {
    "SGD": range(-6, 4),
    "L2": range(-6, 4),
    "LInf": range(-11, -1),
    "RMSToRMS": range(-8, 2),
}


def build(rule: str, net: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """The optimizer of a rule: the same class, another ruler.

    "SGD" takes the theorem's length with λ = 1/lr; the others take steps of
    length lr in their norm.
    """
    if rule == "SGD":
        plain = {"norm": norms.L2(), "step": "steepest", "across": "l2"}
        return SteepestDescent(net.parameters(), lr, **plain)
    if rule == "L2":
        return SteepestDescent(net.parameters(), lr, norm=norms.L2())
    if rule == "LInf":
        return SteepestDescent(net.parameters(), lr, norm=norms.LInf())
    if rule == "RMSToRMS":
        # six polynomials instead of the SVD: cheaper, and close enough to it
        fast = ("[13].weight", norms.RMSToRMS("polar-express", 6))
        return SteepestDescent(norms.metrize(net, [fast]), lr)
    raise ValueError(f"rule is {rule!r}; it must be one of {list(POWERS)}")


def train(
    rule: str,
    width: int,
    power: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[float, float]:
    """Training loss over all images, and test accuracy, after the last step.

    The learning rate is ``2**power``. A diverged run has loss NaN.
    """
    data = lab.digits(device)
    net = lab.mlp([64, width, width, 10], seed=seed).to(device)
    optimizer = build(rule, net, 2.0**power)
    run = lab.fit(
        net,
        optimizer,
        data.batches(BATCH, seed=seed),
        STEPS,
        schedule="linear",
        evaluate=lambda: lab.mean_loss(net, data.x, data.y),
    )
    return float(run.metric), lab.accuracy(net, *data.test)


def sweep() -> dict[str, dict[str, dict[str, list]]]:
    """results[rule][width]: powers, and for each of them a list over seeds."""
    results: dict[str, dict[str, dict[str, list]]] = {}
    for rule, powers in POWERS.items():
        results[rule] = {}
        for width in WIDTHS:
            runs = [[train(rule, width, p, s) for s in SEEDS] for p in powers]
            results[rule][str(width)] = {
                "powers": list(powers),
                "loss": [[_stored(loss) for loss, _ in row] for row in runs],
                "accuracy": [[_stored(share) for _, share in row] for row in runs],
            }
            print(rule, width, "done", flush=True)
    return results


def stored_results() -> dict[str, dict[str, dict[str, list]]]:
    """The stored sweep; a diverged run has loss infinity."""
    results = json.loads(STORE.read_text(encoding="utf-8"))["results"]
    for entry in (runs for rule in results.values() for runs in rule.values()):
        entry["loss"] = [
            [math.inf if x is None else x for x in row] for row in entry["loss"]
        ]
    return results


def _stored(value: float) -> float | None:
    """Four significant digits; null where a run diverged."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def main() -> None:
    torch.set_num_threads(1)
    record = {
        "command": "python experiments/steepest_descent.py",
        "date": datetime.date.today().isoformat(),
        "machine": f"one thread of {os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": list(SEEDS),
        "steps": STEPS,
        "batch": BATCH,
        "results": sweep(),
    }
    STORE.parent.mkdir(exist_ok=True)
    STORE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
