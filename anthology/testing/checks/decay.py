"""Decay that looks at the step or at the schedule, where there is an option for it.

An optimizer without an argument ``decay`` promises nothing and passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..check import Checks
from ..subject import Subject, feed, require, weight

DECAY = Checks()
STRENGTH = 1e4  # also a rate of 1e-6 is seen then
RATES = (1.0, 0.5, 0.25)  # shares of the largest


@DECAY
def cautious_decay(subject: Subject) -> None:
    """Decay that was to be cautious works against the step, or not at all."""
    for old, new, taken, _ in _runs(subject, ("cautious",)):
        agrees = (old - new) * old >= 0
        size = _size(taken[0], old, agrees)
        gap = (taken[0] - size * old * agrees).abs().max()
        require(size > 0, "no weight decayed that the step made smaller")
        require(bool(gap <= 1e-3 * size), "it is not a share of what the step shrinks")


@DECAY
def corrected_decay(subject: Subject) -> None:
    """The size of normalised weights follows the schedule that it was to forget."""
    for old, new, taken, share in _runs(subject, ("cautious", "corrected")):
        plain = _size(taken[0], old, (old - new) * old >= 0)
        size = _size(taken[1], old, old != 0)
        gap = (taken[1] - size * old).abs().max()
        require(bool(gap <= 1e-3 * size), "it is not one share of all weights")
        require(
            abs(size / plain - share) < 1e-3,
            f"at {share} of the largest rate it is {size / plain:.3g} times the decay "
            "without correction",
        )


def _runs(
    subject: Subject, kinds: Sequence[str]
) -> list[tuple[Tensor, Tensor, list[Tensor], float]]:
    """Steps side by side, each from where the first stands."""
    if not _has_kinds(subject):
        return []
    twins = [weight() for _ in (None, *kinds)]
    with torch.no_grad():
        twins[0].copy_(torch.randn(4, 3))
    options: list[dict[str, Any]] = [{"weight_decay": 0.0}]
    options += [{"weight_decay": STRENGTH, "decay": kind} for kind in kinds]
    pairs = zip(twins, options, strict=True)
    optimizers = [subject.having([p], **own) for p, own in pairs]
    for optimizer in optimizers:
        subject.warm(optimizer)
    found = []
    for share in RATES:
        old = twins[0].detach().clone()
        g = torch.randn(4, 3)
        for p, optimizer in zip(twins, optimizers, strict=True):
            with torch.no_grad():
                p.copy_(old)
            for group in optimizer.param_groups:
                group["lr"] = share * optimizer.defaults["lr"]
            feed(optimizer, (p, g))
        new, *others = (p.detach().clone() for p in twins)
        found.append((old, new, [new - other for other in others], share))
    return found


def _has_kinds(subject: Subject) -> bool:
    model = subject.fresh([weight()])
    known = inspect.signature(type(model)).parameters.values()
    open_ended = any(k.kind is k.VAR_KEYWORD for k in known)
    return "decay" in model.defaults and (
        open_ended or any(k.name == "decay" for k in known)
    )


def _size(taken: Tensor, old: Tensor, among: Tensor) -> float:
    """What share of the largest of some weights was taken."""
    at = (old.abs() * among).argmax()
    return float(taken.flatten()[at] / old.flatten()[at])
