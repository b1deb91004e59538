"""Labels at the lines themselves, in place of a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any

from .palette import INK, RULERS, STYLES
from .runtime import optional

Point = tuple[float, float]

_GAP = 5.0  # points between a line's end and its label
_LEADING = 1.25  # heights of a letter from one label to the next


def label_line(
    line: Any, text: str | None = None, *, at: float | None = None, above: bool = True
) -> Any:
    """Write a line's name where it ends, or above it (or below) ``at`` some x.

    The line of matplotlib is drawn on axes; one in a ruler's colour gives its label
    that colour, other labels are written in ink. The text is by default the line's
    own label. A ValueError if there is none, or no point to stand at. Returns the
    annotation.
    """
    if text is None:
        text = str(line.get_label())
        if text.startswith("_"):
            raise ValueError("the line has no label; give a text, or plot with label=…")
    if at is None:
        return _write(line, text, _end(line), (_GAP, 0.0), "left", "center")
    side, up = (_GAP, "bottom") if above else (-_GAP, "top")
    return _write(line, text, _on(line, at), (0.0, side), "center", up)


def label_lines(*axes: Any) -> list[Any]:
    """Write the name of every labelled line at its end, none on another.

    Call it last: labels that would touch are parted for the axes as they are then.
    Lines of the same label are named once on each axes. A ValueError if there are no
    axes, or none of their lines has a label. Returns the annotations.
    """
    if not axes:
        raise ValueError("name the axes whose lines are to be labelled")
    return [label for one in axes for label in _label_axes(one)]


def _label_axes(axes: Any) -> list[Any]:
    named: dict[str, Any] = {}
    for line in axes.get_lines():
        if not line.get_label().startswith("_"):
            named.setdefault(line.get_label(), line)
    if not named:
        raise ValueError("no line here has a label; plot with label=…")
    axes.get_figure().draw_without_rendering()  # so that the layout is known
    points_high = axes.bbox.height * 72 / axes.get_figure().dpi
    size = optional("matplotlib", "matplotlib").rcParams["font.size"]
    # a line without a finite point is not to be seen, nor named
    ends = {text: _end(line) for text, line in named.items() if _fractions(line)}
    order = sorted(ends, key=lambda text: ends[text][1])
    heights = [size * _LEADING * (1 + text.count("\n")) for text in order]
    wanted = [ends[text][1] * points_high for text in order]
    return [
        _write(named[text], text, ends[text], (_GAP, new - old), "left", "center")
        for text, old, new in zip(order, wanted, parted(wanted, heights), strict=True)
    ]


def parted(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles of boxes of these heights, in order, near where they are wanted."""
    # Least squares: where the boxes would stand in one pile, and how far each wants
    # to be from there; those that want to pass one another go the mean way together.
    tops = accumulate(heights)
    pile = [top - high / 2 for top, high in zip(tops, heights, strict=True)]
    blocks: list[list[float]] = []
    for want, stands in zip(wanted, pile, strict=True):
        block = [want - stands]
        while blocks and fmean(block) < fmean(blocks[-1]):
            block = blocks.pop() + block
        blocks.append(block)
    ways = [fmean(block) for block in blocks for _ in block]
    return [stands + way for stands, way in zip(pile, ways, strict=True)]


def _write(line: Any, text: str, place: Point, offset: Point, ha: str, va: str) -> Any:
    color = optional("matplotlib.colors", "matplotlib").to_hex(line.get_color())
    entry = STYLES.by_color.get(color)
    color = entry.color if entry is not None and entry.name in RULERS else INK
    placed = {"xycoords": "axes fraction", "textcoords": "offset points"}
    look = {"ha": ha, "va": va, "color": color, "annotation_clip": False}
    return line.axes.annotate(text, place, offset, **placed, **look)


def _fractions(line: Any) -> list[Point]:
    """The line's points in fractions of its axes; those with no place left out."""
    line.axes.autoscale_view()
    drawn = line.axes.transScale + line.axes.transLimits
    points = (tuple(map(float, p)) for p in drawn.transform(line.get_xydata()))
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _end(line: Any) -> Point:
    """The last point inside the axes."""
    edge = 1e-9
    for x, y in reversed(_fractions(line)):
        if -edge <= x <= 1 + edge and -edge <= y <= 1 + edge:
            return x, y
    raise ValueError(f"no point of the line {line.get_label()!r} is inside")


def _on(line: Any, at: float) -> Point:
    """The point of the line at some x, between its neighbours."""
    drawn = line.axes.transScale + line.axes.transLimits
    x = float(drawn.transform((at, line.axes.get_ylim()[1]))[0])
    for (x0, y0), (x1, y1) in pairwise(_fractions(line)):
        if min(x0, x1) <= x <= max(x0, x1):
            share = 0.0 if x1 == x0 else (x - x0) / (x1 - x0)
            return x, y0 + share * (y1 - y0)
    raise ValueError(f"the line {line.get_label()!r} has no point at x = {at:g}")
