"""What steps were measured to cost: the results of the benchmark, read and shown.

>>> from anthology import lab
>>> lab.measured("no/such/folder")  # doctest: +ELLIPSIS
Traceback (most recent call last):
FileNotFoundError: no/such/folder has no results of the benchmark. ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthology.cost import Rates
from anthology.lab.tables import Table

__all__ = ["Measured", "measured"]

Plain = Mapping[str, Any]
_NONE = "–"


@dataclass(frozen=True)
class Measured:
    """The results of one run of the benchmark.

    Attributes
    ----------
    machine : mapping
        Processor, threads, date and versions.
    rates : Rates
        Of the device, from which the limits are.
    sets : mapping of str to str
        Sets of parameters and what they stand for.
    samples : mapping
        How many samples there were, and how many of them clean.
    rows : tuple of mapping
        As the benchmark wrote them, those without a time left out.
    """

    machine: Plain
    rates: Rates
    sets: Mapping[str, str]
    samples: Plain
    rows: tuple[Plain, ...]

    @property
    def title(self) -> str:
        """Processor, threads and date, for captions."""
        about = self.machine
        where = str(about["processor"])
        if self.on_cpu:
            many = about["threads"] > 1
            where += f", {about['threads']} thread" + "s" * many
        return f"{where}, {about['date']}"

    @property
    def on_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return str(self.machine["kind"]).startswith("cpu")

    @property
    def families(self) -> list[str]:
        """Update rules that were compared, in the order of the benchmark."""
        return list(dict.fromkeys(row["family"] for row in self.rows))

    def best(self, family: str, name: str) -> tuple[Plain | None, Plain | None]:
        """The fastest of ours and of the peers.

        Parameters
        ----------
        family, name : str
            An update rule and a set of parameters.

        Returns
        -------
        tuple
            Two rows, each None where there is none. Where polar factors are
            approximated, ours is the fastest that is as efficient as that peer, if
            there is such a one.
        """
        here = [r for r in self.rows if (r["family"], r["set"]) == (family, name)]
        peer = min((r for r in here if not r["ours"]), key=_seconds, default=None)
        mine = [r for r in here if r["ours"]]
        good = [r for r in mine if peer is not None and not _worse(r, peer)]
        return min(good or mine, key=_seconds, default=None), peer

    def where(self) -> Table:
        """On what it was measured, with what, and how quiet it was there."""
        about, taken = self.machine, self.samples
        top = self.rates.ladder[-1][1]
        lines = [
            ("device", self.title),
            ("bandwidth, largest set", f"{top / 1e9:.3g} GB/s"),
            *(
                (f"products, {dtype}", f"{rate / 1e9:.3g} GFLOP/s")
                for dtype, rate in self.rates.matmul.items()
            ),
            ("samples", f"{taken['all']}, of which undisturbed {taken['clean']}"),
            *about["versions"].items(),
        ]
        return Table("Where, and with what", ("what", "value"), tuple(lines))

    def ratios(self) -> Table:
        """Time of our fastest path over that of the fastest peer; * if less good."""

        def cell(family: str, name: str) -> str:
            ours, peer = self.best(family, name)
            if ours is None or peer is None:
                return _NONE
            mark = " *" if _worse(ours, peer) else ""
            return f"{_seconds(ours) / _seconds(peer):.2f}{mark}"

        caption = f"Time of a step over the best peer's: {self.title}"
        return self._by_set(caption, cell)

    def shares(self) -> Table:
        """The share of the limit's speed that our fastest path reaches."""

        def cell(family: str, name: str) -> str:
            ours, _ = self.best(family, name)
            return _NONE if ours is None else f"{100 * ours['reached']:.0f} %"

        return self._by_set(f"Share of the limit's speed: {self.title}", cell)

    def times(self, name: str) -> Table:
        """Milliseconds and memory of our fastest path and of the fastest peer.

        Parameters
        ----------
        name : str
            A set of parameters.

        Returns
        -------
        Table
            Also bytes of state a number, and the most that is allocated in a step
            over the bytes of the largest tensor.
        """
        lines = []
        for family in self.families:
            for row in self.best(family, name):
                if row is None:
                    continue
                state = row["state_bytes"] / row["numbers"]
                largest = 4 * row["largest"]
                lines.append(
                    (
                        row["name"],
                        f"{1e3 * _seconds(row):.2f}",
                        f"{state:.1f}",
                        f"{row['peak_bytes'] / largest:.2f}" if largest else _NONE,
                    )
                )
        caption = f"{self.sets.get(name, name)}: {self.title}"
        head = ("optimizer and path", "ms a step", "bytes kept a weight", "temporaries")
        return Table(caption, head, tuple(lines))

    def sentence(self) -> str:
        """How often ours is the fastest, in words."""
        pairs = [self.best(f, s) for f in self.families for s in self.sets]
        met = [(a, b) for a, b in pairs if a is not None and b is not None]
        won = sum(_seconds(a) <= _seconds(b) for a, b in met)
        worst = max((_seconds(a) / _seconds(b) for a, b in met), default=0.0)
        return (
            f"{self.title}:\nours is at least as fast as every peer in {won} of "
            f"{len(met)} cases;\nits longest time is {worst:.2f} of the best peer's."
        )

    def _by_set(self, caption: str, cell: Callable[[str, str], str]) -> Table:
        names = list(self.sets)
        found = [(f, *(cell(f, name) for name in names)) for f in self.families]
        lines = [line for line in found if set(line[1:]) != {_NONE}]
        return Table(caption, ("update rule", *names), tuple(lines))


def _seconds(row: Plain) -> float:
    return float(row["summary"]["seconds"])


def _worse(ours: Plain, peer: Plain) -> bool:
    """Whether ours approximates polar factors less well."""
    pair = ours.get("efficiency"), peer.get("efficiency")
    return pair[0] is not None and pair[1] is not None and pair[0] < pair[1] - 1e-3


def measured(folder: str | Path) -> list[Measured]:
    """Read what the benchmark saved.

    Parameters
    ----------
    folder : str or Path
        ``benchmarks/results`` of the book's repository.

    Returns
    -------
    list of Measured
        The latest run of each device and number of threads: CPUs first, most threads
        first.

    Raises
    ------
    FileNotFoundError
        If there are no results, as outside the repository.
    """
    latest: dict[tuple[Any, ...], tuple[str, Measured]] = {}
    for path in sorted(Path(folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "samples" not in content:
            continue  # of another kind
        run = _read(content)
        kind = (not run.on_cpu, -int(run.machine["threads"]), run.machine["kind"])
        date = str(run.machine["date"])
        if kind not in latest or date >= latest[kind][0]:
            latest[kind] = (date, run)
    if not latest:
        raise FileNotFoundError(
            f"{folder} has no results of the benchmark. They are files of the book's "
            "repository, which this notebook reads from its own place in it; your own "
            "are made there by: python -m benchmarks --save"
        )
    return [latest[kind][1] for kind in sorted(latest)]


def _read(content: Plain) -> Measured:
    rates = content["rates"]
    ladder = tuple((int(size), float(rate)) for size, rate in rates["bandwidth"])
    rows = tuple(row for row in content["results"] if row["summary"])
    return Measured(
        content["machine"],
        Rates(ladder, rates["matmul"]),
        content.get("sets") or {row["set"]: row["set"] for row in rows},
        content["samples"],
        rows,
    )
