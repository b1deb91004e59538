"""How a chapter draws its slice of the race: five seeds of each, one panel a problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import Any

from matplotlib import pyplot as plt
from race_contestants import entrant
from race_declaration import SHORT
from race_runs import Runs, slice

from anthology import lab, optim

ROW, HEAD, WIDE, GAP = 0.27, 0.85, 5.0, 0.1  # inches
LOST = "lost"


def ruler(name: str) -> str:
    """The ruler of a contestant, which gives it its colour.

    A class that takes any norm is given the layers' own here, spectral for matrices.
    """
    kind = entrant(name).kind.removeprefix("torch.")
    told: str = getattr(optim, kind).card.ruler
    return "spectral" if told == "any" else told


def said(name: str) -> str:
    """A contestant's name as a figure writes it."""
    base = name.removesuffix("-0")
    return base if base == name else f"{base}, no momentum"


def draw(
    names: Sequence[str],
    problems: Sequence[str] = SHORT,
    runs: Runs | None = None,
    title: str = "{}: loss on unseen data",
) -> dict[str, dict[str, Any]]:
    """Draw the final losses of some contestants; a dot is a seed, a bar the mean.

    The title has the problem's name for its braces; ``"{}"`` where long names of
    contestants leave no room for more.

    Returns
    -------
    dict
        For each problem what `slice` says of these contestants.

    Raises
    ------
    ValueError
        If there is no such contestant, or its search is not finished.
    """
    told = {where: slice(names, where, runs) for where in problems}
    high = len(problems) * (ROW * len(names) + HEAD)
    figure, axes = plt.subplots(len(problems), figsize=(WIDE, high), squeeze=False)
    if engine := figure.get_layout_engine():
        engine.set(h_pad=GAP)
    for ax, where in zip(axes.flat, problems, strict=True):
        panel(ax, told[where])
        ax.set_title(title.format(where))
    return told


def panel(ax: Any, told: dict[str, Any]) -> None:
    """A row for each contestant; logarithmic where the losses are far apart."""
    known = [x for r in told.values() for x in r["losses"] if x is not None]
    for row, (name, r) in enumerate(told.items()):
        look = lab.STYLES[ruler(name)]
        found = [x for x in r["losses"] if x is not None]
        dots = [row] * len(found)
        ax.plot(found, dots, look.marker, color=look.color, ms=4, alpha=0.8)
        if len(found) < len(r["losses"]):
            ax.annotate(LOST, (1, row), (-4, 0), ha="right", va="center",
                        xycoords=("axes fraction", "data"),
                        textcoords="offset points")  # fmt: skip
        else:
            ax.plot(mean(found), row, "|", color=look.color, ms=15)
    far = bool(known) and max(known) > 4 * min(known) and min(known) > 0
    ax.set(ylim=(len(told) - 0.4, -0.6), yticks=range(len(told)))
    ax.set_yticklabels([said(name) for name in told])
    if far:
        ax.set_xscale("log")
        low, top = math.log10(min(known)), math.log10(max(known))
        ticks = [10 ** (low + k * (top - low) / 3) for k in range(4)]
        ticks = [float(f"{x:.1g}") for x in ticks]
        ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
        ax.minorticks_off()
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
