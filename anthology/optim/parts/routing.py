"""Which rule a tensor follows in an optimizer that has two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

MUON, ADAMW = "muon", "adamw"
PUBLISHED = (3.4445, -4.7750, 2.0315)
ELEMENTWISE = ("embedding", "head", "gain", "bias")


def rule_for(p: Tensor, group: Mapping[str, Any]) -> str:
    """The rule of one parameter.

    Parameters
    ----------
    p : Tensor
        The parameter.
    group : mapping
        Its group; ``rule`` decides, then ``role``, then the number of axes.

    Returns
    -------
    str
        "muon" or "adamw".

    Raises
    ------
    ValueError
        If the group demands "muon" for a tensor with less than two axes.
    """
    asked = group.get("rule")
    if asked == MUON and p.ndim < 2:
        raise ValueError(
            f"rule='muon' needs at least two axes, got shape {tuple(p.shape)}: "
            "leave the rule out, or say rule='adamw'"
        )
    if asked:
        return str(asked)
    return ADAMW if p.ndim < 2 or group.get("role") in ELEMENTWISE else MUON


def split_by_rule(
    group: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One group a rule, each with its own learning rate.

    Parameters
    ----------
    group : mapping
        A parameter group as a user writes it.
    defaults : mapping
        Of the optimizer; ``adamw_lr`` is the rate of "adamw".

    Returns
    -------
    list of dict
        New groups with a ``rule``, in the order of their first tensor. A group
        without parameters is one of "muon".

    Raises
    ------
    ValueError
        See `rule_for`; or if there are two rules and one rate.
    """
    given = group["params"]
    if isinstance(given, set):
        return [{**group, "rule": group.get("rule") or MUON}]  # torch refuses it
    items = [given] if isinstance(given, Tensor) else list(given)
    names = group.get("param_names")
    chosen: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        p = item[-1] if isinstance(item, tuple) else item
        # what is no tensor is for torch to refuse
        rule = rule_for(p, group) if isinstance(p, Tensor) else MUON
        chosen.setdefault(rule, []).append(index)
    if len(chosen) == 2 and "lr" in group and "adamw_lr" not in group:
        raise ValueError(
            "a group with its own lr holds tensors for Muon and for AdamW: give it "
            "an adamw_lr too, or make two groups"
        )
    parts = []
    for rule, members in (chosen or {group.get("rule") or MUON: []}).items():
        part = {**group, "params": [items[i] for i in members], "rule": rule}
        if names is not None:
            part["param_names"] = [names[i] for i in members]
        if rule == ADAMW and ("adamw_lr" in group or "lr" not in group):
            part["lr"] = group.get("adamw_lr", defaults["adamw_lr"])
        parts.append(part)
    return parts


def adopt(group: dict[str, Any]) -> None:
    """Complete a group from a checkpoint of ``torch.optim.Muon``.

    Parameters
    ----------
    group : dict
        Written in place: it gets the rule "muon" if it has none.

    Raises
    ------
    ValueError
        If it was trained with other coefficients than the published ones.
    """
    coefficients = group.pop("ns_coefficients", PUBLISHED)
    if tuple(coefficients) != PUBLISHED:
        raise ValueError(
            f"the checkpoint has ns_coefficients={coefficients}; method 'muon' has "
            f"{PUBLISHED}, and the others have lists of their own"
        )
    group.setdefault("rule", MUON)


def in_words(
    groups: Sequence[Mapping[str, Any]], factor: Callable[[Tensor, Any], float]
) -> str:
    """Name, shape, rule and rate of every parameter, one line each.

    Parameters
    ----------
    groups : sequence of mapping
        Of the optimizer.
    factor : callable
        What the polar factor of a parameter is multiplied by, from it and its group.

    Returns
    -------
    str
        A table.
    """
    lines = []
    for number, group in enumerate(groups):
        names = group.get("param_names")
        for index, p in enumerate(group["params"]):
            name = names[index] if names else f"{number}.{index}"
            shape = "×".join(map(str, p.shape)) or "scalar"
            matrix = group["rule"] == MUON and p.numel()
            note = f"UVᵀ × {factor(p, group):.4g}" if matrix else ""
            rate = f"lr {float(group['lr']):.4g}"
            lines.append((name, shape, group["rule"], rate, note))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(c.ljust(w) for c, w in r).rstrip() for r in rows)
