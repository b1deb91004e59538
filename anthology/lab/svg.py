"""Marks and axes of the slider figure as SVG text, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

from .marks import LEFT, WIDTH, Arrow, Line, Mark, Note, Panel, Points, Region
from .palette import STYLES, Style

_BOTTOM = 40.0
_FAR = 1e5  # pixels: beyond this a coordinate is far outside, however far
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SIGNS = {"s": "■", "D": "◆", "^": "▲", "v": "▼"}

Place = tuple[int, int]


def draw_panel(panel: Panel, first: str, title: str, desc: str) -> str:
    """The whole SVG of a panel, with the marks of its first frame in it."""
    width, height = panel.inner
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH:g} {_n(panel.top + height + _BOTTOM)}">'
        f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>{_frame(panel)}"
        f'<svg x="{LEFT:g}" y="{panel.top:g}" width="{_n(width)}" '
        f'height="{_n(height)}" viewBox="0 0 {_tenths(width)} {_tenths(height)}">'
        f"<g>{draw(panel, panel.background)}</g><g>{first}</g></svg></svg>"
    )


def _frame(panel: Panel) -> str:
    """Title, grid, tick labels and axis labels."""
    width, height = panel.inner
    top, bottom = panel.top, panel.top + height
    grid, words = [], []
    for t in panel.x.chosen_ticks():
        at = _n(LEFT + panel.x.share(t) * width)
        grid.append(f"M{at} {_n(top)}V{_n(bottom)}")
        words.append(_word(at, bottom + 15, tick_text(t, panel.x.log), "middle"))
    for t in panel.y.chosen_ticks():
        y = bottom - panel.y.share(t) * height
        grid.append(f"M{LEFT:g} {_n(y)}H{_n(LEFT + width)}")
        words.append(_word(_n(LEFT - 6), y + 4, tick_text(t, panel.y.log), "end"))
    middle = _n(LEFT + width / 2)
    words.append(_word(middle, bottom + 33, panel.x.label, "middle", "an-axis"))
    words.append(
        f'<text class="an-axis" text-anchor="middle" transform="translate(11 '
        f'{_n(top + height / 2)}) rotate(-90)">{escape(panel.y.label)}</text>'
    )
    if panel.title:
        words.append(_word(f"{LEFT:g}", 15, panel.title, "start", "an-title"))
    edge = f"M{LEFT:g} {_n(top)}V{_n(bottom)}H{_n(LEFT + width)}"
    return (
        f'<path class="an-grid" d="{"".join(grid)}"/>'
        f'<path class="an-edge" d="{edge}"/>{"".join(words)}'
    )


def _word(x: str, y: float, text: str, anchor: str, kind: str = "") -> str:
    head = f'<text class="{kind}"' if kind else "<text"
    return f'{head} x="{x}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def draw(panel: Panel, marks: Iterable[Mark]) -> str:
    """The marks of one panel as SVG text, in tenths of a pixel."""
    return "".join(_draw_one(panel, mark) for mark in marks)


def _draw_one(panel: Panel, mark: Mark) -> str:
    if isinstance(mark, Note):
        return _note(mark, *_places(panel, [mark.x], [mark.y]))
    look = STYLES[mark.style]
    if isinstance(mark, Arrow):
        x, y = zip(_floats(mark.start), _floats(mark.end), strict=True)
        return _arrow(mark, look, *_places(panel, x, y))
    places = _places(panel, mark.x, mark.y)
    there = [place for place in places if place is not None]
    if isinstance(mark, Points):
        shape = _shape(look.marker, 10 * mark.radius)
        path = "".join(f"M{x} {y}{shape}" for x, y in there)
        return path and f'<path d="{path}" fill="{look.css}"/>'
    if isinstance(mark, Region):
        path = _polyline(there)
        return path and (
            f'<path d="{path}z" fill="{look.css}" fill-opacity=".18" '
            f'stroke="{look.css}" stroke-width="12" stroke-linejoin="round"/>'
        )
    # interrupted where a point has no place
    pieces = groupby(places, lambda place: place is not None)
    path = "".join(_polyline([p for p in piece if p]) for _, piece in pieces)
    return _path(path, look, _tenths(mark.width), "butt", look.dashes)


def _shape(marker: str, radius: float) -> str:
    """A marker around the current point, in relative moves; a disc if unknown."""
    r, wide, flat = _round(radius), _round(1.3 * radius), _round(0.9 * radius)
    return {
        "s": f"m{-flat} {-flat}h{2 * flat}v{2 * flat}h{-2 * flat}z",
        "D": f"m0 {-wide}l{wide} {wide} {-wide} {wide} {-wide} {-wide}z",
        "^": f"m0 {-wide}l{wide} {2 * r + 4} {-2 * wide} 0z",
        "v": f"m0 {wide}l{wide} {-2 * r - 4} {-2 * wide} 0z",
    }.get(marker, f"m{-r} 0a{r} {r} 0 1 0 {2 * r} 0a{r} {r} 0 1 0 {-2 * r} 0z")


def _note(mark: Note, at: Place | None) -> str:
    """A text; coloured is only a sign before it, which need not be read."""
    if at is None:
        return ""
    sign = ""
    if mark.style is not None:
        look = STYLES[mark.style]
        sign = f'<tspan fill="{look.css}">{_SIGNS.get(look.marker, "●")} </tspan>'
    return (
        f'<text x="{at[0]}" y="{at[1]}" font-size="120" '
        f'text-anchor="{mark.anchor}">{sign}{escape(mark.text)}</text>'
    )


def _arrow(mark: Arrow, look: Style, start: Place | None, end: Place | None) -> str:
    if start is None or end is None:
        return ""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length < 10:  # shorter than a pixel: a dot says "no step"
        return _path(f"M{start[0]} {start[1]}h0", look, 60)
    head = min(90.0, 0.6 * length)
    ux, uy, wing = dx / length, dy / length, 0.45 * head
    bx, by = end[0] - head * ux, end[1] - head * uy
    left = _round(bx - wing * uy), _round(by + wing * ux)
    right = _round(bx + wing * uy), _round(by - wing * ux)
    shaft = _polyline([start, (_round(bx), _round(by))])
    tip = f'<path d="{_polyline([end, left, right])}z" fill="{look.css}"/>'
    return _path(shaft, look, _tenths(mark.width)) + tip


def _path(
    d: str, look: Style, width: int, cap: str = "round", dashes: Sequence[float] = ()
) -> str:
    return d and (
        f'<path d="{d}" fill="none" stroke="{look.css}" stroke-width="{width}" '
        f'stroke-linecap="{cap}" stroke-linejoin="round"{_dashed(width, dashes)}/>'
    )


def _dashed(width: float, dashes: Sequence[float]) -> str:
    lengths = " ".join(f"{d * width:g}" for d in dashes)
    return lengths and f' stroke-dasharray="{lengths}"'


def swatch(style: str | int, kind: type) -> str:
    """The little picture of a legend entry."""
    look = STYLES[style]
    color, end, tip = look.css, 28, ""
    if kind is Region:
        body = (
            f'<path d="M3 1h22v10H3z" fill="{color}" fill-opacity=".18" '
            f'stroke="{color}" stroke-width="1.2"/>'
        )
    elif kind is Points:
        shape = _shape(look.marker, 40)
        body = f'<path transform="scale(.1)" d="M140 60{shape}" fill="{color}"/>'
    else:
        if kind is Arrow:
            end, tip = 20, f'<path d="M28 6l-8-4v8z" fill="{color}"/>'
        dashes = _dashed(2, look.dashes if kind is Line else ())
        body = f'<path d="M0 6H{end}" stroke="{color}" stroke-width="2"{dashes}/>{tip}'
    return f'<svg aria-hidden="true" width="28" height="12">{body}</svg>'


def tick_text(value: float, log: bool = False) -> str:
    """A tick as text: 10⁻³ on a log axis, 0.5 or −2 on a linear one."""
    if log:
        power = math.log10(value)
        if abs(power - round(power)) < 1e-9 and abs(power) > 1.5:
            return "10" + str(round(power)).translate(_SUPERSCRIPT)
    mantissa, e, power_text = f"{value + 0.0:.4g}".partition("e")
    tens = f"·10{str(int(power_text)).translate(_SUPERSCRIPT)}" if e else ""
    return f"{mantissa}{tens}".replace("-", "−")


def _places(panel: Panel, x: Any, y: Any) -> list[Place | None]:
    """Points in tenths of a pixel from the top left; None for one with no place."""
    width, height = panel.inner
    xs, ys = _floats(x), _floats(y)
    if len(xs) != len(ys):
        raise ValueError(f"a mark has {len(xs)} values of x and {len(ys)} of y")
    right = [panel.x.share(value) * width for value in xs]
    down = [(1 - panel.y.share(value)) * height for value in ys]
    return [
        None if math.isnan(x) or math.isnan(y) else (_tenths(x), _tenths(y))
        for x, y in zip(right, down, strict=True)
    ]


def _floats(values: Any) -> list[float]:
    """Numbers of a list, a tensor or an array."""
    return [float(v) for v in getattr(values, "tolist", lambda: values)()]


def _round(value: float) -> int:
    """To an integer; halves do not hang on the last bit of a machine's arithmetic."""
    return math.floor(value + 0.5 + 1.3e-6)


def _tenths(pixels: float) -> int:
    """Pixels in the unit of the plotting area; what is far outside stays short."""
    return _round(10 * max(-_FAR, min(_FAR, pixels)))


def _n(pixels: float) -> str:
    return f"{_tenths(pixels) / 10:g}"


def _polyline(points: Sequence[Place]) -> str:
    """A path in relative moves, which are short to write."""
    if not points:
        return ""
    steps = [(to[0] - x, to[1] - y) for (x, y), to in pairwise(points)]
    moves = " ".join(f"{dx} {dy}" for dx, dy in steps if dx or dy)
    start = "M{} {}".format(*points[0])
    return f"{start}l{moves or '0 0'}" if steps else f"{start}h0"
