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
    """What is of equal shape as batches, or each member alone.

    Parameters
    ----------
    alike : mapping
        Members by their shape.
    large, small : bool
        Whether those with an axis of at least `ALONE`, and the others, go together.

    Returns
    -------
    list of list
        In the same order.
    """
    batches: list[list[Member]] = []
    for shape, members in alike.items():
        together = large if max(shape, default=0) >= ALONE else small
        batches += [members] if together else [[one] for one in members]
    return batches


def stacked(tensors: list[Tensor]) -> Tensor:
    """A view of a single tensor as a stack of one, a copy of several.

    Parameters
    ----------
    tensors : list of Tensor
        Equal shapes.

    Returns
    -------
    Tensor
        (n, *shape).
    """
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


class _Alike(BaseOptimizer):
    """One rule, `advance`, for a stack of tensors; a single one is a stack of one."""

    def advance(
        self, w: Tensor, g: Tensor, state: State, step: int, group: Mapping[str, Any]
    ) -> None:
        """Update tensors of equal shape and age in place, and their state.

        Parameters
        ----------
        w, g : Tensor
            Shape (n, *shape); `g` must not be written.
        state : dict of str to Tensor
            Stacks of what `new_state` made, without the counters.
        step : int
            Steps taken, this one included.
        group : mapping
            Hyper-parameters.
        """
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
    """One tensor through a rule for batches.

    Parameters
    ----------
    param, grad : Tensor
        Equal shapes; `param` is written in place.
    state : dict of str to Tensor
        Written in place, the counters excepted.
    step : float or Tensor
        Reading a tensor waits for its device.
    advance : callable
        Takes parameters and gradients (n, *shape), their state (n, …) and the step;
        writes the first and the third.
    """
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
    """The same for a list; tensors of equal shape and step go as one batch.

    Parameters
    ----------
    params, grads, states, steps : list
        As for `alone`, one entry a tensor. Counters that are tensors are read all
        at once.
    advance : callable
        As for `alone`.
    """
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
