"""The figure of the book that moves without a kernel: a slider over drawn frames.

>>> from anthology import lab
>>> panel = lab.Panel(lab.Axis("a", -3, 3), lab.Axis("b", -3, 3), equal=True)
>>> frames = [
...     lab.Frame(
...         f"η = {eta:g}",
...         f"With step size {eta:g} the step ends at a = {2 - eta:g}.",
...         [[lab.Arrow((2, 0), (2 - eta, eta), name="step"),
...           lab.Line([0, 1, 2], [0, 1, 0], name="path", style=1)]],
...     )
...     for eta in (0.5, 1.0)
... ]
>>> lab.slider_figure("One step", [panel], frames, label="step size η")
<slider figure>
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any

from .marks import Mark, Note, Panel
from .svg import draw, draw_panel, swatch

_CSS, _SCRIPT = (
    files("anthology.lab").joinpath(name).read_text("utf-8").replace("\n", "")
    for name in ("slider.css", "slider.js")
)


@dataclass(frozen=True)
class Frame:
    """One position of the slider.

    ``value`` is where it stands: "p = 2". ``text`` says in one sentence what is to be
    seen there, enough without the picture, for it is read aloud. ``marks`` has for each
    panel a list of what is drawn on it.
    """

    value: str
    text: str
    marks: Sequence[Sequence[Mark]] = field(default_factory=list)


class SliderFigure:
    """What :func:`slider_figure` returns; a notebook shows its HTML."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html

    def __repr__(self) -> str:
        return "<slider figure>"


def slider_figure(
    title: str,
    panels: Sequence[Panel],
    frames: Sequence[Frame],
    *,
    label: str,
    start: int = 0,
) -> SliderFigure:
    """A figure with a slider that needs no kernel, shown as the last line of a cell.

    The ``title`` says in a few words what it shows, for those who cannot see it, the
    ``label`` what the slider changes: "exponent p". The ``panels`` are side by side, on
    a narrow screen one under the other, the ``frames`` the positions of the slider, of
    which ``start`` is shown first, and where there are no scripts. A ValueError if
    there is no panel or frame, a frame has not one list of marks for each panel, or x
    and y of a mark differ in length.
    """
    if not panels or not frames:
        raise ValueError("a slider figure needs at least one panel and one frame")
    if not 0 <= start < len(frames):
        raise ValueError(f"start is {start}; there are frames 0 … {len(frames) - 1}")
    for i, frame in enumerate(frames):
        if len(frame.marks) != len(panels):
            what = f"{len(frame.marks)} lists of marks for {len(panels)} panels"
            raise ValueError(f"frame {i} has {what}; give one list for each panel")
    data = [[f.value, f.text, [*map(draw, panels, f.marks)]] for f in frames]
    pictures = ""
    for panel, marks in zip(panels, data[start][2], strict=True):
        name = ": ".join(filter(None, (title, panel.title)))
        pictures += draw_panel(panel, marks, name, frames[start].text)
    # the slider is as wide as the figure gets
    return SliderFigure(
        f'<figure class="an-slider" style="max-width:{456 * len(panels) - 16}px">'
        f"<style>{_CSS}</style>"
        f'<div class="an-panels">{pictures}</div>{_legend(panels, frames)}'
        f"{_controls(label, data, start)}</figure>"
    )


def _controls(label: str, data: Sequence[Sequence[Any]], start: int) -> str:
    """Slider, value and sentence; dead until the script wakes it up."""
    value, text = map(escape, data[start][:2])
    said = f"<b>{value}</b> <span>{text}</span>"
    if len(data) == 1:
        return f'<div class="an-bar"><output>{said}</output></div>'
    # "<" is written as an escape, so no text can end the script element
    numbers = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    numbers = numbers.replace("<", "\\u003c")
    return (
        f'<div class="an-bar"><label>{escape(label)} <input type="range" min="0" '
        f'max="{len(data) - 1}" step="1" value="{start}" autocomplete="off" disabled '
        f'aria-valuetext="{value}"></label>'
        f'<output aria-live="polite">{said}</output></div>'
        f"<noscript>The picture shows one position: {value}. "
        "The slider needs JavaScript.</noscript>"
        f'<script type="application/json">{numbers}</script><script>{_SCRIPT}</script>'
    )


def _legend(panels: Sequence[Panel], frames: Sequence[Frame]) -> str:
    """One entry for each name, in the order of appearance."""
    entries: dict[str, str] = {}
    groups = [p.background for p in panels] + [m for f in frames for m in f.marks]
    for mark in (mark for group in groups for mark in group):
        if not isinstance(mark, Note) and mark.name and mark.name not in entries:
            picture = swatch(mark.style, type(mark))
            entries[mark.name] = f"<span>{picture}{escape(mark.name)}</span>"
    return f'<div class="an-key">{"".join(entries.values())}</div>' if entries else ""
