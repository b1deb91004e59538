"""Drawing for the slider figure: marks and axes as SVG text.

Everything here turns numbers into text. Coordinates are rounded to a tenth of
a pixel, so the same marks give the same bytes on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from anthology.lab.marks import (
    LEFT,
    WIDTH,
    Arrow,
    Line,
    Mark,
    Note,
    Panel,
    Points,
    Region,
)
from anthology.lab.palette import STYLES

__all__ = ["draw", "draw_panel", "number", "swatch"]

_BOTTOM = 40.0
_FAR = 1e5  # pixels: beyond this a coordinate is far outside, however far
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

_SIGNS = {"s": "■", "D": "◆", "^": "▲", "v": "▼"}

Place = tuple[int, int]


def draw_panel(panel: Panel, first: str, title: str, desc: str) -> str:
    """The whole SVG of a panel, with the marks of its first frame in it."""
    width, height = panel.inner
    full = panel.top + height + _BOTTOM
    plot = (
        f'<svg x="{LEFT:g}" y="{panel.top:g}" width="{_n(width)}" '
        f'height="{_n(height)}" viewBox="0 0 {tenths(width)} {tenths(height)}">'
        f"<g>{draw(panel, panel.background)}</g><g>{first}</g></svg>"
    )
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH:g} {_n(full)}">'
        f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>"
        f"{_frame(panel)}{plot}</svg>"
    )


def _frame(panel: Panel) -> str:
    """Title, grid, tick labels and axis labels."""
    width, height = panel.inner
    top, bottom = panel.top, panel.top + height
    grid, words = [], []
    for t in panel.x.chosen_ticks():
        at = _n(LEFT + panel.x.share(t) * width)
        grid.append(f"M{at} {_n(top)}V{_n(bottom)}")
        words.append(_word(at, bottom + 15, number(t, panel.x.log), "middle"))
    for t in panel.y.chosen_ticks():
        y = bottom - panel.y.share(t) * height
        grid.append(f"M{LEFT:g} {_n(y)}H{_n(LEFT + width)}")
        words.append(_word(_n(LEFT - 6), y + 4, number(t, panel.y.log), "end"))
    words.append(
        _word(_n(LEFT + width / 2), bottom + 33, panel.x.label, "middle", "an-axis")
    )
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
    kind = f' class="{kind}"' if kind else ""
    return (
        f'<text{kind} x="{x}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def draw(panel: Panel, marks: Iterable[Mark]) -> str:
    """The marks of one panel as SVG text, in tenths of a pixel."""
    return "".join(_draw_one(panel, mark) for mark in marks)


def _draw_one(panel: Panel, mark: Mark) -> str:
    if isinstance(mark, Note):
        return _note(mark, _place(panel, mark.x, mark.y))
    if isinstance(mark, Arrow):
        return _arrow(panel, mark)
    points = [_place(panel, x, y) for x, y in _pairs(mark.x, mark.y)]
    if isinstance(mark, Points):
        return _points([p for p in points if p is not None], mark)
    if isinstance(mark, Region):
        path = _polyline([p for p in points if p is not None])
        color = _color(mark.style)
        return path and (
            f'<path d="{path}z" fill="{color}" fill-opacity=".18" '
            f'stroke="{color}" stroke-width="12" stroke-linejoin="round"/>'
        )
    dashes = STYLES[mark.style].dashes
    return _path(_pieces(points), mark.style, tenths(mark.width), "butt", dashes)


def _points(places: Sequence[Place], mark: Points) -> str:
    """One path of markers, each the shape of the style."""
    shape = _shape(STYLES[mark.style].marker, 10 * mark.radius)
    path = "".join(f"M{x} {y}{shape}" for x, y in places)
    return path and f'<path d="{path}" fill="{_color(mark.style)}"/>'


def _shape(marker: str, radius: float) -> str:
    """A marker around the current point, in relative moves; a disc if unknown."""
    r, wide = _round(radius), _round(1.3 * radius)
    flat = _round(0.9 * radius)
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
        shape = _SIGNS.get(STYLES[mark.style].marker, "●")
        sign = f'<tspan fill="{_color(mark.style)}">{shape} </tspan>'
    return (
        f'<text x="{at[0]}" y="{at[1]}" font-size="120" '
        f'text-anchor="{mark.anchor}">{sign}{escape(mark.text)}</text>'
    )


def _arrow(panel: Panel, mark: Arrow) -> str:
    start, end = _place(panel, *_two(mark.start)), _place(panel, *_two(mark.end))
    if start is None or end is None:
        return ""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    if length < 10:  # shorter than a pixel: a dot says "no step"
        return _path(f"M{start[0]} {start[1]}h0", mark.style, 60)
    head = min(90.0, 0.6 * length)
    ux, uy = dx / length, dy / length
    bx, by = end[0] - head * ux, end[1] - head * uy
    wing = 0.45 * head
    corners = [
        end,
        (_round(bx - wing * uy), _round(by + wing * ux)),
        (_round(bx + wing * uy), _round(by - wing * ux)),
    ]
    shaft = _polyline([start, (_round(bx), _round(by))])
    tip = f'<path d="{_polyline(corners)}z" fill="{_color(mark.style)}"/>'
    return _path(shaft, mark.style, tenths(mark.width)) + tip


def _path(
    d: str,
    style: str | int,
    width: int,
    cap: str = "round",
    dashes: Sequence[float] = (),
) -> str:
    if not d:
        return ""
    extra = f' stroke-dasharray="{_list(width, dashes)}"' if dashes else ""
    return (
        f'<path d="{d}" fill="none" stroke="{_color(style)}" stroke-width="{width}" '
        f'stroke-linecap="{cap}" stroke-linejoin="round"{extra}/>'
    )


def _list(width: float, dashes: Sequence[float]) -> str:
    return " ".join(f"{d * width:g}" for d in dashes)


def swatch(style: str | int, kind: type) -> str:
    """The little picture of a legend entry."""
    color = _color(style)
    if kind is Region:
        body = (
            f'<path d="M3 1h22v10H3z" fill="{color}" fill-opacity=".18" '
            f'stroke="{color}" stroke-width="1.2"/>'
        )
    elif kind is Points:
        shape = _shape(STYLES[style].marker, 40)
        body = f'<path transform="scale(.1)" d="M140 60{shape}" fill="{color}"/>'
    else:
        dashes = STYLES[style].dashes if kind is Line else ()
        extra = f' stroke-dasharray="{_list(2, dashes)}"' if dashes else ""
        tip = f'<path d="M28 6l-8-4v8z" fill="{color}"/>' if kind is Arrow else ""
        end = 20 if kind is Arrow else 28
        body = f'<path d="M0 6H{end}" stroke="{color}" stroke-width="2"{extra}/>{tip}'
    return f'<svg aria-hidden="true" width="28" height="12">{body}</svg>'


def number(value: float, log: bool = False) -> str:
    """A tick as text: 10⁻³ on a log axis, 0.5 or −2 on a linear one."""
    if log:
        power = math.log10(value)
        if abs(power - round(power)) < 1e-9 and abs(power) > 1.5:
            return "10" + str(round(power)).translate(_SUPERSCRIPT)
    text = f"{value + 0.0:.4g}"
    if "e" in text:
        mantissa, power_text = text.split("e")
        return f"{mantissa}·10{str(int(power_text)).translate(_SUPERSCRIPT)}".replace(
            "-", "−"
        )
    return text.replace("-", "−")


def _place(panel: Panel, x: Any, y: Any) -> Place | None:
    """A point in tenths of a pixel from the top left; None if it has no place."""
    width, height = panel.inner
    across, up = panel.x.share(float(x)), panel.y.share(float(y))
    if math.isnan(across) or math.isnan(up):
        return None
    return _round(_near(across * width) * 10), _round(_near((1 - up) * height) * 10)


def _near(pixels: float) -> float:
    return max(-_FAR, min(_FAR, pixels))


def _round(value: float) -> int:
    """Round to an integer; the offset keeps exact halves from depending on the
    last bit of the machine's arithmetic."""
    return math.floor(value + 0.5 + 1.3e-6)


def tenths(pixels: float) -> int:
    """Pixels in the unit of the plotting area."""
    return _round(10 * pixels)


def _n(pixels: float) -> str:
    return f"{_round(10 * pixels) / 10:g}"


def _pieces(points: Sequence[Place | None]) -> str:
    """A path through the points, interrupted where one has no place."""
    path, piece = "", []
    for point in [*points, None]:
        if point is not None:
            piece.append(point)
        elif piece:
            path += _polyline(piece)
            piece = []
    return path


def _polyline(points: Sequence[Place]) -> str:
    """A path in relative moves, which are short to write."""
    if not points:
        return ""
    x, y = points[0]
    path = f"M{x} {y}" + ("h0" if len(points) == 1 else "l")
    moves = []
    for to_x, to_y in points[1:]:
        if (to_x, to_y) != (x, y):
            moves.append(f"{to_x - x} {to_y - y}")
            x, y = to_x, to_y
    if len(points) > 1 and not moves:
        moves.append("0 0")
    return path + " ".join(moves)


def _plain(values: Any) -> list[float]:
    """Numbers of a list, a tensor or an array."""
    return [
        float(v) for v in (values.tolist() if hasattr(values, "tolist") else values)
    ]


def _pairs(x: Any, y: Any) -> Iterator[tuple[float, float]]:
    xs, ys = _plain(x), _plain(y)
    if len(xs) != len(ys):
        raise ValueError(f"a mark has {len(xs)} values of x and {len(ys)} of y")
    return zip(xs, ys, strict=True)


def _two(point: Any) -> tuple[float, float]:
    x, y = _plain(point)
    return x, y


def _color(style: str | int) -> str:
    return STYLES[style].css
