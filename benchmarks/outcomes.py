"""Commands run within a limit of time, what came of them, and its report."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .report import RESULTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "numpy", "nbval", "pytorch_optimizer", "prodigyopt")


@dataclass
class Outcome:
    """What came of a part."""

    name: str
    about: str
    verdict: str = "passed"
    seconds: float = 0.0
    text: str = ""

    @property
    def goals(self) -> list[str]:
        """The lines in which a goal is said to be reached or missed."""
        return goals_in(self.text.splitlines())

    @property
    def is_good(self) -> bool:
        """Whether it ran, passed and reached its goals."""
        missed = any("MISSED" in line for line in self.goals)
        return self.verdict == "passed" and not missed

    @property
    def line(self) -> str:
        """One line of the summary."""
        reached = sum("MISSED" not in line for line in self.goals)
        goals = f", {reached} of {len(self.goals)} goals" if self.goals else ""
        return f"{self.name:12} {self.verdict}{goals} ({self.seconds:.0f} s)"


def goals_in(lines: Iterable[str]) -> list[str]:
    """Those lines of a benchmark that judge a goal.

    Parameters
    ----------
    lines : iterable of str
        Its output.

    Returns
    -------
    list of str
        As they are.
    """
    judged = ("reached ", "MISSED "), (" met", " MISSED")
    return [x for x in lines if x.startswith(judged[0]) or x.endswith(judged[1])]


def machine(rehearse: bool) -> str:
    """Device, versions and date, for the head of every report."""
    if rehearse:
        device = "a rehearsal on the CPU: figures mean nothing"
    else:
        about = torch.cuda.get_device_properties(0)
        device = (
            f"{about.name}, compute capability {about.major}.{about.minor}, "
            f"{about.multi_processor_count} multiprocessors, "
            f"{about.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        )
    versions = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"no {name}")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"device: {device}\nversions: {', '.join(versions)}\ndate: {today}\n"


def surroundings(rehearse: bool) -> dict[str, str]:
    """The environment of the commands: this tree, and on a CPU the interpreter."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    found = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
    }
    if rehearse:
        found |= {"TRITON_INTERPRET": "1", "ANTHOLOGY_DEVICE": "cpu"}
        return {"OMP_NUM_THREADS": "1"} | found
    return found


def execute(
    words: Sequence[str], limit: float, rehearse: bool
) -> tuple[int | None, str]:
    """Run ``python -m words``; its status, None if it was stopped, and its output.

    What it prints is shown as it comes. Stopped at the limit, with all it started,
    it leaves what it has printed.
    """
    with tempfile.TemporaryFile() as printed:
        running = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env=surroundings(rehearse),
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        end, code, shown = time.monotonic() + limit, None, 0
        while code is None and time.monotonic() < end:
            time.sleep(0.2)
            code = running.poll()
            shown += _show(printed, shown)
        if code is None:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        _show(printed, shown)
        printed.seek(0)
        return code, printed.read().decode(errors="replace")


def _show(printed: Any, start: int) -> int:
    text = os.pread(printed.fileno(), 2**20, start)
    sys.stdout.write(text.decode(errors="replace"))
    sys.stdout.flush()
    return len(text)


def saved_results() -> dict[Path, dict[str, Any]]:
    """Results of the benchmark that are there, which a new run may write over.

    Returns
    -------
    dict of Path to dict
        Their contents.
    """
    return {
        path: json.loads(path.read_text(encoding="utf-8"))
        for path in RESULTS.glob("*.json")
    }


def keep_others(saved: dict[Path, dict[str, Any]]) -> None:
    """Put the rows of other sets back that a new run has written over.

    Parameters
    ----------
    saved : dict of Path to dict
        From `saved_results`, before the run.
    """
    for path, old in saved.items():
        new = json.loads(path.read_text(encoding="utf-8"))
        measured = {row["set"] for row in new["results"]}
        others = [row for row in old["results"] if row["set"] not in measured]
        if others and new != old:
            new["results"] = others + new["results"]
            for key in ("sets", "samples"):
                new[key] = _joined(old.get(key, {}), new.get(key, {}))
            text = json.dumps(new, indent=1, ensure_ascii=False)
            path.write_text(text + "\n", encoding="utf-8")


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Titles as they are, counts added."""
    return old | {
        key: value + old.get(key, 0) if isinstance(value, int) else value
        for key, value in new.items()
    }


def write(outcome: Outcome, folder: Path, names: Iterable[str], rehearse: bool) -> None:
    """Write the report of a part, and the summary of all that are there.

    Parameters
    ----------
    outcome : Outcome
        What came of it.
    folder : Path
        Made if it is not there.
    names : iterable of str
        All parts, in the order of the summary.
    rehearse : bool
        Said in the head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{outcome.line}\n{outcome.about}\n{machine(rehearse)}\n"
    path = folder / f"{outcome.name}.txt"
    text = outcome.text.replace(f"{ROOT}{os.sep}", "")  # it names this machine
    path.write_text(about + text, encoding="utf-8")
    reports = [folder / f"{name}.txt" for name in names]
    texts = [p.read_text(encoding="utf-8").splitlines() for p in reports if p.exists()]
    heads = [lines[0] for lines in texts]
    goals = [goal for lines in texts for goal in goals_in(lines)]
    summary = "\n".join([machine(rehearse), *heads, "", *goals])
    (folder / "summary.txt").write_text(summary.strip() + "\n", encoding="utf-8")
