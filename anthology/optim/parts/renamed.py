"""Names in parameter groups that differ from those of a constructor.

The step rule of `SteepestDescent` is its argument ``step``. In a group it is called
``step_rule``, because other packages count the steps in a group's ``step``.
"""

from __future__ import annotations

from typing import Any


def renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A group with its step rule under the name that it has there.

    Parameters
    ----------
    group : dict
        From a user, who writes ``step="steepest"`` as for the class, or from an older
        checkpoint. It is not written.

    Returns
    -------
    dict
        A text under ``step`` stands under ``step_rule``; otherwise `group` itself.
    """
    if not isinstance(group.get("step"), str):
        return group
    others = {name: value for name, value in group.items() if name != "step"}
    return {**others, "step_rule": group["step"]}


def with_names_of_today(state: dict[str, Any]) -> dict[str, Any]:
    """What ``__setstate__`` gets, from a checkpoint or a copy, with such groups.

    Parameters
    ----------
    state : dict
        ``param_groups`` and, from a copy, ``defaults`` among others.

    Returns
    -------
    dict
        The same with its groups renamed.
    """
    found = {**state, "param_groups": [renamed(g) for g in state["param_groups"]]}
    if "defaults" in found:
        found["defaults"] = renamed(found["defaults"])
    return found
