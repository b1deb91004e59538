"""Which rule a tensor follows in an optimizer that has two."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from anthology.optim.core.base import BaseOptimizer

MUON, ADAMW = "muon", "adamw"
BY_ENTRY = {MUON: "momentum_buffer", ADAMW: "exp_avg_sq"}
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


def adopt(
    group: Mapping[str, Any], own: Mapping[str, Any], states: list[Mapping[str, Any]]
) -> dict[str, Any]:
    """A group from a checkpoint, also one of ``torch.optim.Muon``.

    Parameters
    ----------
    group : mapping
        Of the checkpoint.
    own : mapping
        The group of the optimizer, with its ``rule``.
    states : list of mapping
        The entries of the checkpoint, one a parameter.

    Returns
    -------
    dict
        With a ``rule``: where there was none, the one of which the entries are, and
        without any the own.

    Raises
    ------
    ValueError
        If it was trained with other coefficients than the published ones.
    """
    others = ("ns_coefficients", "adamw_lr")
    coefficients = group.get("ns_coefficients", PUBLISHED)
    if tuple(coefficients) != PUBLISHED:
        raise ValueError(
            f"the checkpoint has ns_coefficients={coefficients}; method 'muon' has "
            f"{PUBLISHED}, and the others have lists of their own"
        )
    adopted = {name: value for name, value in group.items() if name not in others}
    if not group.get("rule"):
        kept = {name for state in states for name in state}
        found = [rule for rule, name in BY_ENTRY.items() if name in kept]
        adopted["rule"] = found[0] if found else own["rule"]
    return adopted


def for_torch(group: Mapping[str, Any]) -> dict[str, Any]:
    """What ``torch.optim.Muon`` asks of a group where it would take the same step.

    Parameters
    ----------
    group : mapping
        Of Muon.

    Returns
    -------
    dict
        Empty where it would take another one.
    """
    norm = str(group.get("norm", ""))
    same = (
        group["rule"] == MUON
        and group["method"] == "muon"
        and group["kernel"] == "flatten"
        and group["adjust_lr_fn"] in (None, "original", "match_rms_adamw")
        and group.get("scale", 1.0) == 1.0
        and "Split" not in norm
        and "Transpose" not in norm
    )
    if not same:
        return {}
    steps = 5 if group["ns_steps"] is None else group["ns_steps"]
    return {"ns_coefficients": PUBLISHED, "eps": 1e-7, "ns_steps": steps}


class _Routed(BaseOptimizer):
    """How a group with a rule is saved and comes back."""

    def state_dict(self) -> dict[str, Any]:
        """As in the base; groups that ``torch.optim.Muon`` can step hold its names."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.update(for_torch(group))
        return saved

    def adopted(
        self,
        group: dict[str, Any],
        own: Mapping[str, Any],
        states: list[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """A group of a checkpoint, which may be one of ``torch.optim.Muon``."""
        return adopt(group, own, states)

    def late(self, group: Mapping[str, Any]) -> set[str]:
        """As in the base, and the counter of matrices, which is not used."""
        return super().late(group) | ({"step"} if group["rule"] == MUON else set())


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
