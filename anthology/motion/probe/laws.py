"""Lengths and sums that a symmetry of the loss predicts, beside what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology import optim
from anthology.motion.symmetry.pieces import Symmetry
from anthology.optim.core.decay import note_peaks, share

Values = dict[str, Tensor]


class Laws:
    """Follows the laws of gradient descent along symmetries, step by step."""

    def __init__(self, symmetries: Sequence[Symmetry], names: Sequence[str]) -> None:
        self._symmetries = list(symmetries)
        self.names = {name for s in symmetries for name in s.names}
        if unknown := sorted(self.names - set(names)):
            raise ValueError(f"the model has no parameter {unknown[0]!r}")
        self._expected: list[Tensor | None] = [None] * len(self._symmetries)
        self._factor: list[float] = [1.0] * len(self._symmetries)

    def __bool__(self) -> bool:
        return bool(self._symmetries)

    def follow(self, old: Values, new: Values, shrink: Mapping[str, float]) -> None:
        """Take in one step."""
        for index, symmetry in enumerate(self._symmetries):
            if any(name not in old for name in symmetry.names):
                continue
            factor = shrink[symmetry.names[0]]
            square = symmetry.kind == "scale"
            before = self._expected[index]
            if before is None:
                before = symmetry.coordinate(old)
            after = before * (factor**2 if square else factor)
            if square:
                moved = {k: new[k] - factor * old[k] for k in symmetry.names}
                after = after + symmetry.coordinate(moved)
            self._expected[index] = after

    def readings(self, now: Values) -> dict[str, dict[str, Tensor | float]]:
        """Lengths of the weights, or of the sums: measured, predicted."""
        rows: dict[str, dict[str, Tensor | float]] = {}
        for symmetry, expected in zip(self._symmetries, self._expected, strict=True):
            if expected is None:
                continue
            measured = symmetry.coordinate(now)
            if symmetry.kind == "scale":
                pair = [x.sum().sqrt() for x in (measured, expected)]
                drift = torch.linalg.vector_norm(measured.sqrt() - expected.sqrt())
            else:
                pair = [torch.linalg.vector_norm(x) for x in (measured, expected)]
                channels = (symmetry.stop - symmetry.start) // symmetry.parts
                drift = torch.linalg.vector_norm(measured - expected) / channels**0.5
            rows[str(symmetry)] = {
                "measured": pair[0],
                "predicted": pair[1],
                "drift": drift,
            }
        return rows


def shrinkage(
    optimizer: torch.optim.Optimizer, p: Tensor, group: Mapping[str, Any]
) -> float:
    """1 − ηκ: what weight decay alone leaves of a weight in one step."""
    if p.grad is None:
        return 1.0
    lr = float(group["lr"])
    if isinstance(optimizer, optim.Scion):
        return 1.0 if group["unconstrained"] else 1 - lr
    kappa, kind = float(group.get("weight_decay", 0.0)), group.get("decay", "plain")
    if kappa and "cautious" in kind:
        return math.nan
    noted = dict(group)
    if isinstance(optimizer, optim.BaseOptimizer):
        note_peaks([noted])
    return 1 - lr * float(share(noted)) * kappa
