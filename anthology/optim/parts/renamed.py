"""Names in parameter groups that differ from those of a constructor.

The step rule of `SteepestDescent` is its argument ``step``. In a group it is called
``step_rule``, because other packages count the steps in a group's ``step``.
"""

from __future__ import annotations

from typing import Any


def renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A group with its step rule under the name that it has there."""
    if not isinstance(group.get("step"), str):
        return group
    others = {name: value for name, value in group.items() if name != "step"}
    return {**others, "step_rule": group["step"]}


def with_names_of_today(state: dict[str, Any]) -> dict[str, Any]:
    """What ``__setstate__`` gets, from a checkpoint or a copy, with such groups."""
    found = {**state, "param_groups": [renamed(g) for g in state["param_groups"]]}
    if "defaults" in found:
        found["defaults"] = renamed(found["defaults"])
    return found
