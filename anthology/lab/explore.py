"""The live cell of a chapter: a function of yours with a control for each argument.

>>> from anthology import lab
>>> def double(x: float = 1.0) -> None:
...     print(f"twice {x:g} is {2 * x:g}")
>>> lab.explore(double, x=(0.0, 4.0))       # without a notebook: one plain call
twice 1 is 2
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from anthology.lab.optional import kernel, optional
from anthology.lab.ranges import Control, controls_of

__all__ = ["Explorer", "explore"]


class Explorer:
    """What :func:`explore` returns in a notebook, which shows it by itself.

    Attributes
    ----------
    controls : dict of str to widget
        By argument; to set ``controls["x"].value`` is to move the slider.
    output : widget
        Where the function prints and draws.
    """

    def __init__(
        self, widgets: Any, function: Callable[..., Any], ranges: Mapping[str, Any]
    ) -> None:
        self._function, self._ranges = function, ranges
        self.output = widgets.Output()
        self.controls = {
            name: _widget(widgets, name, control) for name, control in ranges.items()
        }
        self._box = widgets.VBox([*self.controls.values(), self.output])
        self._draw(first=True)
        for control in self.controls.values():
            control.observe(lambda change: self._draw(), names="value")

    @property
    def values(self) -> dict[str, Any]:
        """The arguments at which the controls stand."""
        return {
            name: self._ranges[name].read(control.value)
            for name, control in self.controls.items()
        }

    def _draw(self, first: bool = False) -> None:
        """Call the function and show what came; an error too, unless it is the first."""
        failed: list[Exception] = []
        with self.output:
            self.output.clear_output(wait=True)
            try:
                _call(self._function, self.values)
            except Exception as error:
                failed.append(error)
                if not first:
                    raise  # which an Output shows as a cell would
        if failed and first:
            raise failed[0]

    def _ipython_display_(self) -> None:
        _display(self._box)

    def __repr__(self) -> str:
        return f"<explore {', '.join(self.controls)}>"


def explore(function: Callable[..., Any], **ranges: Any) -> Explorer | None:
    """Play with a function: a control for each argument, redrawn at each change.

    In a notebook with ipywidgets (7.7 or newer) it shows the controls and, below
    them, what the function prints, draws with matplotlib or returns. Without
    either it calls the function once.

    Parameters
    ----------
    function : callable
        Called with keyword arguments.
    **ranges
        For each argument ``(low, high)`` or ``(low, high, step)``, of integers or
        real numbers (without a step: 1, or a hundredth of the range); a list of
        choices; True or False; a number or a text, which can be typed over.
        The first value is what is given; of a range or a list it is the
        function's default where it has one, else the low end or first choice.

    Returns
    -------
    Explorer or None
        As the last line of a cell it shows itself; None after a plain call.

    Raises
    ------
    TypeError
        For a range of another kind, or arguments the function does not take.
    ValueError
        For an empty or unbounded range, no choice, or a default outside.
    Exception
        What the first call raises. Later ones show it in place of the figure.
    """
    controls = controls_of(function, ranges)
    widgets = _widgets()
    if widgets is None:
        _call(function, {name: c.read(c.first) for name, c in controls.items()})
        return None
    return Explorer(widgets, function, controls)


def _widgets() -> Any:
    """ipywidgets where a kernel runs and has it, else None."""
    if kernel() is None:
        return None
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def _widget(widgets: Any, name: str, control: Control) -> Any:
    made = getattr(widgets, control.kind)
    settings = {"description": name.replace("_", " "), "value": control.first}
    return made(**settings, **control.settings, style={"description_width": "initial"})


def _call(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Call, then show new figures, and what was returned if it is no figure shown."""
    before = _figures()
    result = function(**values)
    drawn = [figure for number, figure in _figures().items() if number not in before]
    if kernel() is None:
        return
    for figure in drawn:
        _display(figure)
        sys.modules["matplotlib.pyplot"].close(figure)
    if result is not None and not any(result is figure for figure in drawn):
        _display(result)


def _figures() -> dict[int, Any]:
    """Open figures of matplotlib, if it was imported."""
    plt = sys.modules.get("matplotlib.pyplot")
    return {n: plt.figure(n) for n in plt.get_fignums()} if plt is not None else {}


def _display(thing: Any) -> None:
    optional("IPython.display", "ipython").display(thing)
