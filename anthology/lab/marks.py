"""The words of a slider figure: axes, panels, and the marks drawn on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, LEFT, RIGHT = 340.0, 46.0, 14.0  # of a panel and its margins, in pixels


@dataclass(frozen=True)
class Line:
    """A line through points; NaN or an infinity leaves a gap.

    ``x`` and ``y`` are lists, tensors or arrays of one length, ``name`` the entry in
    the legend, which marks of the same name share, ``style`` a ruler's name or a
    number of ``lab.STYLES``, and ``width`` in pixels.
    """

    x: Any
    y: Any
    name: str = ""
    style: str | int = 0
    width: float = 2.0


@dataclass(frozen=True)
class Points:
    """Dots at points; NaN or an infinity draws none. Fields as in Line."""

    x: Any
    y: Any
    name: str = ""
    style: str | int = 0
    radius: float = 3.5


@dataclass(frozen=True)
class Arrow:
    """An arrow from one (x, y) to another."""

    start: Any
    end: Any
    name: str = ""
    style: str | int = 0
    width: float = 2.0


@dataclass(frozen=True)
class Region:
    """A filled polygon with a pale face; fields as in Line."""

    x: Any
    y: Any
    name: str = ""
    style: str | int = 5


@dataclass(frozen=True)
class Note:
    """A short text at a point, whose ``anchor`` is its "start", "middle" or "end".

    A ``style`` puts a sign of it before the text, to name a line where it runs.
    """

    x: float
    y: float
    text: str
    style: str | int | None = None
    anchor: str = "start"


Mark = Line | Points | Arrow | Region | Note


@dataclass(frozen=True)
class Axis:
    """One axis of a panel.

    The ``label`` says what is measured, with its unit. The ends are finite, ``low``
    below ``high``, and positive on a logarithmic axis, else a ValueError; ``ticks`` are
    where to write numbers, chosen well if not given.
    """

    label: str
    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"axis {self.label!r}: both ends must be finite")
        if not self.low < self.high:
            raise ValueError(f"axis {self.label!r}: low must be below high")
        if self.log and self.low <= 0:
            raise ValueError(f"axis {self.label!r}: a log axis starts above 0")

    def share(self, value: float) -> float:
        """Where a value stands, 0 at low and 1 at high; NaN if nowhere."""
        if not math.isfinite(value) or (self.log and value <= 0):
            return math.nan
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def chosen_ticks(self) -> list[float]:
        """The ticks: given, powers of ten, or three to seven round numbers."""
        if self.ticks is not None:
            return [*map(float, self.ticks)]
        if self.log:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / 6))
            return [10.0**k for k in range(first, last + 1, every)]
        rough = (self.high - self.low) / 4
        scale = 10.0 ** math.floor(math.log10(rough))
        step = min((1, 2, 5, 10), key=lambda m: abs(m * scale - rough)) * scale
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


@dataclass(frozen=True)
class Panel:
    """One picture beside others, with its axes, a title, and marks that never move.

    The ``background`` is drawn once, under the frames. The plotting area is 280 pixels
    wide and ``height`` high; if ``equal``, so that one unit is equally long on both
    (linear) axes.
    """

    x: Axis
    y: Axis
    title: str = ""
    background: Sequence[Mark] = ()
    equal: bool = False
    height: float = 220.0

    @property
    def inner(self) -> tuple[float, float]:
        """Width and height of the plotting area, in pixels."""
        width = WIDTH - LEFT - RIGHT
        if not self.equal:
            return width, self.height
        return width, width * (self.y.high - self.y.low) / (self.x.high - self.x.low)

    @property
    def top(self) -> float:
        """Room above the plotting area, in pixels."""
        return 26.0 if self.title else 10.0
