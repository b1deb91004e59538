"""Weight decay that looks at the step or at the schedule: the rule runs without, then

    w ← w_new − η κ s w_old · 1[(w_old − w_new) ⊙ w_old ≥ 0],

where only cautious decay has the indicator, and only corrected decay has s = η/η_max.

Source: Chen et al. 2025 (arXiv 2510.12402), Algorithm 1 (cautious); Defazio 2025
(arXiv 2506.02285), AdamC (corrected).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .limits import at_least_zero, one_of

KINDS = ("plain", "cautious", "corrected", "cautious+corrected")
PEAK = "peak_lr"


def check_decay(group: Mapping[str, Any]) -> None:
    """Refuse a kind of decay that is not known, and a largest rate that is none."""
    one_of("decay", group.get("decay", "plain"), KINDS)
    if group.get("max_lr") is not None:
        at_least_zero("max_lr", group["max_lr"])


def apart(group: Mapping[str, Any]) -> bool:
    """Whether the weights of a group decay here, and its rule runs without."""
    return group.get("decay", "plain") != "plain" and bool(group["weight_decay"])


def note_peaks(groups: Iterable[dict[str, Any]]) -> None:
    """Keep the largest rate of a schedule, under `PEAK`, where decay asks for it."""
    for group in groups:
        if "corrected" in group.get("decay", "plain"):
            given = group["max_lr"] is not None
            names = ("max_lr",) if given else ("lr", "initial_lr", PEAK)
            rates = [_read_free(group[name]) for name in names if name in group]
            peak, kept = _largest(rates), group.get(PEAK)
            if isinstance(peak, Tensor) and isinstance(kept, Tensor):
                peak = kept.copy_(peak)  # a graph knows its place
            group[PEAK] = peak


def share(group: Mapping[str, Any]) -> Any:
    """η/η_max of corrected decay; 1 for the other kinds, and where η is zero."""
    if "corrected" not in group.get("decay", "plain") or PEAK not in group:
        return 1.0
    lr, peak = group["lr"], group[PEAK]
    if isinstance(peak, Tensor):
        return lr / peak.to(lr).clamp_min(torch.finfo(peak.dtype).tiny)
    return lr / peak if peak else 1.0


class Decay:
    """What is to be taken from the parameters of a batch once its rule has run."""

    def __init__(self, params: list[Tensor], group: Mapping[str, Any]) -> None:
        self.old = [p.clone() for p in params]
        self.strength = group["weight_decay"] * share(group)
        self.cautious = "cautious" in group["decay"]

    def act(self, params: list[Tensor], rates: Any, early: list[Any]) -> None:
        """Take it."""
        if not params:
            return
        taken = self._agreeing(params) if self.cautious else self.old
        many = rates if isinstance(rates, list) else [rates] * len(params)
        lists = params, taken, many, self.old, early
        for p, x, rate, old, young in zip(*lists, strict=True):
            size = rate * self.strength
            if young is not False:
                size = size * ~((p == old).all() & young)
            if isinstance(size, Tensor):
                p.sub_(x * size)
            else:
                p.sub_(x, alpha=size)

    @torch.no_grad()
    def _agreeing(self, params: list[Tensor]) -> list[Tensor]:
        """The weights that the step has not made larger, zero for the others."""
        signs = torch._foreach_sub(self.old, params)
        torch._foreach_sign_(signs)  # a product of small numbers might be zero
        torch._foreach_mul_(signs, self.old)
        pairs = zip(signs, self.old, strict=True)
        return [torch.where(sign >= 0, w, 0.0) for sign, w in pairs]


def _read_free(rate: Any) -> Any:
    """A rate as a float where reading it is free, and without its history."""
    if not isinstance(rate, Tensor):
        return rate
    rate = rate.detach().reshape(())
    return float(rate) if rate.is_cpu else rate


def _largest(rates: list[Any]) -> Any:
    """Their maximum, a new tensor if one of them is a tensor."""
    like = next((rate for rate in rates if isinstance(rate, Tensor)), None)
    if like is None:
        return max(rates)
    return torch.stack(
        [torch.as_tensor(rate, dtype=like.dtype).to(like) for rate in rates]
    ).max()
