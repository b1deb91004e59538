"""The colours of the book, read from the one file that holds them.

A colour means a ruler. What is no ruler (two runs, three rates) is drawn in shades
of ink, told apart by dashes, markers and the label at its end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

_READ = json.loads((files("anthology.lab") / "palette.json").read_text("utf-8"))
_ENTRIES = {**_READ["rulers"], **_READ["inks"]}
RULERS, INKS = tuple(_READ["rulers"]), tuple(_READ["inks"])
PAPER: Mapping[str, Mapping[str, str]] = _READ["paper"]


@dataclass(frozen=True)
class Style:
    """One entry of the palette: a ruler, or a shade of ink.

    The style sheet calls it ``--fig-name``. Figures are drawn in ``color``, the one by
    day; on a page its scheme chooses that or ``dark``. ``dashes`` are lengths of dashes
    and gaps in units of the line's width; () is solid. ``marker`` is matplotlib's; of
    l1, l2 and linf their unit ball.
    """

    name: str
    color: str
    dark: str
    dashes: tuple[float, ...]
    marker: str

    @property
    def css(self) -> str:
        """The colour on a page, with the one of the day where there is no page."""
        return f"var(--fig-{self.name},{self.color})"


class Styles(dict[Any, Style]):
    """The palette by the name of a ruler or a shade; a number counts the shades."""

    def __missing__(self, key: str | int) -> Style:
        if isinstance(key, int):
            return self[INKS[key % len(INKS)]]
        raise KeyError(f"no style {key!r}; there are {', '.join(self)}")

    @cached_property
    def by_color(self) -> dict[str, Style]:
        """The first entry of each colour by day."""
        return {entry.color: entry for entry in reversed(self.values())}


STYLES = Styles(
    (n, Style(n, e["light"], e["dark"], tuple(map(float, e["dashes"])), e["marker"]))
    for n, e in _ENTRIES.items()
)
INK = STYLES["ink"].color


def style(which: str | int, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for matplotlib's ``plot``: colour and dashes.

    ``which`` is a ruler: ``"l1"``, ``"l2"``, ``"linf"``, ``"spectral"`` or
    ``"learned"`` (a KeyError lists them for another name). For what is no ruler a
    number: 0 to 4 are shades of ink, 5 is grey for references; it counts on from 0.
    Further keyword arguments win.
    """
    entry = STYLES[which]
    line: Any = (0, entry.dashes) if entry.dashes else "-"
    return {"color": entry.color, "linestyle": line, **changes}


def css(scheme: str) -> str:
    """The palette as declarations of a style sheet, ``--fig-l1:#0a559a;…``."""
    if scheme not in ("light", "dark"):
        raise ValueError(f"the schemes are 'light' and 'dark', not {scheme!r}")
    return "".join(f"--fig-{name}:{e[scheme]};" for name, e in _ENTRIES.items())
