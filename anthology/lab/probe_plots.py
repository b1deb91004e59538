"""Figures of what a probe wrote down.

>>> from anthology import lab
>>> rows = [{"step": k, "loss": 1 / k, "layers": {"w": {"error": 0.1 * k}}}
...         for k in range(1, 5)]
>>> figure = lab.probe_curves(rows, ["loss"])          # one panel a figure
>>> figure = lab.probe_layers(rows, "error")           # layers by steps, in colour
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from .labels import label_lines
from .palette import style
from .runtime import optional

Records = Sequence[Mapping[str, Any]]

_LABELS = {
    "loss": "loss on the batch",
    "fall": "fall of the loss",
    "gain": "promised fall",
    "error": "½‖Δ²w‖/‖Δw‖",
    "turn": "½‖change of ∇f‖/‖∇f‖",
    "overshoot": "overshoot",
    "product": "ηλ_max",
    "penalty": "φ(∇f)",
    "size": "‖Δw‖",
    "dual": "‖∇f‖_*",
}
# where the motion along the step ends, and where the step leads nowhere
_ENDS = {"overshoot": (1.0, 2.0), "error": (0.5, 1.0), "turn": (0.5, 1.0)}


def probe_curves(records: Records, figures: Sequence[str] | None = None) -> Any:
    """Figures of the whole model against the step, from ``probe.records``.

    One panel for each of the names, such as ``"loss"``, ``"overshoot"`` (a ValueError
    for one that is not there); by default all there are of loss, overshoot, error,
    product and penalty. With ``"product"`` and ``"overshoot"`` their limits are drawn.
    """
    wanted = ("loss", "overshoot", "error", "product", "penalty")
    there = {key for row in records for key in row}
    figures = [f for f in wanted if f in there] if figures is None else figures
    _must_be(figures, there)
    figure, panels = _panels(len(figures))
    for panel, name in zip(panels, figures, strict=True):
        rows = [row for row in records if name in row]
        steps = [row["step"] for row in rows]
        dot = {"marker": "o"} if len(rows) == 1 else {}
        panel.plot(steps, [row[name] for row in rows], **style(0, **dot))
        if name == "product":
            for index, limit in enumerate(("limit", "stable"), start=1):
                values = [row.get(limit, math.nan) for row in rows]
                look = style(index, linewidth=1.2, **dot)
                panel.plot(steps, values, **look, label=limit)
            panel.set_yscale("log")
            label_lines(panel)
        for mark in _ENDS.get(name, ()):
            panel.axhline(mark, **style(5, linewidth=1.0))
        panel.set_ylabel(_LABELS.get(name, name))
    panels[-1].set_xlabel("step")
    return figure


def probe_layers(
    records: Records, figure: str = "error", *, most: float | None = None
) -> Any:
    """One figure of every layer against the step, as colours, from ``probe.records``.

    Its name is such as ``"error"``, ``"overshoot"``, ``"dual"`` (a ValueError if no
    layer has it); a layer without a value is left white. The colours end at ``most``:
    by default 2 for an overshoot, else the largest value.
    """
    plt = optional("matplotlib.pyplot", "matplotlib")
    _must_be([figure], {k for r in records for x in r["layers"].values() for k in x})
    rows = [row for row in records if any(figure in x for x in row["layers"].values())]
    layers = list(dict.fromkeys(name for row in rows for name in row["layers"]))
    values = [
        [row["layers"].get(name, {}).get(figure, math.nan) for row in rows]
        for name in layers
    ]
    drawn, panel = plt.subplots(figsize=(5.0, 1.2 + 0.24 * len(layers)))
    least = min([0.0, *(x for row in values for x in row if math.isfinite(x))])
    if figure == "overshoot":
        least, most = 0.0, 2.0 if most is None else most
    ends = {"vmin": least, "vmax": most}
    image = panel.imshow(values, aspect="auto", interpolation="nearest", **ends)
    panel.set_yticks(range(len(layers)), layers)
    shown = range(0, len(rows), max(1, len(rows) // 6))
    panel.set_xticks(list(shown), [rows[i]["step"] for i in shown])
    panel.set_xlabel("step")
    panel.grid(False)
    drawn.colorbar(image, label=_LABELS.get(figure, figure))
    return drawn


def probe_symmetries(records: Records) -> Any:
    """Lengths and sums along symmetries: measured lines, predicted dashes.

    One panel a symmetry; a ValueError if the ``probe.records`` have none.
    """
    rows = [row for row in records if row.get("symmetries")]
    if not rows:
        raise ValueError("the records have no symmetries; give them to the probe")
    names = list(rows[-1]["symmetries"])
    figure, panels = _panels(len(names))
    for panel, name in zip(panels, names, strict=True):
        held = [row for row in rows if name in row["symmetries"]]
        steps = [row["step"] for row in held]
        for index, key in enumerate(("measured", "predicted")):
            values = [row["symmetries"][name][key] for row in held]
            panel.plot(steps, values, **style(index), label=key)
        panel.set_title(textwrap.fill(name, 60))
    label_lines(panels[0])
    panels[-1].set_xlabel("step")
    return figure


def _panels(count: int) -> tuple[Any, list[Any]]:
    plt = optional("matplotlib.pyplot", "matplotlib")
    size = (5.0, 0.6 + 1.8 * count)
    figure, panels = plt.subplots(count, sharex=True, figsize=size, squeeze=False)
    return figure, list(panels[:, 0])


def _must_be(figures: Sequence[str], there: set[str]) -> None:
    for name in figures or ["figures"]:
        if name not in there:
            known = ", ".join(sorted(there)) or "none"
            raise ValueError(f"the records have no {name!r}; there are {known}")
