"""Names of parameters: all groups of an optimizer carry them, or none does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

PAIRS = (
    "their names, as ('name', tensor) pairs, such as those of "
    "model.named_parameters(), or with a list 'param_names' beside 'params'"
)


def named(groups: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name or, without names, ``"group.index"``."""
    for number, group in enumerate(groups):
        names = group.get("param_names")
        for index, p in enumerate(group["params"]):
            yield names[index] if names else f"{number}.{index}", p


def without_names(params: Any) -> list[Any]:
    """What a group is given, without the names; a set is for torch to refuse."""
    items = [params] if isinstance(params, Tensor) else params
    return [item[-1] if isinstance(item, tuple) else item for item in items]


def has_names(group: Mapping[str, Any]) -> bool:
    """Whether the parameters of a group have names."""
    return "param_names" in group or any(isinstance(x, tuple) for x in group["params"])


def with_names(
    group: Mapping[str, Any], groups: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A new group that agrees with the others on names; empty ones do as it does."""
    given = group["params"]
    if isinstance(given, set):
        return dict(group)  # torch refuses it
    items = [given] if isinstance(given, Tensor) else list(given)
    group = {**group, "params": items}
    others = {has_names(g) for g in groups if g["params"]}
    if not items:
        group.pop("param_names", None)
        every = others or {has_names(g) for g in groups}
        return {**group, "param_names": []} if True in every else group
    pairs = sum(isinstance(item, tuple) for item in items)
    if 0 < pairs < len(items):
        raise ValueError(
            "all optimizer params should be with/without names. Some param names are "
            f"missing: {pairs} of {len(items)} tensors have one. Give all {PAIRS}, or "
            "give none"
        )
    names = items if pairs else group.get("param_names", items)
    if len(names) != len(items):
        raise ValueError(
            f"'param_names' has {len(names)} names for {len(items)} parameters; give "
            "one for each, in their order"
        )
    own = has_names(group)
    if others == {not own}:
        these, those = ("with", "none") if own else ("without", "names")
        which = "the others" if own else "this group"
        raise ValueError(
            "all optimizer param groups should be with/without names. cannot add param "
            f"group {these} names to the optimizer: the groups before it have {those}. "
            f"Give {which} {PAIRS}, or give none in any group"
        )
    for empty in (g for g in groups if not g["params"]):
        empty.update({"param_names": []}) if own else empty.pop("param_names", None)
    return group
