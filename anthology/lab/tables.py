"""Tables for notebooks: what a step costs at least, and as the benchmark measured it.

>>> from anthology import lab, optim
>>> lab.least_costs({"Lion": optim.Lion}, (100, 400))
The least that a step moves, keeps and multiplies, for a matrix of 100 × 400
optimizer | bytes moved a weight | bytes kept a weight | operations a weight
Lion      | 20                   | 4                   | 0
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch

from anthology.cost import Rates, limit

from .palette import INK, style
from .runtime import optional

Plain = Mapping[str, Any]
Pair = tuple[Plain | None, Plain | None]  # of ours and of the peers
_NONE = "–"


@dataclass(frozen=True)
class Table:
    """A table that a notebook shows as such and a terminal as text.

    ``head`` names the columns, and each of the ``rows`` has as many entries.

    >>> Table("Two numbers", ("x", "y"), (("1", "20"),))
    Two numbers
    x | y
    1 | 20
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        lines = (self.head, *self.rows)
        wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = (" | ".join(map(str.ljust, line, wide)).rstrip() for line in lines)
        return "\n".join([self.caption, *text])

    def _repr_html_(self) -> str:
        # a class that themes of notebooks know, in light and in dark; text in spans,
        # since the book hides heads without elements
        caption, *heads = map(escape, (self.caption, *self.head))
        head = "".join(f'<th scope="col"><span>{x}</span></th>' for x in heads)
        body = ""
        for row in self.rows:
            first, *rest = map(escape, row)
            found = "".join(f"<td>{x}</td>" for x in rest)
            body += f'<tr><th scope="row">{first}</th>{found}</tr>'
        return (
            '<div class="measured" tabindex="0" style="overflow-x:auto">'
            f'<table class="dataframe"><caption>{caption}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )


def least_costs(
    rules: Mapping[str, Callable[[Any], torch.optim.Optimizer]], shape: tuple[int, int]
) -> Table:
    """What a step on one matrix moves, keeps and multiplies at least, in float32.

    ``rules`` are what makes an optimizer from a list of parameters, by name. Counted by
    `anthology.cost.limit`; nothing of the matrix's ``shape`` is allocated.
    """
    p = torch.empty(shape, device="meta").requires_grad_()
    anything = Rates(((1, 1.0),), {"float32": 1.0})
    lines = []
    for name, make in rules.items():
        found = limit(make, [p], rates=anything)
        each = (found.bytes, found.state_bytes, found.flops)
        lines.append((name, *(f"{round(x / p.numel(), 1):g}" for x in each)))
    head = ("bytes moved a weight", "bytes kept a weight", "operations a weight")
    what = "The least that a step moves, keeps and multiplies, for a matrix of"
    caption = f"{what} {shape[0]} × {shape[1]}"
    return Table(caption, ("optimizer", *head), tuple(lines))


@dataclass(frozen=True)
class Measured:
    """The results of one run of the benchmark.

    Of its ``machine`` processor, threads, date and versions; the ``rates`` of the
    device, from which the limits are; ``sets`` of parameters and what they stand for;
    how many ``samples`` there were, and how many clean; and the ``rows`` with a time.
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

    def best(self, family: str, name: str) -> Pair:
        """The fastest row of ours and of the peers, each None where there is none.

        ``family`` is an update rule and ``name`` a set of parameters. Where polar
        factors are approximated, ours is the fastest as efficient as that peer, if any.
        """
        here = [r for r in self.rows if (r["family"], r["set"]) == (family, name)]
        peer = min((r for r in here if not r["ours"]), key=_seconds, default=None)
        mine = [r for r in here if r["ours"]]
        good = [r for r in mine if peer is not None and not _worse(r, peer)]
        return min(good or mine, key=_seconds, default=None), peer

    def where(self) -> Table:
        """On what it was measured, with what, and how quiet it was there."""
        taken, top = self.samples, self.rates.ladder[-1][1]
        lines = {"device": self.title}
        lines["bandwidth, largest set"] = f"{top / 1e9:.3g} GB/s"
        for dtype, rate in self.rates.matmul.items():
            lines[f"products, {dtype}"] = f"{rate / 1e9:.3g} GFLOP/s"
        lines["samples"] = f"{taken['all']}, of which undisturbed {taken['clean']}"
        lines |= self.machine["versions"]
        return Table("Where, and with what", ("what", "value"), tuple(lines.items()))

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

        The temporaries are the most allocated in a step, over the largest tensor.
        """
        lines = []
        for row in (row for f in self.families for row in self.best(f, name) if row):
            kept, most = row["state_bytes"] / row["numbers"], 4 * row["largest"]
            peak = f"{row['peak_bytes'] / most:.2f}" if most else _NONE
            time = f"{1e3 * _seconds(row):.2f}"
            lines.append((row["name"], time, f"{kept:.1f}", peak))
        head = ("optimizer and path", "ms a step", "bytes kept a weight", "temporaries")
        return Table(f"{self.sets.get(name, name)}: {self.title}", head, tuple(lines))

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

    def _by_set(self, caption: str, cell: Callable[..., str]) -> Table:
        sets, families = self.sets, self.families
        found = [(f, *(cell(*self.best(f, s)) for s in sets)) for f in families]
        lines = tuple(line for line in found if set(line[1:]) != {_NONE})
        return Table(f"{caption}: {self.title}", ("update rule", *self.sets), lines)


def _seconds(row: Plain) -> float:
    return float(row["summary"]["seconds"])


def _worse(ours: Plain, peer: Plain) -> bool:
    """Whether ours approximates polar factors less well."""
    pair = ours.get("efficiency"), peer.get("efficiency")
    return pair[0] is not None and pair[1] is not None and pair[0] < pair[1] - 1e-3


def measured(folder: str | Path) -> list[Measured]:
    """Read what the benchmark saved, in ``benchmarks/results`` of the repository.

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
    at most, such as ``"gpt"``; where the run has none of them, its first two.
    """
    plt = optional("matplotlib.pyplot", "matplotlib")
    chosen = [s for s in sets or run.sets if s in run.sets][:2] or list(run.sets)[:2]
    shown = [f for f in run.families if any(run.best(f, s)[0] for s in chosen)]
    size = (5.0 * len(chosen), 1.6 + 0.28 * len(shown))
    fig, axes = plt.subplots(1, len(chosen), figsize=size, squeeze=False)
    for ax, name in zip(axes[0], chosen, strict=True):
        # by line, of ours and of the peers
        shares: tuple[dict[int, float], dict[int, float]] = {}, {}
        for i, family in enumerate(shown):
            ours, peer = run.best(family, name)
            if ours and ours["limit"]:
                for row, found in zip((ours, peer), shares, strict=True):
                    if row:
                        found[i] = 100 * ours["limit"]["seconds"] / _seconds(row)
        look = {"color": INK, "alpha": 0.35, "label": "ours"}
        ax.barh([*shares[0]], [*shares[0].values()], height=0.6, **look)
        diamonds = {"marker": "D", "s": 30, "edgecolor": "white", "linewidth": 0.8}
        peers = {"color": INK, "zorder": 3, "label": "best peer", **diamonds}
        ax.scatter([*shares[1].values()], [*shares[1]], **peers)
        ax.axvline(100, **style(5, linewidth=1.2, label="limit"))
        ax.set(title=name, xlabel="% of the limit's speed", xlim=(0, 118))
        ax.grid(visible=False, axis="y")
        # each panel stands alone: a phone shows one under the other
        ax.set_yticks(range(len(shown)), shown)
        ax.set_ylim(len(shown) - 0.5, -0.5)
        below = {"loc": "upper center", "bbox_to_anchor": (0.4, 0.0), "ncols": 3}
        ax.legend(**below, borderaxespad=4.0, handletextpad=0.4, columnspacing=1.0)
    return fig
