"""Which rule a tensor follows in an optimizer that has two, and PyTorch's Muon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from anthology.optim.core.decay import PEAK
from anthology.optim.core.limits import at_least_zero, number, one_of
from anthology.optim.core.names import without_names
from anthology.optim.core.state import Group

from ..param_norm import spec
from .orthogonal import factors

MUON, ADAMW = "muon", "adamw"
RATE = 1e-3  # the default lr
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
    "constrain": None,
}
ELEMENTWISE = ("embedding", "head", "gain", "bias", "entrywise", "depthwise")


def rule_for(p: Tensor, group: Group) -> str:
    """The rule of one parameter."""
    asked = group.get("rule")
    if asked == MUON and p.ndim < 2:
        raise ValueError(
            f"rule='muon' needs at least two axes, got shape {tuple(p.shape)}: "
            "leave the rule out, or say rule='adamw'"
        )
    if asked:
        return str(asked)
    return ADAMW if p.ndim < 2 or group.get("role") in ELEMENTWISE else MUON


def check_routes(group: Group) -> None:
    """Refuse what says wrongly how tensors are routed, and at which rates."""
    one_of("rule", group.get("rule") or MUON, (MUON, ADAMW))
    if not 0.0 < number("scale", group.get("scale", 1.0)) < float("inf"):
        raise ValueError(f"Invalid scale: {group['scale']}; it must be positive")
    spec(group.get("norm"))
    adamw_lr = group["adamw_lr"]
    if isinstance(adamw_lr, Tensor) and adamw_lr.numel() != 1:
        raise ValueError("Tensor adamw_lr must be 1-element")
    at_least_zero("adamw learning rate", adamw_lr)
    if not 0.0 < number("adamw_at", group["adamw_at"]) < float("inf"):
        raise ValueError(
            f"Invalid adamw_at: {group['adamw_at']}; it must be positive: the lr "
            "at which the rate of AdamW is adamw_lr"
        )


def rates_settled(group: Group) -> dict[str, Any]:
    """A group in which the rule is written, if it is one, and the rate of AdamW."""
    given = group["params"]
    if isinstance(given, set):
        return dict(group)  # torch refuses it
    group = {**group, "params": [given] if isinstance(given, Tensor) else list(given)}
    tensors = without_names(group["params"])
    # what is no tensor is for torch to refuse
    rules = {rule_for(p, group) for p in tensors if isinstance(p, Tensor)}
    if len(rules) == 1:
        group["rule"] = min(rules)
    if "lr" not in group or "adamw_at" in group:
        return group
    if len(rules) == 2 and "adamw_lr" not in group:
        raise ValueError(
            "a group with its own lr holds tensors for Muon and for AdamW: give it "
            "an adamw_lr too, or make two groups"
        )
    group["adamw_at"] = reference(group["lr"])
    if rules == {ADAMW}:
        group.setdefault("adamw_lr", group["adamw_at"])
    return group


def reference(lr: Any) -> Any:
    """The lr at which the rate of AdamW is ``adamw_lr``."""
    if isinstance(lr, Tensor) and lr.numel() == 1:
        lr = lr if lr.requires_grad and lr else float(lr)
    return RATE if isinstance(lr, int | float) and lr == 0 else lr


def divided(group: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rule sees of a group."""
    chosen: dict[str, list[Tensor]] = {}
    if group.get("rule") and group["params"]:  # the rule of all of them
        chosen[str(group["rule"])] = group["params"]
    else:
        for p in group["params"]:
            chosen.setdefault(rule_for(p, group), []).append(p)
    return [{**seen_by(rule, group), "params": ps} for rule, ps in chosen.items()]


def seen_by(rule: str, group: Group) -> dict[str, Any]:
    """A group with its ``rule``, and with the rate of that rule as its ``lr``."""
    seen = {k: v for k, v in group.items() if k not in ("adamw_at", "param_names")}
    if rule == ADAMW and "adamw_at" in group:
        lr, at, peak = map(_scalar, (group["lr"], group["adamw_at"], group["adamw_lr"]))
        seen["lr"] = peak * (lr / at)
        if PEAK in group:
            seen[PEAK] = peak * (_scalar(group[PEAK]) / at)
    if rule == ADAMW:
        own = {"betas": group["adamw_betas"], "eps": group["adamw_eps"]}
        seen |= {**own, "amsgrad": False, "fused": None}
    return {**seen, "rule": rule}


def adopt(group: Group, own: Group, states: list[Group]) -> dict[str, Any]:
    """A group from a checkpoint, which may be one of ``torch.optim.Muon``."""
    coefficients = group.get("ns_coefficients", PUBLISHED)
    if tuple(coefficients) != PUBLISHED:
        raise ValueError(
            f"the checkpoint has ns_coefficients={coefficients}; method 'muon' has "
            f"{PUBLISHED}, and the others have lists of their own"
        )
    adopted = {name: x for name, x in group.items() if name != "ns_coefficients"}
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


def _scalar(x: Any) -> Any:
    return x.reshape(()) if isinstance(x, Tensor) else x


def in_words(groups: Sequence[Group]) -> str:
    """Name, shape, rule and rate of every parameter, one line each."""
    lines = []
    for place, group in enumerate(groups):
        names = group.get("param_names")
        for index, p in enumerate(group["params"]):
            name = names[index] if names else f"{place}.{index}"
            shape = "×".join(map(str, p.shape)) or "scalar"
            seen, note = seen_by(rule_for(p, group), group), ""
            if seen["rule"] == MUON and p.numel():
                sizes = dict.fromkeys(f"{s:.4g}" for s in factors(p, seen))
                note = f"UVᵀ × {' or '.join(sizes)}"
            rate = f"lr {float(seen['lr']):.4g}"
            lines.append((name, shape, seen["rule"], rate, note))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(c.ljust(w) for c, w in r).rstrip() for r in rows)
