"""One style for every figure: colours, line styles, type.

The colours are those of Okabe and Ito that keep a contrast of 3:1 both on
white and on a dark page, so the same ones serve the printed pictures and the
sliders; lines differ in their dashes too, so colour never stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from anthology.lab.optional import optional

__all__ = ["INK", "STYLES", "Style", "style", "use_style"]

INK = "#222222"


@dataclass(frozen=True)
class Style:
    """One entry of the palette.

    Attributes
    ----------
    name : str
        What the colour is called.
    color : str
        Hexadecimal colour.
    dashes : tuple of float
        Lengths of dashes and gaps in units of the line's width; () is solid.
    marker : str
        The marker matplotlib draws.
    """

    name: str
    color: str
    dashes: tuple[float, ...]
    marker: str


STYLES = (
    Style("blue", "#0072B2", (), "o"),
    Style("vermillion", "#D55E00", (5.0, 2.0), "s"),
    Style("green", "#009E73", (1.2, 1.8), "^"),
    Style("purple", "#BF6494", (6.0, 2.0, 1.2, 2.0), "D"),
    Style("amber", "#B47C00", (3.0, 1.5), "v"),
    Style("grey", "#7A7A7A", (), "x"),
)


def style(index: int, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for matplotlib's ``plot``: colour and dashes.

    Parameters
    ----------
    index : int
        0 blue solid, 1 vermillion dashed, 2 green dotted, 3 purple dash-dot,
        4 amber short dashes, 5 grey solid (for references); counts on from 0.
    **changes
        Further keyword arguments, which win.
    """
    entry = STYLES[index % len(STYLES)]
    line: Any = (0, entry.dashes) if entry.dashes else "-"
    return {"color": entry.color, "linestyle": line, **changes}


def use_style() -> None:
    """Set the book's style for the figures that follow (matplotlib's rcParams)."""
    mpl = optional("matplotlib", "matplotlib")
    cycler = optional("cycler", "matplotlib").cycler

    main = STYLES[:-1]
    colors = cycler(color=[s.color for s in main])
    lines = cycler(linestyle=[style(i)["linestyle"] for i in range(len(main))])
    mpl.rcParams.update(
        {
            "figure.figsize": (6.4, 3.6),
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "savefig.dpi": 110,
            "axes.facecolor": "white",
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": colors + lines,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "lines.linewidth": 2.0,
            "lines.markersize": 5,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "text.color": INK,
            "font.family": "DejaVu Sans",
            "font.size": 10.5,
            "mathtext.fontset": "dejavusans",
            "legend.frameon": False,
            "legend.fontsize": 10,
            "image.cmap": "cividis",
        }
    )
