"""Run every layer of the tests and say what ran.

Style (ruff, mypy) · unit, identities and contract of the package · kernels (Triton's,
and what wants a device) · distributed (several processes) · chapters (every cell of
every notebook, compared with its stored output) · book (the strict build, the
notebooks' rules, and the built site). A layer in which nothing ran counts as failed.
``python tools/layers.py chapters`` runs one; ``quick`` is what a writer runs between:
unit and identities without what `tests/slow.txt` names.

Most tests run in two processes. What keeps one core busy, or waits, runs beside them:
the commands of all layers, and the tests of several processes. What it says comes when
it is done.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "_build" / "reports"
NBVAL = (
    "--nbval",
    "--nbval-current-env",
    f"--nbval-sanitize-with={ROOT / 'tests/book/nbval_sanitize.cfg'}",
    "--nbval-cell-timeout=300",
)
PYTEST = ("pytest", "-q", "--no-header", "-p", "no:cacheprovider")
BUILD = ("tools.build",)
# Two processes with one thread each: results do not depend on the machine.
WORKERS = ("-n", "2")
STEALING = (*WORKERS, "--dist=worksteal")
# A notebook stays with the process that runs its kernel.
BY_FILE = (*WORKERS, "--dist=loadfile")
CHECKED = ("_ext", "anthology", "benchmarks", "examples", "experiments")

Words = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Commands, each of which passes or fails as a whole, and then tests.

    Attributes
    ----------
    tests : tuple of str
        Folders whose tests run; empty if there are none.
    options : tuple of str
        Of pytest; without workers the tests run beside those of other layers.
    commands : tuple of tuple of str
        What follows ``python -m``, before the tests.
    """

    tests: Words = ()
    options: Words = STEALING
    commands: tuple[Words, ...] = ()

    @property
    def beside(self) -> bool:
        """Whether the tests run beside others."""
        return bool(self.tests) and "-n" not in self.options


LAYERS = {
    "style": Layer(
        commands=(
            ("ruff", "check", "."),
            ("ruff", "format", "--check", *CHECKED, "tests", "tools"),
            ("mypy",),
            ("mypy", "examples"),
        )
    ),
    "unit": Layer(("tests/unit",)),
    "identities": Layer(("tests/identities",)),
    "contract": Layer(("tests/contract",)),
    # Triton's interpreter has to be there from the start, so these run apart
    "kernels": Layer(("tests/kernels", "tests/cuda")),
    # which start processes of their own
    "distributed": Layer(("tests/distributed",), ()),
    "chapters": Layer(("chapters",), (*NBVAL, *BY_FILE)),
    "book": Layer(("tests/book",), commands=(BUILD,)),
}
# Parts of layers, for a writer between two changes.
PARTS = {
    "quick": Layer(("tests/unit", "tests/identities"), (*STEALING, "-m", "not slow")),
}


@dataclass
class Count:
    """How many tests of a layer did what."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def environment() -> dict[str, str]:
    """One thread each, and the tree's own package, whatever is installed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return threads | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(*module_and_arguments: str, later: bool = False) -> int:
    """Run a module; what it says is shown as it comes, or later in one piece."""
    command = [sys.executable, "-m", *module_and_arguments]
    said = " ".join(["$ python", *command[1:]])
    if not later:
        print(said, flush=True)
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        check=False,
        text=True,
        stdout=subprocess.PIPE if later else None,
        stderr=subprocess.STDOUT if later else None,
    )
    if later:
        print(f"\n{said}\n{done.stdout}", flush=True)
    return done.returncode


def command_count(*module_and_arguments: str, later: bool = False) -> Count:
    """A command that passes or fails as a whole."""
    failed = run(*module_and_arguments, later=later) != 0
    return Count(passed=not failed, failed=failed)


def read_report(path: Path) -> Count:
    """Counts from a report in JUnit's form."""
    count = Count()
    for suite in ET.parse(path).getroot().iter("testsuite"):
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        count += Count(tests - failed - skipped, failed, skipped)
    return count


def pytest_count(layer: str, *arguments: str, later: bool = False) -> Count:
    """Run pytest; a broken run or one without a test is a failure."""
    report = REPORTS / f"{layer}.xml"
    report.unlink(missing_ok=True)
    code = run(*PYTEST, f"--junit-xml={report}", *arguments, later=later)
    count = read_report(report) if report.exists() else Count()
    if count.passed == 0 or (code != 0 and count.failed == 0):
        count.failed += 1
    return count


@dataclass
class Result:
    """What came of a layer, and the seconds that its parts took."""

    count: Count = field(default_factory=Count)
    seconds: float = 0.0

    def add(self, part: Callable[..., Count], *words: str, **options: Any) -> None:
        start = time.monotonic()
        self.count += part(*words, **options)
        self.seconds += time.monotonic() - start


def run_layers(chosen: list[str]) -> dict[str, Result]:
    """Run layers or parts of them: what takes one core beside what takes two."""
    layers = {name: (LAYERS | PARTS)[name] for name in chosen}
    results = {name: Result() for name in chosen}
    later = len(chosen) > 1
    with ThreadPoolExecutor(max_workers=1) as other:
        begun: dict[str, list[Future[None]]] = {name: [] for name in chosen}

        def begin(name: str, part: Callable[..., Count], *words: str) -> None:
            job = other.submit(results[name].add, part, *words, later=later)
            begun[name].append(job)

        for name, layer in layers.items():
            for words in layer.commands:
                begin(name, command_count, *words)
        for name, layer in layers.items():
            if layer.beside:
                begin(name, pytest_count, name, *layer.tests, *layer.options)
        for name, layer in layers.items():
            if layer.tests and not layer.beside:
                wait(begun[name])
                print(f"\n== {name} ==", flush=True)
                results[name].add(pytest_count, name, *layer.tests, *layer.options)
        for job in chain(*begun.values()):
            job.result()
    return results


def summary(counts: dict[str, Count], seconds: dict[str, float]) -> str:
    lines = [
        f"{name:11} {count} ({seconds[name]:.0f} s)" for name, count in counts.items()
    ]
    if "chapters" in counts:
        lines.append(f"{counts['chapters'].passed} notebook cells executed")
    total = sum(counts.values(), Count())
    return "\n".join([*lines, f"{total.passed} passed, {total.failed} failed"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layers", nargs="*", help=f"of {', '.join(LAYERS | PARTS)}")
    chosen = parser.parse_args(argv).layers or list(LAYERS)
    if unknown := set(chosen) - set(LAYERS | PARTS):
        parser.error(f"no layer {', '.join(sorted(unknown))}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    results = run_layers(chosen)
    counts = {name: result.count for name, result in results.items()}
    text = summary(counts, {name: x.seconds for name, x in results.items()})
    (REPORTS / "summary.txt").write_text(text + "\n")
    print(f"\n== all ==\n{text}")
    return 1 if any(count.failed for count in counts.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
