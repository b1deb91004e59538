"""Tensors of equal shape and age, run through one rule as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from anthology.optim.core.rule import Group, Rule
from anthology.optim.core.state import State, tensors_of

Advance = Callable[[Tensor, Tensor, State, int, Group], None]

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


def stacked_rule(advance: Advance, **parts: Any) -> Rule:
    """A rule for stacks of tensors of equal shape and age; one is a stack of one."""
    alone, together = (
        partial(_alone, advance=advance),
        partial(_together, advance=advance),
    )
    return Rule(alone, together, **parts)


def _alone(
    param: Tensor, grad: Tensor, state: State, step: Any, group: Group, advance: Advance
) -> None:
    """One tensor through a rule for stacks."""
    own = tensors_of(state).items()
    kept = {name: x[None] for name, x in own if name not in COUNTERS}
    advance(param[None], grad[None], kept, int(step), group)


def _together(
    params: list[Tensor],
    grads: list[Tensor],
    states: list[State],
    steps: list[Any],
    group: Group,
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
                _alone(params[i], grads[i], states[i], step, group, advance)
            continue
        names = _shared([states[i] for i in members])
        kept = {n: torch.stack([states[i][n] for i in members]) for n in names}
        w = torch.stack([params[i] for i in members])
        advance(w, torch.stack([grads[i] for i in members]), kept, step, group)
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
