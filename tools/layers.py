"""Run every layer of the tests and say what ran.

Layers: style (ruff, mypy) · package (unit, identity and contract tests, and those
of several processes) · chapters (every cell of every notebook, compared with its
stored output) · book (the strict build, the notebooks' rules, and the built site).
A layer in which nothing ran counts as failed. ``python tools/layers.py chapters``
runs one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

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


def run(*module_and_arguments: str) -> int:
    command = [sys.executable, "-m", *module_and_arguments]
    print("$ python", *command[1:], flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode


def command_count(*module_and_arguments: str) -> Count:
    """A command that passes or fails as a whole."""
    failed = run(*module_and_arguments) != 0
    return Count(passed=not failed, failed=failed)


def read_report(path: Path) -> Count:
    """Counts from a report in JUnit's form."""
    count = Count()
    for suite in ET.parse(path).getroot().iter("testsuite"):
        tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        count += Count(tests - failed - skipped, failed, skipped)
    return count


def pytest_count(layer: str, *arguments: str) -> Count:
    """Run pytest; a broken run or one without a test is a failure."""
    report = REPORTS / f"{layer}.xml"
    report.unlink(missing_ok=True)
    code = run(*PYTEST, f"--junit-xml={report}", *arguments)
    count = read_report(report) if report.exists() else Count()
    if count.passed == 0 or (code != 0 and count.failed == 0):
        count.failed += 1
    return count


def style() -> Count:
    checked = ("_ext", "anthology", "benchmarks", "examples", "experiments")
    return (
        command_count("ruff", "check", ".")
        + command_count("ruff", "format", "--check", *checked, "tests", "tools")
        + command_count("mypy")
        + command_count("mypy", "examples")
    )


def package() -> Count:
    folders = ("tests/unit", "tests/identities", "tests/contract")
    alone = pytest_count("package", *folders, *WORKERS)
    # the kernels need Triton's interpreter from the start; the last ones start
    # processes of their own
    kernels = pytest_count("kernels", "tests/kernels", "tests/cuda")
    return alone + kernels + pytest_count("distributed", "tests/distributed")


def chapters() -> Count:
    """Each cell is one test: it runs, and prints what is stored."""
    return pytest_count("chapters", "chapters", *NBVAL, *WORKERS, "--dist=loadfile")


def book() -> Count:
    return command_count(*BUILD) + pytest_count("book", "tests/book")


LAYERS = {"style": style, "package": package, "chapters": chapters, "book": book}


def summary(counts: dict[str, Count], seconds: dict[str, float]) -> str:
    lines = [
        f"{name:9} {count} ({seconds[name]:.0f} s)" for name, count in counts.items()
    ]
    if "chapters" in counts:
        lines.append(f"{counts['chapters'].passed} notebook cells executed")
    total = sum(counts.values(), Count())
    return "\n".join([*lines, f"{total.passed} passed, {total.failed} failed"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layers", nargs="*", help=f"of {', '.join(LAYERS)}")
    chosen = parser.parse_args(argv).layers or list(LAYERS)
    if unknown := set(chosen) - set(LAYERS):
        parser.error(f"no layer {', '.join(sorted(unknown))}")
    REPORTS.mkdir(parents=True, exist_ok=True)
    counts, seconds = {}, {}
    for name in chosen:
        print(f"\n== {name} ==", flush=True)
        start = time.monotonic()
        counts[name] = LAYERS[name]()
        seconds[name] = time.monotonic() - start
    text = summary(counts, seconds)
    (REPORTS / "summary.txt").write_text(text + "\n")
    print(f"\n== all ==\n{text}")
    return 1 if any(count.failed for count in counts.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
