"""Checkpoints of an optimizer with two rules: its own, older ones, PyTorch's Muon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anthology.optim.core.checkpoint import is_state_dict
from anthology.optim.core.state import Group

from .routing import ADAMW, MUON, divided, reference

BY_ENTRY = {MUON: "momentum_buffer", ADAMW: "exp_avg_sq"}
PUBLISHED = (3.4445, -4.7750, 2.0315)
# How torch.optim.Muon steps, in the words of a group.
OF_TORCH = {
    "rule": MUON,
    "method": "muon",
    "kernel": "flatten",
    "normalize": "frobenius",
    "renormalize": None,
    "row_beta": None,
    "step_rule": "dualize",
}


def adopt(group: Group, own: Group, states: list[Group]) -> dict[str, Any]:
    """A group from a checkpoint, also an older one or one of ``torch.optim.Muon``."""
    coefficients = group.get("ns_coefficients", PUBLISHED)
    if tuple(coefficients) != PUBLISHED:
        raise ValueError(
            f"the checkpoint has ns_coefficients={coefficients}; method 'muon' has "
            f"{PUBLISHED}, and the others have lists of their own"
        )
    adopted = {name: x for name, x in group.items() if name != "ns_coefficients"}
    if group.get("rule") == ADAMW and "adamw_at" not in group:
        adopted["adamw_lr"] = adopted["adamw_at"] = reference(group["lr"])
    if not group.get("rule") and own.get("rule"):
        kept = {name for state in states for name in state}
        found = [rule for rule, name in BY_ENTRY.items() if name in kept]
        adopted["rule"] = found[0] if found else own["rule"]
    if not adopted.get("rule") and "adamw_at" not in group:
        rates = {name: own[name] for name in ("adamw_at", "adamw_lr")}
        adopted = {**rates, **adopted}
    return adopted


def for_torch(group: Group) -> dict[str, Any]:
    """What ``torch.optim.Muon`` asks of a group where it would take the same step."""
    norm = str(group.get("norm", ""))
    same = (
        {name: group.get(name) for name in OF_TORCH} == OF_TORCH
        and group["adjust_lr_fn"] in (None, "original", "match_rms_adamw")
        and group.get("scale", 1.0) == 1.0
        and "Split" not in norm
        and "Transpose" not in norm
    )
    if not same:
        return {}
    steps = 5 if group["ns_steps"] is None else group["ns_steps"]
    return {"ns_coefficients": PUBLISHED, "eps": 1e-7, "ns_steps": steps}


def rejoined(saved: dict[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    """A state dict in which each group with both rules is one again."""
    if not is_state_dict(saved):
        return saved  # for the base to refuse
    halves = [[list(map(id, h["params"])) for h in divided(dict(g))] for g in groups]
    left = [dict(group) for group in saved["param_groups"]]
    sizes = [len(half) for pair in halves for half in pair or [[]]]
    if len(left) == len(groups) or sizes != [len(group["params"]) for group in left]:
        return saved
    whole = []
    for group, pair in zip(groups, halves, strict=True):
        parts = [left.pop(0) for _ in pair or [[]]]
        if len(parts) == 2:
            order = [id(p) for p in group["params"]]
            places = [order.index(x) for half in pair for x in half]
            parts = [_one_of_two(parts, places)]
        whole += parts
    return {**saved, "param_groups": whole}


def _one_of_two(halves: list[dict[str, Any]], places: list[int]) -> dict[str, Any]:
    """One group; `places` says where the tensors of the halves stand in it."""
    muon, adamw = sorted(halves, key=lambda half: half.get("rule") != MUON)
    found = {k: v for k, v in muon.items() if k != "rule"}
    for name in {"params", "param_names"} & muon.keys():
        items = [item for half in halves for item in half[name]]
        found[name] = [items[places.index(i)] for i in range(len(items))]
    rates = [(h.get("initial_lr", h["lr"]), h["lr"]) for h in (muon, adamw)]
    for lr, rate in zip(*rates, strict=True):
        if lr:  # after a schedule both may be zero
            found["adamw_at"], found["adamw_lr"] = reference(lr), rate
            break
    return found
