"""One style for every figure: type, lines, the palette, and figures as SVG."""

from __future__ import annotations

from typing import Any

from anthology.lab.native import svg
from anthology.lab.optional import kernel, optional
from anthology.lab.palette import INK, PAPER, STYLES, style

__all__ = ["use_style"]

SHADES = 5  # of ink, through which lines without a style of their own go
SIZE = 12  # points; a phone shows them in a figure of 5 inches at 11 pixels


def use_style() -> None:
    """Set the book's style for the figures that follow.

    Sets matplotlib's rcParams; in a notebook figures are shown as SVG that
    follows the page from day to night, in place of PNG. Keep a figure, or each of its columns, at most 5.1 inches wide:
    so its labels can be read on a phone.
    """
    mpl = optional("matplotlib", "matplotlib")
    cycler = optional("cycler", "matplotlib").cycler

    colors = cycler(color=[STYLES[i].color for i in range(SHADES)])
    lines = cycler(linestyle=[style(i)["linestyle"] for i in range(SHADES)])
    page = PAPER["page"]["light"]
    mpl.rcParams.update(
        {
            "figure.figsize": (5.0, 3.0),
            "figure.dpi": 110,
            "figure.facecolor": page,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": page,
            "savefig.dpi": 110,
            "axes.facecolor": page,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "axes.linewidth": 0.8,
            "axes.titlesize": 13,
            "axes.titlelocation": "left",
            "axes.labelsize": SIZE,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": colors + lines,
            "grid.color": INK,
            "grid.alpha": 0.12,
            "grid.linewidth": 0.6,
            "lines.linewidth": 2.2,
            "lines.markersize": 5,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": SIZE,
            "ytick.labelsize": SIZE,
            "text.color": INK,
            "font.family": "DejaVu Sans",
            "font.size": SIZE,
            "mathtext.fontset": "dejavusans",
            "legend.frameon": False,
            "legend.fontsize": SIZE,
            "image.cmap": "cividis",
        }
    )
    if (shell := kernel()) is not None:
        _show_as_svg(shell)


def _show_as_svg(shell: Any) -> None:
    """Figures of this kernel by ``svg`` and by nothing else."""
    figure = optional("matplotlib.figure", "matplotlib")
    inline = optional("matplotlib_inline.config", "matplotlib-inline")
    inline.InlineBackend.instance(parent=shell).figure_formats = set()
    # the backend, which loads later, forgets what is known of Figure itself
    formatter = shell.display_formatter.formatters["image/svg+xml"]
    formatter.for_type(figure.FigureBase, svg)
    shell.display_formatter.formatters["image/png"].pop(figure.Figure, None)
