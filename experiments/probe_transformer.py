"""What the probe sees in a training run that the loss curve does not show.

A small transformer learns the bytes of Python's standard library, 120 steps, with
every optimizer of the package and three of torch, under `anthology.motion.Probe`.
On one fixed batch of the text, each third step is measured: the fall of the loss that
its gradient promises (`gain`), twice what the curvature takes back of it (`bend`), and
the fall that came (`fall`). After the last step: how far the weights have drifted in
directions that the loss cannot see (`drift`), of how far they have come (`distance`).

Fairness. Each optimizer has the best of two or three learning rates, a factor of
two to ten apart, of a pilot with seed 0; gradient descent and sign descent, which
keep no average, have three each, to see what does not depend on it. The rate falls
linearly to zero. Every run is stored, none is selected.

    python experiments/probe_transformer.py    # ten minutes of one core

Each run is stored as soon as it ends; started again, the script goes on where it
stopped.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology import lab, norms, optim
from anthology.motion import Probe, find_symmetries
from anthology.norms import metrize

RESULTS = Path(__file__).parent / "results" / "probe_transformer.json"
SEEDS, STEPS, SIZE, CONTEXT = (0, 1, 2), 120, 16, 64
EVERY = {"steps": 3, "turn": 3, "penalty": 3, "sharpness": 60, "symmetry": 119}
WHOLE = ("loss", "gain", "bend", "fall", "turn", "error", "penalty")
# steps after which a phase ends: the start, the middle, the end
PHASES = {"start": (1, 12), "middle": (30, 80), "end": (105, 120)}

Build = Callable[[nn.Module, float], torch.optim.Optimizer]


def plain(kind: Any, **options: Any) -> Build:
    """An optimizer of all parameters in one group."""
    return lambda net, lr: kind(net.parameters(), lr, **options)


# the stored runs measured queries, keys and values as one matrix
JOINED = ("*.qkv.weight", {"norm": norms.RMSToRMS(), "role": "linear"})


def roles(kind: Any, **options: Any) -> Build:
    """An optimizer with the norm of each parameter's role."""
    return lambda net, lr: kind(metrize(net, [JOINED]), lr, **options)


def matrices(kind: Any, **options: Any) -> Build:
    """An optimizer of the matrices; gains and biases stay where they are."""
    return lambda net, lr: kind(
        [p for p in net.parameters() if p.ndim == 2], lr, **options
    )


TERMS = SIZE * CONTEXT
MUON: dict[str, Any] = {"adjust_lr_fn": "match_rms_adamw"}
RULES: dict[str, tuple[Build, tuple[float, ...]]] = {
    "gradient descent": (plain(torch.optim.SGD), (0.1, 0.3, 1.0)),
    "sign descent": (
        plain(optim.SteepestDescent, norm=norms.LInf()),
        (1e-3, 3e-3, 9e-3),
    ),
    "spectral descent": (roles(optim.SteepestDescent), (0.01, 0.03, 0.09)),
    "SteepestDescent": (roles(optim.SteepestDescent, momentum=0.9), (0.03,)),
    "FreeSteepestDescent": (roles(optim.FreeSteepestDescent, momentum=0.9), (0.5,)),
    "SGD": (plain(optim.SGD, momentum=0.9), (0.1,)),
    "Signum": (plain(optim.Signum), (3e-3,)),
    "Lion": (plain(optim.Lion), (1.5e-3,)),
    "Adam": (plain(optim.Adam), (1e-2,)),
    "AdamW": (plain(optim.AdamW), (1e-2,)),
    "Shampoo": (plain(optim.Shampoo), (0.3,)),
    "SOAP": (plain(optim.SOAP), (3e-2,)),
    "KrADagrad": (plain(optim.KrADagrad), (0.1,)),
    "Muon": (plain(optim.Muon, adamw_lr=2e-2, **MUON), (2e-2,)),
    "Scion": (roles(optim.Scion, momentum=0.9, unconstrained=True), (0.1,)),
    "Prodigy": (plain(optim.Prodigy), (0.5,)),
    "RootFreeRMSProp": (plain(optim.RootFreeRMSProp, batch_size=TERMS), (0.1,)),
    "RootFreeAdamW": (plain(optim.RootFreeAdamW, batch_size=TERMS), (1.0,)),
    "SIRFShampoo": (plain(optim.SIRFShampoo, batch_size=TERMS), (0.1,)),
    "torch SGD": (plain(torch.optim.SGD, momentum=0.9), (0.1,)),
    "torch AdamW": (plain(torch.optim.AdamW), (1e-2,)),
    "torch Muon": (matrices(torch.optim.Muon, **MUON), (2e-2,)),
}
WITH_A_METRIC = {
    "gradient descent",
    "SGD",
    "Adam",
    "AdamW",
    "RootFreeRMSProp",
    "RootFreeAdamW",
    "torch SGD",
    "torch AdamW",
}


def number(value: float) -> float | None:
    """Four digits, and None for what JSON has no word for."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def share(records: list[dict[str, Any]], phase: str, layer: str = "") -> float | None:
    """Bend over gain, both summed over a phase: 2 gives the whole gain back."""
    first, last = PHASES[phase]
    rows = [r["layers"][layer] if layer else r for r in during(records, first, last)]
    gain, bend = (sum(row[key] for row in rows) for key in ("gain", "bend"))
    return number(bend / gain) if gain > 0 else None


def during(records: list[dict[str, Any]], first: int, last: int) -> list[Any]:
    return [r for r in records if "gain" in r and first <= r["step"] <= last]


def network(seed: int) -> nn.Module:
    return lab.transformer(width=48, depth=2, context=CONTEXT, seed=seed)


def symmetries(data: lab.Text) -> list[Any]:
    """The sums of the network that the loss cannot see, the same for all weights."""
    x, y = next(data.batches(4, CONTEXT, seed=0))
    found = find_symmetries(network(0), lambda f: lab.cross_entropy(f(x), y))
    return [symmetry for symmetry in found if symmetry.kind == "translation"]


def distances(net: nn.Module, start: nn.Module) -> dict[str, float | None]:
    """How far each parameter has come, in all directions."""
    pairs = zip(net.named_parameters(), start.parameters(), strict=True)
    return {name: number((p - q).norm().item()) for (name, p), q in pairs}


def run(
    data: lab.Text, laws: list[Any], name: str, lr: float, seed: int
) -> dict[str, Any]:
    """Train once under the probe, and keep what is to be shown."""
    net = network(seed)
    optimizer = RULES[name][0](net, lr)
    x, y = next(data.batches(SIZE, CONTEXT, seed=1000 + seed))

    def loss(f: Any) -> torch.Tensor:
        return lab.cross_entropy(f(x), y)

    parts = ["steps", "turn", "penalty", "symmetry"]
    parts += ["sharpness"] if name in WITH_A_METRIC else []
    with Probe(
        net, optimizer, loss, symmetries=laws, every=EVERY, parts=parts
    ) as probe:
        result = lab.fit(
            net,
            optimizer,
            data.batches(SIZE, CONTEXT, seed),
            STEPS,
            schedule="linear",
            evaluate=lambda: lab.mean_loss(net, *data.test_batch(128, CONTEXT)),
        )
    records = probe.records
    series = during(records, 1, STEPS)
    unseen = result.metric if result.metric is not None else math.nan
    return {
        "unseen": number(unseen),
        "train": [number(v) for v in result.losses],
        "steps": [r["step"] for r in series],
        **{key: [number(r[key]) for r in series] for key in WHOLE},
        "overshoot": {phase: share(records, phase) for phase in PHASES},
        "layers": {
            name: share(records, "middle", name) for name in series[0]["layers"]
        },
        "sharpness": [
            [r["step"], number(r["product"]), number(r["limit"]), number(r["stable"])]
            for r in records
            if "product" in r
        ],
        "sums": {
            text.split(":")[0]: [number(row[k]) for k in ("predicted", "measured")]
            for text, row in records[-1].get("symmetries", {}).items()
        },
        "drift": {
            text.split(":")[0]: number(row["drift"])
            for text, row in records[-1].get("symmetries", {}).items()
        },
        "distance": distances(net, network(seed)),
        "overhead": number(probe.overhead),
    }


def blind(content: dict[str, Any], layer: str) -> dict[str, list[float]]:
    """The share of its way that a layer went where the loss is constant.

    By optimizer, and by rate where there are several; sorted over the seeds.
    """
    shares: dict[str, list[float]] = {}
    for row in content["runs"]:
        way = row["distance"][layer]
        shares.setdefault(title(row), []).append(row["drift"][layer] / way)
    return {name: sorted(values) for name, values in shares.items()}


def kept(content: dict[str, Any], phase: str) -> dict[str, list[float]]:
    """The share of the promised fall of the loss that came, likewise."""
    first, last = PHASES[phase]
    shares: dict[str, list[float]] = {}
    for row in content["runs"]:
        chosen = [i for i, k in enumerate(row["steps"]) if first <= k <= last]
        fall, gain = (sum(row[key][i] for i in chosen) for key in ("fall", "gain"))
        shares.setdefault(title(row), []).append(fall / gain)
    return {name: sorted(values) for name, values in shares.items()}


def title(row: dict[str, Any]) -> str:
    several = len(RULES[row["rule"]][1]) > 1
    return f"{row['rule']}, {row['lr']:g}" if several else row["rule"]


def provenance() -> dict[str, object]:
    return {
        "command": "python experiments/probe_transformer.py",
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, one thread used",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seeds": list(SEEDS),
        "phases": PHASES,
    }


def save(content: dict[str, Any]) -> None:
    """One run a line, so that a change of one is a change of one line."""
    rows = ",\n  ".join(json.dumps(row) for row in content["runs"])
    head = json.dumps(content["provenance"])
    draft = RESULTS.with_suffix(".part")
    draft.write_text(f'{{\n "provenance": {head},\n "runs": [\n  {rows}\n ]\n}}\n')
    draft.replace(RESULTS)


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "at step", RuntimeWarning)
    content: dict[str, Any] = {"provenance": provenance(), "runs": []}
    if RESULTS.exists():
        content = json.loads(RESULTS.read_text())
    done = {(r["rule"], r["lr"], r["seed"]) for r in content["runs"]}
    data = lab.text("cpu")
    laws = symmetries(data)
    tries = [(n, lr, s) for s in SEEDS for n, (_, lrs) in RULES.items() for lr in lrs]
    for name, lr, seed in tries:
        if (name, lr, seed) in done:
            continue
        start = time.process_time()
        row = {"rule": name, "lr": lr, "seed": seed, **run(data, laws, name, lr, seed)}
        row["cpu_seconds"] = round(time.process_time() - start, 1)
        content["runs"].append(row)
        save(content)
        print(
            name,
            lr,
            seed,
            row["unseen"],
            row["overshoot"],
            row["cpu_seconds"],
            flush=True,
        )


if __name__ == "__main__":
    main()
