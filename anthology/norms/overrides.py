"""What a user says of single parameters, after the rules have spoken."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from anthology.norms.base import Norm, positive
from anthology.norms.metrized import Row
from anthology.norms.vector import RMS

Selector = type[nn.Module] | str | Callable[[str, Tensor, nn.Module], bool]
Override = tuple[Selector, Norm | dict[str, Any]]
Owners = Sequence[tuple[str, nn.Module]]


def overridden(
    rows: Sequence[Row], owners: Sequence[Owners], overrides: Sequence[Override]
) -> list[Row]:
    """The rows with what the user wants changed."""
    rows = list(rows)
    for selector, change in _checked(overrides):
        hits = [
            i
            for i, row in enumerate(rows)
            if _selects(selector, owners[i], row.param) and _fits(change, row)
        ]
        if not hits:
            raise ValueError(
                f"the override ({selector!r}, {change!r}) fits no parameter of the "
                f"model (names: {', '.join(row.name for row in rows[:8])}, …)"
            )
        for i in hits:
            rows[i] = _changed(rows[i], change)
    return rows


def _checked(overrides: Sequence[Override]) -> Sequence[Override]:
    for override in overrides:
        if not isinstance(override, tuple | list) or len(override) != 2:
            raise TypeError(
                f"an override is a pair (selector, Norm or dict), got {override!r}"
            )
        selector, change = override
        if isinstance(selector, type):
            known = issubclass(selector, nn.Module)
        else:
            known = isinstance(selector, str) or callable(selector)
        if not known:
            raise TypeError(
                "a selector is a module type, a glob or a function "
                f"(name, param, module), got {selector!r}"
            )
        norm = change.get("norm", RMS()) if isinstance(change, dict) else change
        if not isinstance(norm, Norm):
            raise TypeError(f"an override needs a Norm or a dict, got {change!r}")
        if isinstance(change, dict) and {"params", "param_names"} & set(change):
            raise ValueError("an override cannot set the parameters of a group")
    return overrides


def _selects(selector: Selector, owners: Owners, param: Tensor) -> bool:
    if isinstance(selector, str):
        return any(fnmatchcase(name, selector) for name, _ in owners)
    if isinstance(selector, type):
        return any(isinstance(module, selector) for _, module in owners)
    return any(selector(name, param, module) for name, module in owners)


def _fits(change: Norm | dict[str, Any], row: Row) -> bool:
    norm = change.get("norm") if isinstance(change, dict) else change
    return norm is None or norm.ndim <= max(1, row.param.ndim)


def _changed(row: Row, change: Norm | dict[str, Any]) -> Row:
    settings: dict[str, Any] = (
        dict(change) if isinstance(change, dict) else {"norm": change}
    )
    norm = settings.pop("norm", row.norm)
    if norm.ndim > 1:
        norm._check(row.param)
    return replace(
        row,
        norm=norm,
        role=settings.pop("role", row.role),
        why="by an override",
        scale=positive(settings.pop("scale", row.scale), "scale"),
        settings={**row.settings, **settings},
    )
