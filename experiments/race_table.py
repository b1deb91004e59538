"""What the race says: a row for each contestant, and what came of each prediction."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from race_contestants import names
from race_declaration import (
    DECLARATION,
    PREDICTIONS,
    SEARCH_SEED,
    SEEDS,
    SHORT,
    SIGMA,
    TARGET,
    Prediction,
)
from race_runs import RESULTS, Result, Runs, digits, final_rate, finished, searched
from race_statistics import average, beats, deviation, lead, ranks, steps_to, ties

Row = dict[str, Any]
Table = dict[str, dict[str, Row]]  # problem, contestant


def row(runs: Runs, where: str, name: str) -> Row | None:
    """What is told of a contestant; None before its search is finished."""
    if not finished(runs, where, name):
        return None
    tried = searched(runs, where, name)
    rate = final_rate(runs, where, name)
    finals = [runs.get((where, name, rate, seed)) for seed in SEEDS]
    losses = [found["loss"] if found else None for found in finals]
    search = [runs.get((where, name, lr, SEARCH_SEED)) for lr in tried]
    curve = middle_curve([found["curve"] for found in finals if found])
    return {
        "rate": rate,
        "edge": rate in (tried[0], tried[-1]),
        "runs": sum(found is not None for found in finals),
        "losses": losses,
        "mean": digits(average(losses)),
        "sd": digits(deviation(losses), 3),
        "steps": digits(steps_to(curve, TARGET[where]), 4),
        "ms": digits(median(f.get("ms", math.inf) for f in search if f), 3),
        "state": next((f["state"] for f in search if f and "state" in f), None),
        "curve": curve,
    }


def middle_curve(curves: list[list[list[Any]]]) -> list[tuple[int, float | None]]:
    """Step and median loss over the seeds; a loss that is None counts as infinite."""
    if not curves:
        return []
    steps = [at for at, _ in max(curves, key=len)]
    known = [dict(map(tuple, curve)) for curve in curves]

    def loss(curve: dict[int, float | None], at: int) -> float:
        found = curve.get(at)
        return math.inf if found is None else found

    return [(at, digits(median(loss(c, at) for c in known), 4)) for at in steps]


def table(runs: Runs) -> Table:
    """All rows that are there, with ranks and times relative to torch's SGD."""
    told: Table = {}
    for where in SHORT:
        found = {name: row(runs, where, name) for name in names()}
        rows = {name: r for name, r in found.items() if r is not None}
        place = ranks({n: r["losses"] for n, r in rows.items()}, SIGMA[where])
        base = rows["torch.SGD"]["ms"] if "torch.SGD" in rows else None
        for name, r in rows.items():
            r["rank"] = place[name]
            r["time"] = base and digits(r["ms"] / base, 3)
        told[where] = rows
    return told


# ---- tests of predictions: (holds, what was measured); None where a row is missing


def compared(rule: Any, t: Table, where: str, a: str, b: str) -> tuple[bool, str]:
    """A rule of race_statistics on the losses of two contestants."""
    first, second = (t[where][name]["losses"] for name in (a, b))
    means = f"{a} {t[where][a]['mean']}, {b} {t[where][b]['mean']}"
    said = f"{means}, lead {lead(first, second, SIGMA[where]):.1f} of 3.09"
    return rule(first, second, SIGMA[where]), said


def keeps_up(a: Any, b: Any, sigma: float) -> bool:
    """Whether b does not beat a, and a has lost no run."""
    return math.isfinite(average(a)) and not beats(b, a, sigma)


def sooner(t: Table, where: str, a: str, b: str, share: float) -> tuple[bool, str]:
    """Whether a is at the target in at most that share of b's steps."""
    first, second = (t[where][name]["steps"] for name in (a, b))
    said = f"{a} {first} steps, {b} {second}"
    if first is None:
        return False, said
    return second is None or first <= share * second, said


def rate(
    t: Table, where: str, a: str, b: str, low: float, high: float
) -> tuple[bool, str]:
    """Whether the ratio of the best rates of a and b is within bounds."""
    ratio = t[where][a]["rate"] / t[where][b]["rate"]
    return low <= ratio <= high, f"ratio {ratio:.3g}"


def factor(t: Table, where: str, a: str, most: float) -> tuple[bool, str]:
    """Whether the best rate is within a factor of 1."""
    best = t[where][a]["rate"]
    return 1 / most <= best <= most, f"{best:g}"


def costs(t: Table, where: str, a: str, low: float, high: float) -> tuple[bool, str]:
    """Whether the time of a step, in those of torch's SGD, is within bounds."""
    time = t[where][a]["time"]
    return low <= time <= high, f"{time:.3g}"


def cheaper(t: Table, where: str, a: str, b: str) -> tuple[bool, str]:
    """Whether a step of a takes less time than one of b."""
    first, second = (t[where][name]["time"] for name in (a, b))
    return first < second, f"{a} {first:.3g}, {b} {second:.3g}"


def keeps(t: Table, where: str, a: str, low: float, high: float) -> tuple[bool, str]:
    """Whether the bytes kept for each weight are within bounds."""
    state = t[where][a]["state"]
    return low <= state <= high, f"{state:g}"


TESTS = {
    "beats": partial(compared, beats),
    "ties": partial(compared, ties),
    "keeps_up": partial(compared, keeps_up),
    "sooner": sooner,
    "rate": rate,
    "factor": factor,
    "costs": costs,
    "cheaper": cheaper,
    "keeps": keeps,
}


def outcome(t: Table, told: Prediction) -> Result:
    """What came of a prediction: it "holds", is "contradicted", or still "open"."""
    where, *given = told.given
    rows = t.get(str(where), {})
    shown = {"says": told.says, "source": told.source}
    racing = [x for x in given if isinstance(x, str)]
    if any(x not in rows or rows[x]["runs"] < len(SEEDS) for x in racing):
        return shown | {"outcome": "open"}
    holds, measured = TESTS[told.test](t, *told.given)
    said = "holds" if holds else "contradicted"
    return shown | {"outcome": said, "measured": measured}


def came_of(*sources: str, path: Path = RESULTS / "race.json") -> str:
    """A line for each prediction from these sources, with what came of it where."""
    came: dict[str, dict[str, list[str]]] = {}
    for told in json.loads(path.read_text())["predictions"]:
        if told["source"] in sources:
            where, says = told["says"].split(": ", 1)
            came.setdefault(says, {}).setdefault(told["outcome"], []).append(where)
    return "\n".join(
        f"{says}: {'; '.join(f'{out} on ' + ', '.join(x) for out, x in found.items())}"
        for says, found in came.items()
    )


def tell(runs: Runs, provenance: Result) -> None:
    """Print the table and the predictions, and write results/race.json."""
    found = table(runs)
    outcomes = [outcome(found, told) for told in PREDICTIONS]
    for where, rows in found.items():
        print(f"\n{where}: target {TARGET[where]}, sigma {SIGMA[where]}")
        print(f"{'':21}{'rank':>5}{'rate':>9}{'loss':>9}{'sd':>8}", end="")
        print(f"{'steps':>7}{'time':>6}{'bytes':>7}")
        for name, r in sorted(rows.items(), key=lambda item: order(item[1])):
            shown = [r["rank"], f"{r['rate']:g}" + "*" * r["edge"]]
            shown += ["lost" if r["mean"] is None else f"{r['mean']:.4f}", r["sd"]]
            shown += [r["steps"] and round(r["steps"]), r["time"], r["state"]]
            cells = ["-" if x is None else str(x) for x in shown]
            widths = (5, 9, 9, 8, 7, 6, 7)
            line = "".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))
            print(f"{name:21}{line}")
    print("\n* the best rate is at the end of those tried")
    for said in ("contradicted", "holds", "open"):
        these = [o for o in outcomes if o["outcome"] == said]
        print(f"\n{said}: {len(these)} of {len(outcomes)}")
        for o in these if said != "open" else ():
            print(f"  {o['says']} ({o['source']}): {o['measured']}")
    content = {
        "provenance": provenance,
        "declaration": DECLARATION,
        "predictions": outcomes,
        "table": found,
    }
    draft = RESULTS / "race.part"
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(RESULTS / "race.json")


def order(r: Row) -> tuple[int, float]:
    """By rank, then by mean."""
    return r["rank"], math.inf if r["mean"] is None else r["mean"]
