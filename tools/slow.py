"""Write `tests/slow.txt` from the reports of the last run.

Run ``python tools/layers.py unit identities`` on a quiet machine, then this. Slow is a
test one of whose cases takes over half a second, or all of them over one.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.layers import PARTS, REPORTS, ROOT

LIST = ROOT / "tests" / "slow.txt"
ONE, ALL = 0.5, 1.0


def slow(seconds: dict[str, list[float]]) -> list[str]:
    """The names of slow tests, sorted.

    Parameters
    ----------
    seconds : dict
        For each test, what its cases took.

    Returns
    -------
    list of str
        Such as ``tests/unit/test_polar.py::test_it``.
    """
    return sorted(
        name for name, took in seconds.items() if max(took) > ONE or sum(took) > ALL
    )


def measured(report: Path) -> dict[str, list[float]]:
    """What each case of each test took, from a report in JUnit's form."""
    found: dict[str, list[float]] = defaultdict(list)
    for case in ET.parse(report).getroot().iter("testcase"):
        path = case.attrib["classname"].replace(".", "/")
        name = case.attrib["name"].partition("[")[0]
        found[f"{path}.py::{name}"].append(float(case.attrib["time"]))
    return found


def main() -> int:
    seconds: dict[str, list[float]] = {}
    for folder in PARTS["quick"].tests:
        seconds |= measured(REPORTS / f"{Path(folder).name}.xml")
    names = slow(seconds)
    LIST.write_text("\n".join(names) + "\n", encoding="utf-8")
    print(f"{len(names)} of {len(seconds)} tests are slow: {LIST.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
