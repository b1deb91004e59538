"""What a range given to ``lab.explore`` means: which control, from where to where.

The widgets and their settings are those that ipywidgets 7 and 8 both have.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Control", "controls_of"]

_RIGHT = (
    "give (low, high) or (low, high, step), a list of choices, "
    "True or False, a number or a text"
)
_NONE = inspect.Parameter.empty  # no default
_LATE: Mapping[str, Any] = {"continuous_update": False}  # redraw on release


@dataclass(frozen=True)
class Control:
    """What stands for one argument."""

    kind: str
    first: Any
    settings: Mapping[str, Any]
    choices: tuple[Any, ...] | None = None

    def read(self, value: Any) -> Any:
        """The argument where the widget stands at ``value``."""
        return value if self.choices is None else self.choices[value]


def controls_of(
    function: Callable[..., Any], ranges: Mapping[str, Any]
) -> dict[str, Control]:
    """The control of each argument; errors as in :func:`anthology.lab.explore`."""
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
    if isinstance(given, tuple):
        return _slider(name, given, default)
    if isinstance(given, list):
        return _dropdown(name, given, default)
    if isinstance(given, bool):
        return Control("Checkbox", given, {})
    if isinstance(given, str):
        return Control("Text", given, _LATE)
    if isinstance(given, int):
        return Control("IntText", given, _LATE)
    if isinstance(given, float):
        return Control("FloatText", given, _LATE)
    raise TypeError(f"{name}={given!r} is no range; {_RIGHT}")


def _slider(name: str, given: tuple[Any, ...], default: Any) -> Control:
    if len(given) not in (2, 3) or not all(map(_is_number, given)):
        raise TypeError(f"{name}={given!r} is no range; {_RIGHT}")
    low, high = given[:2]
    whole = all(isinstance(x, int) for x in given)
    step = given[2] if len(given) == 3 else 1 if whole else (high - low) / 100
    if not all(map(math.isfinite, given)) or not low < high:
        raise ValueError(f"{name}={given!r}: give finite numbers, low before high")
    if not 0 < step <= high - low:
        raise ValueError(
            f"{name}={given!r}: the step must be above 0 and at most high - low"
        )
    first = low if default is _NONE else default
    if not _is_number(first) or not low <= first <= high:
        raise ValueError(
            f"{name}={given!r} does not hold the function's default {first!r}; "
            "widen the range or change the default"
        )
    settings = {"min": low, "max": high, "step": step, **_LATE}
    if whole and isinstance(first, int):
        return Control("IntSlider", first, settings)
    # two digits more than the step, so that a slider never shows "0.00"
    digits = max(0, 1 - math.floor(math.log10(step)))
    return Control("FloatSlider", first, {**settings, "readout_format": f".{digits}f"})


def _dropdown(name: str, given: Sequence[Any], default: Any) -> Control:
    if not given:
        raise ValueError(f"{name}=[] has no choice; {_RIGHT}")
    first = 0
    if default is not _NONE:
        # by identity first: tensors and arrays have no single truth of equality
        same = [i for i, x in enumerate(given) if x is default] or [
            i for i, x in enumerate(given) if _equal(x, default)
        ]
        if not same:
            raise ValueError(
                f"{name}: the choices do not hold the function's default {default!r}; "
                "add it or change the default"
            )
        first = same[0]
    options = [(_said(x), i) for i, x in enumerate(given)]
    return Control("Dropdown", first, {"options": options}, tuple(given))


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _equal(x: Any, y: Any) -> bool:
    return type(x) is type(y) and isinstance(x, (int, float, str)) and x == y


def _said(choice: Any) -> str:
    """A choice as text: the name of a function or class, else its str."""
    return str(getattr(choice, "__name__", choice))
