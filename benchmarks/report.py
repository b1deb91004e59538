"""The table on the screen, and the results as JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from anthology.cost import Rates

from .goals import verdicts
from .measure import Plan, Row
from .sets import SETS

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "triton",
    "pytorch_optimizer",
    "prodigyopt",
    "sirfshampoo",
    "lion-pytorch",
    "optimuon",
    "torch-optimi",
)
HEAD = (
    f"{'contestant':34} {'ms':>9} {'/peer':>6} {'limit':>8} {'reached':>7} "
    f"{'state':>6} {'peak':>8} {'clean':>6} {'eff':>6}"
)


def line(row: Row) -> str:
    """One row of the table.

    Parameters
    ----------
    row : Row
        Milliseconds a step, time over the best peer's, the limit in milliseconds, the
        share of it reached, state in bytes a number, peak of temporaries in MB, clean
        samples of all, the efficiency of polar factors; ~ marks medians that noisy
        samples enter.
    """
    if row.summary is None:
        return f"  {row.name:32} {row.absent}"
    s, mark = row.summary, "~" if row.summary.noisy else " "
    ratio = f"{row.ratio:6.2f}" if row.ratio else " " * 6
    bound = f"{1e3 * row.limit.seconds:8.2f}" if row.limit else " " * 8
    share = f"{row.reached:7.0%}" if row.reached else " " * 7
    eff = f" {row.efficiency:6.4f}" if row.efficiency else ""
    state, peak = row.state_bytes / max(row.numbers, 1), row.peak_bytes / 1e6
    return (
        f"{'*' if row.ours else ' '} {row.name:32} {1e3 * s.seconds:8.2f}{mark} {ratio} "
        f"{bound} {share} {state:6.1f} {peak:8.2f} {s.clean:>3}/{s.samples}{eff}"
    )


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the results belong to: kind, date and versions, nothing that names it."""
    on_gpu = torch.device(device).type == "cuda"
    kind = torch.cuda.get_device_name(device) if on_gpu else f"cpu-{threads}-threads"
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "kind": kind.replace(" ", "-"),
        "processor": kind if on_gpu else _processor(),
        "threads": threads,
        "cores": os.cpu_count(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions,
    }


def _processor() -> str:
    """The model of the processor, as Linux names it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [x.split(":")[1].strip() for x in text.splitlines() if "model name" in x]
    return names[0] if names else platform.machine()


def save(
    rows: list[Row],
    plan: Plan,
    rates: Rates,
    about: dict[str, Any],
    folder: Path = RESULTS,
) -> Path:
    """Write the results.

    Parameters
    ----------
    rows, plan, rates, about
        What was measured, how, the rates the limits are from, and on what.
    folder : Path
        Where; the name is that of the machine's kind and the date.

    Returns
    -------
    Path
        The file.
    """
    plain = rounded([row.plain() for row in rows])
    sets = {row.set for row in rows}
    taken = [row.summary for row in rows if row.summary]
    content = {
        "machine": about,
        "clock": plan.by,
        "samples": {
            "all": sum(s.samples for s in taken),
            "clean": sum(s.clean for s in taken),
            "noisy rows": sum(s.noisy for s in taken),
        },
        "rates": {
            "bandwidth": [list(pair) for pair in rates.ladder],
            "matmul": dict(rates.matmul),
        },
        "sets": {s.name: s.title for s in SETS.values() if s.name in sets},
        "goals": [found.plain() for found in verdicts(plain, plan.device != "cpu")],
        "results": plain,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{about['kind']}-{about['date']}.json"
    text = json.dumps(rounded(content), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def load(path: Path | None = None) -> dict[str, Any]:
    """Results that were saved.

    Parameters
    ----------
    path : Path, optional
        Default None: those of the latest date; of one date, the last written.

    Returns
    -------
    dict
        As in the file.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    if path is None:
        found = [p for p in RESULTS.glob("*.json") if "-threads-" in p.name]
        if not found:
            raise FileNotFoundError(f"no results in {RESULTS}; python -m benchmarks")
        path = max(found, key=lambda p: (p.stem[-10:], p.stat().st_mtime))
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def rounded(value: Any) -> Any:
    """Numbers with four digits, as they are stored: the others are noise.

    Parameters
    ----------
    value : object
        A number, or numbers in dicts, lists and tuples.

    Returns
    -------
    object
        The same with numbers of four digits; tuples become lists.
    """
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(x) for x in value]
    return value
