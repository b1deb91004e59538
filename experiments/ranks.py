"""Whole matrices on 8 to 1024 processes, on paper: balance, bytes and time of a step.

Muon's matrices in three published transformers are given to processes with the same
function that the optimizers use (``anthology.optim.core.sharding.mesh``), and the numbers
that travel are counted as the optimizers send them. Embeddings, heads and gains are
left out: AdamW moves them, shard by shard, in either case.

Time of a step, for the busiest process: its operations over the rate of matrix
products, and its messages over the rate of the network, each way at the same time.
If they overlap completely the step takes the longer of the two, if not at all their
sum. AdamW on the same parameters reads and writes 28 bytes for each that a process
holds. Latency, the other traffic of sharded training and the memory that products
read count as nothing.

The rates are arguments. Those of products and memory may be read from results of the
benchmark, as measured there on a device; the network's is never measured.

    python experiments/ranks.py
    python experiments/ranks.py --products 4e14 --network 25e9 --no-save
    python experiments/ranks.py --measured benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from anthology.lab.tables import Table
from anthology.optim.core.sharding.mesh import assign, matrix_cost

RESULTS = Path(__file__).parent / "results" / "ranks.json"
RANKS = (8, 16, 32, 64, 128, 256, 512, 1024)

# Width, layers, width of keys and values, width between the two layers of the
# perceptron: from the configurations published with the weights.
MODELS = {
    "Llama 3.2 1B": (2048, 16, 512, 8192),
    "Llama 3 8B": (4096, 32, 1024, 14336),
    "Llama 3 70B": (8192, 80, 1024, 28672),
}

Shape = tuple[int, ...]


def matrices(model: str) -> list[Shape]:
    """The shapes (d_out, d_in) of all matrices between embedding and head."""
    width, layers, keys, inner = MODELS[model]
    attention = [(width, width), (keys, width), (keys, width), (width, width)]
    perceptron = [(inner, width), (inner, width), (width, inner)]
    return (attention + perceptron) * layers


def traffic(
    shapes: list[Shape], owners: list[int], ranks: int
) -> list[tuple[int, int]]:
    """The numbers that each process sends and receives in one step, one pair a process.

    The rows of every parameter are dealt out, ⌈rows/ranks⌉ to each process in turn as
    long as there are any. Shards of parameter and gradient go to the owner, the new
    shards come back; what a process has already does not travel.
    """
    sent, received = [0] * ranks, [0] * ranks
    for shape, owner in zip(shapes, owners, strict=True):
        row = math.prod(shape[1:])
        part = -(-shape[0] // ranks)
        for rank in range(min(ranks, -(-shape[0] // part))):
            if rank != owner:
                numbers = row * min(part, shape[0] - rank * part)
                sent[rank] += 2 * numbers
                received[owner] += 2 * numbers
                sent[owner] += numbers
                received[rank] += numbers
    return list(zip(sent, received, strict=True))


def step(shapes: list[Shape], ranks: int, rates: dict[str, float]) -> dict[str, Any]:
    """One row of the table."""
    costs = [matrix_cost(shape) for shape in shapes]
    owners = assign(costs, ranks)
    loads = [0.0] * ranks
    for cost, owner in zip(costs, owners, strict=True):
        loads[owner] += cost
    mean = sum(costs) / ranks
    messages = traffic(shapes, owners, ranks)
    heaviest = max(max(pair) for pair in messages) * rates["bytes"]
    numbers = sum(rows * columns for rows, columns in shapes)
    compute = max(loads) / rates["products"]
    wire = heaviest / rates["network"]
    adamw = 28.0 * numbers / ranks / rates["memory"]
    return {
        "ranks": ranks,
        "with work": sum(load > 0 for load in loads),
        "balance": max(loads) / mean,
        "best balance": max(mean, *costs) / mean,
        "bytes of busiest": heaviest,
        "bytes of mean": sum(s for s, _ in messages) * rates["bytes"] / ranks,
        "compute seconds": compute,
        "network seconds": wire,
        "step seconds": [max(compute, wire), compute + wire],
        "adamw seconds": adamw,
        "everywhere seconds": sum(costs) / rates["products"],
    }


def table(rates: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
    """All rows by model."""
    return {
        model: [step(matrices(model), ranks, rates) for ranks in RANKS]
        for model in MODELS
    }


def stored_results() -> dict[str, Any]:
    """The table as it is stored, and the rates it was made with."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


HEAD = (
    "ranks",
    "at work",
    "balance (best)",
    "MB",
    "products",
    "network",
    "step",
    "AdamW",
)


def shown(rows: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """One table a model: milliseconds, and megabytes of the busiest rank."""
    return [
        Table(
            f"{model}, {len(matrices(model))} matrices; times in ms",
            HEAD,
            tuple(map(line, lines)),
        )
        for model, lines in rows.items()
    ]


def line(r: dict[str, Any]) -> tuple[str, ...]:
    """One row of a table; a step takes the first of two times if all overlaps."""
    low, high = map(_milliseconds, r["step seconds"])
    return (
        str(r["ranks"]),
        str(r["with work"]),
        f"{r['balance']:.2f} ({r['best balance']:.2f})",
        f"{r['bytes of busiest'] / 1e6:.0f}",
        _milliseconds(r["compute seconds"]),
        _milliseconds(r["network seconds"]),
        f"{low} to {high}",
        f"{1e3 * r['adamw seconds']:.3f}",
    )


def _milliseconds(seconds: float) -> str:
    """Three digits, or those before the point."""
    found = 1e3 * seconds
    return f"{found:.{max(0, 2 - len(str(int(found))) + 1)}f}"


def measured_rates(path: Path) -> dict[str, float]:
    """Rates of products and memory from results of the benchmark."""
    rates = json.loads(path.read_text(encoding="utf-8"))["rates"]
    return {
        "products": rates["matmul"]["bfloat16"],
        "memory": rates["bandwidth"][-1][1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--products", type=float, default=8e14, help="operations a second, bfloat16")
    add("--memory", type=float, default=3e12, help="bytes a second within a device")
    add("--network", type=float, default=5e10, help="bytes a second a device, each way")
    add("--bytes", type=float, default=4, help="bytes of a number that travels")
    add("--measured", type=Path, help="results of the benchmark, for the first two")
    add("--no-save", action="store_true", help="print only")
    arguments = vars(parser.parse_args())
    save, path = not arguments.pop("no_save"), arguments.pop("measured")
    rates = arguments | (measured_rates(path) if path else {})
    rows = table(rates)
    print(*shown(rows), sep="\n\n")
    if save:
        stored = {"rates": rates, "rows": rows}
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
