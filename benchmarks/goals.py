"""What the optimizers of this package were to reach, and what was measured.

Ratios are times over a rival's in the same run. The goals for a CPU were set for two
threads on a machine where nothing else runs; a run on one thread or beside others is
held against them all the same, and its table says on what it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Plain = Mapping[str, Any]
ONE_PASS = ("compiled", "fused", "triton")
HEAD = (
    f"{'goal':42} {'set':11} {'ours':28} {'rival':30} "
    f"{'measured':>8} {'bound':>6}  verdict"
)
TOO_FAST = 1.05


@dataclass(frozen=True)
class Goal:
    """A time that one of ours was to take, over that of the fastest rival.

    Attributes
    ----------
    title : str
        As printed.
    family : str
        Beginning of its name.
    bound : float
        The largest ratio that reaches it, to two digits.
    begins, ours : str, tuple of str
        Beginning of the names of ours, and endings, one of which they have; empty: any.
    rival : tuple of str
        Beginning and ending of the rivals' names.
    sets : tuple of str
        Parameter sets; empty: all of the run.
    as_good : bool
        Whether ours must be as efficient as the rival.
    cuda : bool
        Whether it is meant for a CUDA device.
    """

    title: str
    family: str
    bound: float
    begins: str = ""
    ours: tuple[str, ...] = ("",)
    rival: tuple[str, str] = ("", "")
    sets: tuple[str, ...] = ()
    as_good: bool = False
    cuda: bool = False


FUSED, FOREACH = ("torch.optim", "fused"), ("torch.optim", "foreach")
GOALS = (
    Goal("SGD as PyTorch's fused", "SGD", 1.0, "SGD", ONE_PASS, FUSED),
    Goal("AdamW as PyTorch's fused", "AdamW", 1.0, "AdamW", ONE_PASS, FUSED),
    Goal(
        "root-free RMSProp as AdamW fused",
        "root-free",
        1.0,
        "RootFreeRMSProp",
        ONE_PASS,
        FUSED,
    ),
    Goal(
        "root-free AdamW as AdamW fused",
        "root-free",
        1.0,
        "RootFreeAdamW",
        ONE_PASS,
        FUSED,
    ),
    Goal("SGD foreach as PyTorch's", "SGD", 1.0, "SGD", ("foreach",), FOREACH),
    Goal("AdamW foreach as PyTorch's", "AdamW", 1.0, "AdamW", ("foreach",), FOREACH),
    Goal("Lion against the best peer", "Lion", 0.6),
    Goal("Prodigy, exact, against the best peer", "Prodigy", 0.5),
    Goal(
        "Muon float32, as efficient",
        "Muon float32",
        0.75,
        sets=("gpt", "resnet18"),
        as_good=True,
    ),
    Goal("Muon bfloat16 against the best peer", "Muon bfloat16", 1.03),
    Goal("Shampoo against the best peer", "Shampoo", 0.75),
    Goal("SIRFShampoo against the authors'", "SIRFShampoo", 0.75),
    Goal(
        "Muon, a whole step, against PyTorch's",
        "Muon bfloat16",
        0.75,
        rival=("torch.optim", ""),
        sets=("gpt2-medium",),
        cuda=True,
    ),
)


@dataclass(frozen=True)
class Verdict:
    """One line of the table: a figure and its bound; None where none was measured."""

    goal: str
    set: str
    ours: str
    rival: str
    figure: float | None
    bound: float
    larger: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the figure, to two digits, keeps the bound; None without one."""
        if self.figure is None:
            return None
        figure = round(self.figure, 2)
        return figure >= self.bound if self.larger else figure <= self.bound

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "met": self.met}

    def __str__(self) -> str:
        figure = " " * 8 if self.figure is None else f"{self.figure:8.2f}"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        sign = "≥" if self.larger else "≤"
        return (
            f"{self.goal:42} {self.set:11} {self.ours:28} {self.rival:30} "
            f"{figure} {sign} {self.bound:4.2f}  {verdict}"
        )


def verdicts(rows: Iterable[Plain], cuda: bool = False) -> list[Verdict]:
    """All goals against the rows of one run.

    Parameters
    ----------
    rows : iterable of mapping
        Rows as `Row.plain` gives them and results keep them.
    cuda : bool
        Whether they are of a CUDA device. Default False.

    Returns
    -------
    list of Verdict
        Goals for which the run has no family are left out.
    """
    measured = [row for row in rows if row["summary"]]
    names = list(dict.fromkeys(row["set"] for row in measured))
    found: list[Verdict] = []
    for goal in GOALS:
        for name in goal.sets or names:
            here = [r for r in measured if r["set"] == name]
            here = [r for r in here if r["family"].startswith(goal.family)]
            if here and goal.cuda <= cuda:
                found.append(_race(goal, name, here))
    if cuda:
        found += _bandwidth(measured)
    return [*found, *_state(measured), *_temporaries(measured), *_sane(measured)]


def _seconds(row: Plain) -> float:
    return float(row["summary"]["seconds"])


def _race(goal: Goal, name: str, rows: list[Plain]) -> Verdict:
    """The fastest of ours that counts, over the fastest rival."""
    begin, end = goal.rival
    rivals = [r for r in rows if not r["ours"] and r["name"].startswith(begin)]
    rivals = [r for r in rivals if r["name"].endswith(end)]
    mine = [r for r in rows if r["ours"] and r["name"].startswith(goal.begins)]
    mine = [r for r in mine if r["name"].endswith(goal.ours)]
    rival = min(rivals, key=_seconds, default=None)
    if goal.as_good and rival is not None:
        mine = [r for r in mine if r["efficiency"] >= rival["efficiency"] - 1e-3]
    best = min(mine, key=_seconds, default=None)
    figure = None if best is None or rival is None else _seconds(best) / _seconds(rival)
    ours, theirs = (str(r["name"]) if r else "none" for r in (best, rival))
    return Verdict(goal.title, name, ours, theirs, figure, goal.bound)


def _bandwidth(rows: list[Plain]) -> list[Verdict]:
    """The best path of each rule whose limit is bandwidth, on 10⁸ numbers."""
    best: dict[str, Plain] = {}
    for row in rows:
        memory = row["ours"] and row["limit"] and not row["limit"]["flops"]
        if row["set"] != "1e8" or not memory:
            continue
        if row["family"] not in best or row["reached"] > best[row["family"]]["reached"]:
            best[row["family"]] = row
    title = "of what copies and fused steps reach"
    return [
        Verdict(
            f"{family}, {title}"[:42], "1e8", r["name"], "", r["reached"], 0.9, True
        )
        for family, r in best.items()
    ]


def _worst(
    title: str, shares: Iterable[tuple[float, Plain]], rival: str, bound: float
) -> list[Verdict]:
    """The largest share as one verdict; none without shares."""
    found = max(shares, key=lambda pair: pair[0], default=None)
    if found is None:
        return []
    share, row = found
    return [Verdict(title, row["set"], row["name"], rival, share, bound)]


def _state(rows: list[Plain]) -> list[Verdict]:
    mine = [r for r in rows if r["ours"] and r["limit"]]
    mine = [r for r in mine if r["limit"]["state_bytes"]]
    shares = [(r["state_bytes"] / r["limit"]["state_bytes"], r) for r in mine]
    return _worst("state, the worst of all", shares, "what the rule needs", 1.0)


def _temporaries(rows: list[Plain]) -> list[Verdict]:
    """Of each family the worst path without foreach."""
    paths = ("loop", *ONE_PASS)
    mine = [r for r in rows if r["ours"] and r["name"].endswith(paths)]
    found: list[Verdict] = []
    for family in dict.fromkeys(r["family"] for r in mine):
        shares = [
            (r["peak_bytes"] / (4 * r["largest"]), r)
            for r in mine
            if r["family"] == family
        ]
        title = f"temporaries, {family}"[:42]
        found += _worst(title, shares, "its largest tensor", 1.0)
    return found


def _sane(rows: list[Plain]) -> list[Verdict]:
    shares = [(r["reached"], r) for r in rows if r["reached"] is not None]
    return _worst("no step faster than its limit", shares, "the limit", TOO_FAST)


def table(found: Iterable[Verdict]) -> str:
    """The verdicts, one a line, and how many were met."""
    lines = list(found)
    met = sum(v.met is True for v in lines)
    missed = sum(v.met is False for v in lines)
    absent = len(lines) - met - missed
    count = f"{met} met, {missed} missed, {absent} not measured"
    return "\n".join([HEAD, *map(str, lines), count])
