"""What can be said of an optimizer's step without taking it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology import optim
from anthology.norms import L2, LInf, Norm, Spectral
from anthology.optim.core.decay import note_peaks
from anthology.optim.core.decay import share as decay_share
from anthology.optim.parts.param_norm import norm_for

Group = Mapping[str, Any]

_PLAIN = (torch.optim.SGD, optim.SGD)
_ADAM = (torch.optim.Adam, torch.optim.AdamW, optim.Adam, optim.AdamW)
# their decay passes through the root, unless they say otherwise
_ROOTED_DECAY = (
    optim.Adam,
    torch.optim.Adam,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)
_ROOT_FREE = (optim.RootFreeRMSProp, optim.RootFreeAdamW)
_EUCLIDEAN = ("SGD", "ASGD", "LBFGS")
_ROOTED_HERE = {torch.optim.RMSprop: "square_avg", torch.optim.Adagrad: "sum"}


def own_norm(optimizer: torch.optim.Optimizer, p: Tensor, group: Group) -> Norm:
    """The norm in which an optimizer measures a step of one tensor."""
    given: Norm | str | None = group.get("norm")
    card = getattr(optimizer, "card", None)
    text = card.norm if isinstance(card, optim.Card) else ""
    if given is not None or text.startswith("any"):
        return norm_for(p, given)
    name = type(optimizer).__name__
    if "spectral" in text or (not text and name == "Muon"):
        return Spectral() if p.ndim > 1 else LInf()
    euclidean = name in _EUCLIDEAN if not text else r"\ell_\infty" not in text
    return L2() if euclidean else LInf()


def is_plain(optimizer: torch.optim.Optimizer, group: Group) -> bool:
    """Whether a step is the averaged gradient times −lr, and nothing else."""
    if isinstance(optimizer, _PLAIN):
        return not group.get("normalised", False)
    if not isinstance(optimizer, optim.SteepestDescent):
        return False
    flat = str(group["norm"]) in ("L2()", "Frobenius()") and group["scale"] == 1
    return flat and group.get("step_rule") == "steepest" and group.get("across") == "l2"


def heavy_ball(optimizer: torch.optim.Optimizer, group: Group) -> float | None:
    """μ, if a step is −ηb with b ← μb + g + κw, 0 for gradient descent; else None."""
    more = any(group.get(name) for name in ("nesterov", "dampening", "normalised"))
    plain = isinstance(optimizer, _PLAIN) and group.get("decay", "plain") == "plain"
    return float(group["momentum"]) if plain and not more else None


def penalty(
    optimizer: torch.optim.Optimizer, duals: Sequence[Tensor], norms: Sequence[Norm]
) -> Tensor:
    """φ(∇f) of the whole model from the dual norms of its tensors."""
    parts = torch.stack([d.double() for d in duals])
    flat = all(isinstance(norm, L2) for norm in norms)
    total = parts.square().sum().sqrt() if flat else parts.sum()
    group = optimizer.param_groups[0]
    proportional = is_plain(optimizer, group) or group.get("step_rule") == "steepest"
    return total.square() / 2 if proportional else total


def metric(
    optimizer: torch.optim.Optimizer, p: Tensor, group: Group
) -> Tensor | float | None:
    """P⁻¹: what multiplies the averaged gradient of a tensor, entry by entry."""
    if is_plain(optimizer, group):
        return 1.0
    state = optimizer.state.get(p, {})
    if isinstance(optimizer, _ADAM) and "exp_avg_sq" in state:
        v = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
        weight = 1 - group["betas"][1] ** float(state["step"])
        return torch.reciprocal((v / max(weight, 1e-300)).sqrt() + group["eps"])
    free = isinstance(optimizer, _ROOT_FREE) and not group.get("bias_correction")
    if free and "exp_avg_sq" in state:
        return torch.reciprocal(state["exp_avg_sq"] + group["eps"])
    for kind, name in _ROOTED_HERE.items():
        if isinstance(optimizer, kind) and name in state and not group.get("centered"):
            return torch.reciprocal(state[name].sqrt() + group["eps"])
    return None


def ends(optimizer: torch.optim.Optimizer, group: Group) -> tuple[float, float]:
    """ηλ at which the motion of the weights ends, and at which the method does."""
    averages = "betas" in group or isinstance(optimizer, optim.SteepestDescent)
    beta = float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))
    # with dampening the first gradient enters undamped, all others with this weight
    damped = 1 - float(group.get("dampening", 0.0)) if beta else 1.0
    weight = 1 - beta if averages else damped
    motion, stable = (1 - math.sqrt(beta)) ** 2, 2 * (1 + beta)
    if group.get("nesterov"):
        motion = ((1 - beta) / (1 + beta)) ** 2
        stable = 2 * (1 + beta) / (1 + 2 * beta)
    return (motion / weight, stable / weight) if weight > 0 else (math.inf, math.inf)


def shrinkage(optimizer: torch.optim.Optimizer, p: Tensor, group: Group) -> float:
    """1 − ηκ: what weight decay alone leaves of a weight in one step; NaN if that
    depends on the gradient."""
    if p.grad is None:
        return 1.0
    lr = float(group["lr"])
    if isinstance(optimizer, optim.Scion):
        return 1.0 if group["unconstrained"] else 1 - lr
    kappa, kind = float(group.get("weight_decay", 0.0)), group.get("decay", "plain")
    if kappa and ("cautious" in kind or _through_the_root(optimizer, group)):
        return math.nan
    noted = dict(group)
    if isinstance(optimizer, optim.BaseOptimizer):
        note_peaks([noted])
    return 1 - lr * float(decay_share(noted)) * kappa


def _through_the_root(optimizer: torch.optim.Optimizer, group: Group) -> bool:
    apart = (
        group.get("decoupled_weight_decay") or group.get("decay", "plain") != "plain"
    )
    decoupled = isinstance(optimizer, torch.optim.AdamW | optim.AdamW)
    return isinstance(optimizer, _ROOTED_DECAY) and not apart and not decoupled
