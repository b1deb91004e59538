"""Tensors of equal shape and age, run through one rule as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from anthology.optim.core.base import BaseOptimizer
from anthology.optim.core.state import State, tensors_of

Advance = Callable[[Tensor, Tensor, State, int], None]

COUNTERS = ("step", "skipped")
# Tensors with so long an axis go alone on a CPU, where a batch of products or of
# decompositions is a loop and stacking the factors costs more than it saves.
ALONE = 256

Member = TypeVar("Member")


def batched(
    alike: Mapping[tuple[int, ...], list[Member]], large: bool, small: bool = True
) -> list[list[Member]]:
    """What is of equal shape as batches, or each member alone."""
    batches: list[list[Member]] = []
    for shape, members in alike.items():
        together = large if max(shape, default=0) >= ALONE else small
        batches += [members] if together else [[one] for one in members]
    return batches


def stacked(tensors: list[Tensor]) -> Tensor:
    """A view of a single tensor as a stack of one, a copy of several."""
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


class _Alike(BaseOptimizer):
    """One rule, `advance`, for a stack of tensors; a single one is a stack of one."""

    def advance(
        self, w: Tensor, g: Tensor, state: State, step: int, group: Mapping[str, Any]
    ) -> None:
        """Update tensors of equal shape and age in place, and their state."""
        raise NotImplementedError

    def single(
        self,
        param: Tensor,
        grad: Tensor,
        state: State,
        step: Any,
        group: Mapping[str, Any],
    ) -> None:
        """One tensor, as a stack of one."""
        alone(param, grad, state, step, partial(self.advance, group=group))

    def multi(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        steps: list[Any],
        group: Mapping[str, Any],
    ) -> None:
        """Lists of tensors: those of equal shape and age go through as one batch."""
        together(params, grads, states, steps, partial(self.advance, group=group))


def alone(
    param: Tensor, grad: Tensor, state: State, step: Any, advance: Advance
) -> None:
    """One tensor through a rule for batches."""
    own = tensors_of(state).items()
    kept = {name: x[None] for name, x in own if name not in COUNTERS}
    advance(param[None], grad[None], kept, int(step))


def together(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    steps: list[Any],
    advance: Advance,
) -> None:
    """The same for a list; tensors of equal shape and step go as one batch."""
    if isinstance(steps[0], Tensor):
        steps = torch.stack(steps).tolist()
    groups: dict[Any, list[int]] = {}
    for i, (p, step) in enumerate(zip(params, steps, strict=True)):
        groups.setdefault((*p.shape, int(step)), []).append(i)
    for (*shape, step), members in groups.items():
        if len(members) == 1 or p.is_cpu and max(shape, default=0) >= ALONE:
            for i in members:
                alone(params[i], grads[i], states[i], step, advance)
            continue
        names = _shared([states[i] for i in members])
        kept = {n: torch.stack([states[i][n] for i in members]) for n in names}
        w = torch.stack([params[i] for i in members])
        advance(w, torch.stack([grads[i] for i in members]), kept, step)
        for j, i in enumerate(members):
            params[i].copy_(w[j])
            for name in names:
                states[i][name].copy_(kept[name][j])


def _shared(states: list[State]) -> list[str]:
    """The entries that can be stacked: a user's own may be in some states only."""
    first = tensors_of(states[0])
    return [
        name
        for name, x in first.items()
        if name not in COUNTERS
        and all(getattr(s.get(name), "shape", None) == x.shape for s in states)
    ]
