"""The live cell of a chapter: a function of yours with a control for each argument.

>>> from anthology import lab
>>> def double(x: float = 1.0) -> None:
...     print(f"twice {x:g} is {2 * x:g}")
>>> lab.explore(double, x=(0.0, 4.0))       # without a notebook: one plain call
twice 1 is 2
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .runtime import kernel, optional

_RIGHT = "give (low, high) or (low, high, step), a list of choices, "
_RIGHT += "True or False, a number or a text"
_NONE = inspect.Parameter.empty  # no default
_LATE: Mapping[str, Any] = {"continuous_update": False}  # redraw on release
_TYPED = {bool: "Checkbox", str: "Text", int: "IntText", float: "FloatText"}


class Control(NamedTuple):
    """The widget of one argument, by what ipywidgets 7 and 8 both have."""

    kind: str
    first: Any
    settings: Mapping[str, Any]
    choices: list[Any] | None = None

    def read(self, value: Any) -> Any:
        """The argument where the widget stands at ``value``."""
        return value if self.choices is None else self.choices[value]


class Explorer:
    """What :func:`explore` returns in a notebook, which shows it by itself.

    ``controls`` are the widgets by argument: to set ``controls["x"].value`` is to move
    the slider. The function prints and draws in the widget ``output``.
    """

    def __init__(
        self, widgets: Any, function: Callable[..., Any], ranges: Mapping[str, Control]
    ) -> None:
        self._function, self._ranges = function, ranges
        self.output = widgets.Output()
        look = {"style": {"description_width": "initial"}}
        self.controls = {
            name: getattr(widgets, c.kind)(
                description=name.replace("_", " "), value=c.first, **look, **c.settings
            )
            for name, c in ranges.items()
        }
        self._box = widgets.VBox([*self.controls.values(), self.output])
        self._draw(first=True)
        for control in self.controls.values():
            control.observe(lambda change: self._draw(), names="value")

    @property
    def values(self) -> dict[str, Any]:
        """The arguments at which the controls stand."""
        return {n: self._ranges[n].read(c.value) for n, c in self.controls.items()}

    def _draw(self, first: bool = False) -> None:
        """Call the function and show what came; an error too, unless it is the first."""
        failed = None
        with self.output:
            self.output.clear_output(wait=True)
            try:
                _shown_call(self._function, self.values)
            except Exception as error:
                if not first:
                    raise  # which an Output shows as a cell would
                failed = error
        if failed:
            raise failed

    def _ipython_display_(self) -> None:
        _display(self._box)

    def __repr__(self) -> str:
        return f"<explore {', '.join(self.controls)}>"


def explore(function: Callable[..., Any], **ranges: Any) -> Explorer | None:
    """Play with a function: a control for each argument, redrawn at each change.

    In a notebook with ipywidgets (7.7 or newer) it shows the controls and, below
    them, what the function prints, draws with matplotlib or returns; as the last line
    of a cell it shows itself. Without either it calls the function once, for None.

    Parameters
    ----------
    function : callable
        Called with keyword arguments. What the first call raises is raised; later ones
        show it in place of the figure.
    **ranges
        For each argument ``(low, high)`` or ``(low, high, step)``, of integers or
        real numbers (without a step: 1, or a hundredth of the range); a list of
        choices; True or False; a number or a text, which can be typed over.
        The first value is what is given; of a range or a list it is the
        function's default where it has one, else the low end or first choice.

    Raises
    ------
    TypeError, ValueError
        For a range of another kind, or arguments the function does not take; for an
        empty or unbounded range, no choice, or a default outside.
    """
    controls = controls_of(function, ranges)
    try:
        widgets = kernel() and optional("ipywidgets", "ipywidgets")
    except ImportError:
        widgets = None
    if widgets is None:
        _shown_call(function, {name: c.read(c.first) for name, c in controls.items()})
        return None
    return Explorer(widgets, function, controls)


def controls_of(
    function: Callable[..., Any], ranges: Mapping[str, Any]
) -> dict[str, Control]:
    """The control of each argument; errors as in :func:`explore`."""
    signature = inspect.signature(function)
    try:
        signature.bind(**ranges)
    except TypeError as error:
        raise TypeError(
            f"{error}; the function takes ({', '.join(signature.parameters)}), "
            f"the ranges are for ({', '.join(ranges)})"
        ) from None
    defaults = {name: p.default for name, p in signature.parameters.items()}
    return {
        name: _control(name, given, defaults.get(name, _NONE))
        for name, given in ranges.items()
    }


def _control(name: str, given: Any, default: Any) -> Control:
    if isinstance(given, list):
        return _dropdown(name, given, default)
    if isinstance(given, tuple) and len(given) in (2, 3) and all(map(_is_real, given)):
        return _slider(name, given, default)
    for kind, widget in _TYPED.items():
        if isinstance(given, kind):
            return Control(widget, given, {} if kind is bool else _LATE)
    raise TypeError(f"{name}={given!r} is no range; {_RIGHT}")


def _slider(name: str, given: tuple[Any, ...], default: Any) -> Control:
    low, high = given[:2]
    whole = all(isinstance(x, int) for x in given)
    step = given[2] if len(given) == 3 else 1 if whole else (high - low) / 100
    if not all(map(math.isfinite, given)) or not low < high:
        raise ValueError(f"{name}={given!r}: give finite numbers, low before high")
    if not 0 < step <= high - low:
        right = "the step must be above 0 and at most high - low"
        raise ValueError(f"{name}={given!r}: {right}")
    first = low if default is _NONE else default
    if not _is_real(first) or not low <= first <= high:
        what = f"{name}={given!r} does not hold the function's default {first!r}"
        raise ValueError(f"{what}; widen the range or change the default")
    settings = {"min": low, "max": high, "step": step, **_LATE}
    if whole and isinstance(first, int):
        return Control("IntSlider", first, settings)
    # two digits more than the step, so that a slider never shows "0.00"
    digits = max(0, 1 - math.floor(math.log10(step)))
    return Control("FloatSlider", first, {**settings, "readout_format": f".{digits}f"})


def _dropdown(name: str, given: list[Any], default: Any) -> Control:
    if not given:
        raise ValueError(f"{name}=[] has no choice; {_RIGHT}")
    # by identity first: tensors and arrays have no single truth of equality
    same = [i for i, x in enumerate(given) if x is default]
    if isinstance(default, (int, float, str)):
        alike = [type(x) is type(default) and x == default for x in given]
        same += [i for i, is_it in enumerate(alike) if is_it]
    if default is not _NONE and not same:
        what = f"{name}: the choices do not hold the function's default {default!r}"
        raise ValueError(f"{what}; add it or change the default")
    # a function or class by its name
    options = [(str(getattr(x, "__name__", x)), i) for i, x in enumerate(given)]
    return Control("Dropdown", (same or [0])[0], {"options": options}, list(given))


def _is_real(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _shown_call(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Call, then show new figures, and what was returned if it is no figure shown."""
    before = _open_figures()
    result = function(**values)
    drawn = [f for n, f in _open_figures().items() if n not in before]
    if kernel() is None:
        return
    for figure in drawn:
        _display(figure)
        sys.modules["matplotlib.pyplot"].close(figure)
    if result is not None and not any(result is figure for figure in drawn):
        _display(result)


def _open_figures() -> dict[int, Any]:
    """Open figures of matplotlib, if it was imported."""
    plt = sys.modules.get("matplotlib.pyplot")
    return {n: plt.figure(n) for n in plt.get_fignums()} if plt is not None else {}


def _display(thing: Any) -> None:
    optional("IPython.display", "ipython").display(thing)
