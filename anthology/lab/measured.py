"""What steps were measured to cost: the results of the benchmark, read and shown.

>>> from anthology import lab
>>> lab.measured("no/such/folder")  # doctest: +ELLIPSIS
Traceback (most recent call last):
FileNotFoundError: no/such/folder has no results of the benchmark. ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anthology.cost import Rates
from anthology.lab.palette import INK, style
from anthology.lab.runtime import optional
from anthology.lab.tables import Table

__all__ = ["Measured", "limit_shares", "measured"]

Plain = Mapping[str, Any]
_NONE = "–"


@dataclass(frozen=True)
class Measured:
    """The results of one run of the benchmark.

    Of its ``machine`` processor, threads, date and versions; the ``rates`` of the
    device, from which the limits are; ``sets`` of parameters and what they stand for;
    how many ``samples`` there were, and how many of them clean; and the ``rows`` as the
    benchmark wrote them, those without a time left out.
    """

    machine: Plain
    rates: Rates
    sets: Mapping[str, str]
    samples: Plain
    rows: tuple[Plain, ...]

    @property
    def title(self) -> str:
        """Processor, threads and date, for captions."""
        where, threads = self.machine["processor"], self.machine["threads"]
        if self.on_cpu:
            where = f"{where}, {threads} thread{'s' * (threads > 1)}"
        return f"{where}, {self.machine['date']}"

    @property
    def on_cpu(self) -> bool:
        """Whether the device is a CPU."""
        return str(self.machine["kind"]).startswith("cpu")

    @property
    def families(self) -> list[str]:
        """Update rules that were compared, in the order of the benchmark."""
        return list(dict.fromkeys(row["family"] for row in self.rows))

    def best(self, family: str, name: str) -> tuple[Plain | None, Plain | None]:
        """The fastest row of ours and of the peers, each None where there is none.

        ``family`` is an update rule and ``name`` a set of parameters. Where polar
        factors are approximated, ours is the fastest that is as efficient as that
        peer, if there is such a one.
        """
        here = [r for r in self.rows if (r["family"], r["set"]) == (family, name)]
        peer = min((r for r in here if not r["ours"]), key=_seconds, default=None)
        mine = [r for r in here if r["ours"]]
        good = [r for r in mine if peer is not None and not _worse(r, peer)]
        return min(good or mine, key=_seconds, default=None), peer

    def where(self) -> Table:
        """On what it was measured, with what, and how quiet it was there."""
        taken, top = self.samples, self.rates.ladder[-1][1]
        lines = [
            ("device", self.title),
            ("bandwidth, largest set", f"{top / 1e9:.3g} GB/s"),
            *(
                (f"products, {dtype}", f"{rate / 1e9:.3g} GFLOP/s")
                for dtype, rate in self.rates.matmul.items()
            ),
            ("samples", f"{taken['all']}, of which undisturbed {taken['clean']}"),
            *self.machine["versions"].items(),
        ]
        return Table("Where, and with what", ("what", "value"), tuple(lines))

    def ratios(self) -> Table:
        """Time of our fastest path over that of the fastest peer; * if less good."""

        def cell(ours: Plain | None, peer: Plain | None) -> str:
            if ours is None or peer is None:
                return _NONE
            mark = " *" if _worse(ours, peer) else ""
            return f"{_seconds(ours) / _seconds(peer):.2f}{mark}"

        return self._by_set("Time of a step over the best peer's", cell)

    def shares(self) -> Table:
        """The share of the limit's speed that our fastest path reaches."""

        def cell(ours: Plain | None, peer: Plain | None) -> str:
            return _NONE if ours is None else f"{100 * ours['reached']:.0f} %"

        return self._by_set("Share of the limit's speed", cell)

    def times(self, name: str) -> Table:
        """Time and memory of our fastest path and of the fastest peer, on one set.

        Milliseconds a step, bytes of state a number, and the most that is allocated
        in a step over the bytes of the largest tensor.
        """
        found = [row for f in self.families for row in self.best(f, name)]
        lines = tuple(
            (
                row["name"],
                f"{1e3 * _seconds(row):.2f}",
                f"{row['state_bytes'] / row['numbers']:.1f}",
                f"{row['peak_bytes'] / (4 * row['largest']):.2f}"
                if row["largest"]
                else _NONE,
            )
            for row in found
            if row is not None
        )
        head = ("optimizer and path", "ms a step", "bytes kept a weight", "temporaries")
        return Table(f"{self.sets.get(name, name)}: {self.title}", head, lines)

    def sentence(self) -> str:
        """How often ours is the fastest, in words."""
        pairs = [self.best(f, s) for f in self.families for s in self.sets]
        ratios = [_seconds(a) / _seconds(b) for a, b in pairs if a and b]
        won = sum(ratio <= 1 for ratio in ratios)
        return (
            f"{self.title}:\nours is at least as fast as every peer in {won} of "
            f"{len(ratios)} cases;\nits longest time is {max(ratios, default=0.0):.2f} "
            "of the best peer's."
        )

    def _by_set(
        self, caption: str, cell: Callable[[Plain | None, Plain | None], str]
    ) -> Table:
        found = [
            (f, *(cell(*self.best(f, name)) for name in self.sets))
            for f in self.families
        ]
        lines = tuple(line for line in found if set(line[1:]) != {_NONE})
        return Table(f"{caption}: {self.title}", ("update rule", *self.sets), lines)


def _seconds(row: Plain) -> float:
    return float(row["summary"]["seconds"])


def _worse(ours: Plain, peer: Plain) -> bool:
    """Whether ours approximates polar factors less well."""
    pair = ours.get("efficiency"), peer.get("efficiency")
    return pair[0] is not None and pair[1] is not None and pair[0] < pair[1] - 1e-3


def measured(folder: str | Path) -> list[Measured]:
    """Read what the benchmark saved in ``benchmarks/results`` of the book's repository.

    The latest run of each device and number of threads: CPUs first, most threads
    first. A FileNotFoundError if there is none, as outside the repository.
    """
    latest: dict[tuple[Any, ...], Measured] = {}
    for path in sorted(Path(folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if "samples" not in content:
            continue  # of another kind
        rates, rows = content["rates"], [r for r in content["results"] if r["summary"]]
        ladder = tuple((int(size), float(rate)) for size, rate in rates["bandwidth"])
        run = Measured(
            content["machine"],
            Rates(ladder, rates["matmul"]),
            content.get("sets") or {row["set"]: row["set"] for row in rows},
            content["samples"],
            tuple(rows),
        )
        kind = (not run.on_cpu, -int(run.machine["threads"]), run.machine["kind"])
        known = latest.get(kind)
        if not known or str(run.machine["date"]) >= str(known.machine["date"]):
            latest[kind] = run
    if not latest:
        raise FileNotFoundError(
            f"{folder} has no results of the benchmark. They are files of the book's "
            "repository, which this notebook reads from its own place in it; your own "
            "are made there by: python -m benchmarks --save"
        )
    return [latest[kind] for kind in sorted(latest)]


def limit_shares(run: Measured, sets: Sequence[str] | None = None) -> Any:
    """Figure of how near the fastest steps come to their limits, by update rule.

    One panel a set of parameters: a bar for the fastest path of ours, a diamond for
    the fastest peer, at the share of the speed of the limit of our rule. Two ``sets``
    at most; by default, and where the run has none of them, its first two.

    >>> from anthology import lab
    >>> run = lab.measured("benchmarks/results")[0]  # doctest: +SKIP
    >>> figure = lab.limit_shares(run, ["gpt"])  # doctest: +SKIP
    """
    plt = optional("matplotlib.pyplot", "matplotlib")
    chosen = [s for s in sets or run.sets if s in run.sets][:2] or list(run.sets)[:2]
    shown = [f for f in run.families if any(run.best(f, s)[0] for s in chosen)]
    size = (5.0 * len(chosen), 1.6 + 0.28 * len(shown))
    fig, axes = plt.subplots(1, len(chosen), figsize=size, squeeze=False)
    for ax, name in zip(axes[0], chosen, strict=True):
        places: list[list[int]] = [[], []]
        shares: list[list[float]] = [[], []]  # of ours, and of the peers
        for i, family in enumerate(shown):
            ours, peer = run.best(family, name)
            if ours is not None and ours["limit"] is not None:
                for k, row in enumerate((ours, peer)):
                    if row is not None:
                        places[k].append(i)
                        least = ours["limit"]["seconds"]
                        shares[k].append(100 * least / _seconds(row))
        ax.barh(places[0], shares[0], height=0.6, color=INK, alpha=0.35, label="ours")
        diamonds = {"marker": "D", "s": 30, "edgecolor": "white", "linewidth": 0.8}
        peers = {"color": INK, "zorder": 3, "label": "best peer", **diamonds}
        ax.scatter(shares[1], places[1], **peers)
        ax.axvline(100, **style(5, linewidth=1.2, label="limit"))
        ax.set(title=name, xlabel="% of the limit's speed", xlim=(0, 118))
        ax.grid(visible=False, axis="y")
        # each panel stands alone: a phone shows one under the other
        ax.set_yticks(range(len(shown)), shown)
        ax.set_ylim(len(shown) - 0.5, -0.5)
        below = {"loc": "upper center", "bbox_to_anchor": (0.4, 0.0), "ncols": 3}
        ax.legend(**below, borderaxespad=4.0, handletextpad=0.4, columnspacing=1.0)
    return fig
