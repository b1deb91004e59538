"""Labels at the lines themselves, in place of a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from anthology.lab.optional import optional
from anthology.lab.palette import INK, RULERS, STYLES

__all__ = ["label_line", "label_lines"]

_GAP = 5.0  # points between a line's end and its label
_LEADING = 1.25  # heights of a letter from one label to the next


def label_line(
    line: Any, text: str | None = None, *, at: float | None = None, above: bool = True
) -> Any:
    """Write a line's name where it ends, or above it at some x.

    Parameters
    ----------
    line : matplotlib.lines.Line2D
        Drawn on axes. One in a ruler's colour gives its label that colour; other
        labels are written in ink.
    text : str, optional
        Default: the line's label.
    at : float, optional
        Write it at this x instead, above the line or below.
    above : bool
        On which side, where ``at`` is given.

    Returns
    -------
    matplotlib.text.Annotation

    Raises
    ------
    ValueError
        If the line has no label and no text is given, or no point to stand at.
    """
    text = _text(line) if text is None else text
    if at is None:
        x, y = _end(line)
        return _write(line, text, (x, y), (_GAP, 0.0), "left", "center")
    x, y = _on(line, at)
    below = (0.0, _GAP if above else -_GAP)
    return _write(line, text, (x, y), below, "center", "bottom" if above else "top")


def label_lines(*axes: Any) -> list[Any]:
    """Write the name of every labelled line at its end, none on another.

    Call it last: labels that would touch are moved apart for the axes as they
    are then.

    Parameters
    ----------
    *axes : matplotlib.axes.Axes
        One or more. Lines of the same label are named once on each.

    Returns
    -------
    list of matplotlib.text.Annotation

    Raises
    ------
    ValueError
        If no axes are given, or no line on one of them has a label.
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
    ends = {text: _end(line) for text, line in named.items()}
    order = sorted(named, key=lambda text: ends[text][1])
    heights = [size * _LEADING * (1 + text.count("\n")) for text in order]
    wanted = [ends[text][1] * points_high for text in order]
    moved = _apart(wanted, heights)
    return [
        _write(named[text], text, ends[text], (_GAP, new - old), "left", "center")
        for text, old, new in zip(order, wanted, moved, strict=True)
    ]


def _apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Middles of boxes of these heights, in order, near where they are wanted."""
    blocks: list[list[int]] = []
    middles: list[float] = []
    for i in range(len(wanted)):
        block, middle = [i], wanted[i]
        while blocks and _low(middle, block, heights) < middles[-1] + _half(
            blocks[-1], heights
        ):
            block = blocks.pop() + block
            middles.pop()
            middle = _middle(block, wanted, heights)
        blocks.append(block)
        middles.append(middle)
    placed = []
    for block, middle in zip(blocks, middles, strict=True):
        at = _low(middle, block, heights)
        for i in block:
            placed.append(at + heights[i] / 2)
            at += heights[i]
    return placed


def _half(block: Sequence[int], heights: Sequence[float]) -> float:
    return sum(heights[i] for i in block) / 2


def _low(middle: float, block: Sequence[int], heights: Sequence[float]) -> float:
    return middle - _half(block, heights)


def _middle(
    block: Sequence[int], wanted: Sequence[float], heights: Sequence[float]
) -> float:
    """Where the middle of a block serves its members' wishes best on average."""
    total, offset, half = 0.0, 0.0, _half(block, heights)
    for i in block:
        total += wanted[i] - (offset + heights[i] / 2 - half)
        offset += heights[i]
    return total / len(block)


def _write(
    line: Any,
    text: str,
    place: tuple[float, float],
    offset: tuple[float, float],
    across: str,
    up: str,
) -> Any:
    return line.axes.annotate(
        text,
        place,
        offset,
        xycoords="axes fraction",
        textcoords="offset points",
        ha=across,
        va=up,
        color=_color(line),
        annotation_clip=False,
    )


def _color(line: Any) -> str:
    colors = optional("matplotlib.colors", "matplotlib")
    entry = STYLES.by_color.get(colors.to_hex(line.get_color()))
    return entry.color if entry is not None and entry.name in RULERS else INK


def _text(line: Any) -> str:
    text = str(line.get_label())
    if text.startswith("_"):
        raise ValueError("the line has no label; give a text, or plot with label=…")
    return text


def _fractions(line: Any) -> list[tuple[float, float]]:
    """The line's points in fractions of its axes; those with no place left out."""
    axes = line.axes
    axes.autoscale_view()
    drawn = axes.transScale + axes.transLimits
    points = (tuple(map(float, p)) for p in drawn.transform(line.get_xydata()))
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _end(line: Any) -> tuple[float, float]:
    """The last point inside the axes."""
    edge = 1e-9
    inside = [
        (x, y)
        for x, y in _fractions(line)
        if -edge <= x <= 1 + edge and -edge <= y <= 1 + edge
    ]
    if not inside:
        raise ValueError(f"no point of the line {line.get_label()!r} is inside")
    return inside[-1]


def _on(line: Any, at: float) -> tuple[float, float]:
    """The point of the line at some x, between its neighbours."""
    axes = line.axes
    drawn = axes.transScale + axes.transLimits
    x = float(drawn.transform((at, axes.get_ylim()[1]))[0])
    points = _fractions(line)
    for (x0, y0), (x1, y1) in pairwise(points):
        if min(x0, x1) <= x <= max(x0, x1):
            share = 0.0 if x1 == x0 else (x - x0) / (x1 - x0)
            return x, y0 + share * (y1 - y0)
    raise ValueError(f"the line {line.get_label()!r} has no point at x = {at:g}")
