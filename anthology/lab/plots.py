"""One style for every figure: type, lines, and the colours of the palette."""

from __future__ import annotations

from anthology.lab.optional import optional
from anthology.lab.palette import INK, STYLES, style

__all__ = ["use_style"]

SHADES = 5  # of ink, through which lines without a style of their own go


def use_style() -> None:
    """Set the book's style for the figures that follow (matplotlib's rcParams)."""
    mpl = optional("matplotlib", "matplotlib")
    cycler = optional("cycler", "matplotlib").cycler

    colors = cycler(color=[STYLES[i].color for i in range(SHADES)])
    lines = cycler(linestyle=[style(i)["linestyle"] for i in range(SHADES)])
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
