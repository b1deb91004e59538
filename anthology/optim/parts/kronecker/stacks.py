"""What is alike as one stack: blocks of equal shape and age, run through one rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.rule import Group, Rule
from anthology.optim.core.state import State, States, Tensors
from anthology.optim.parts.arithmetic import alone

from .axes import Block

# With so long an axis a block goes alone on a CPU, where a batch of products or of
# decompositions is a loop and stacking the factors costs more than it saves.
ALONE = 256


def stacked(tensors: Tensors, copy: bool = False) -> Tensor:
    """A view of a single tensor as a stack of one, a copy of several."""
    return torch.stack(tensors) if copy or len(tensors) > 1 else tensors[0][None]


class Kept:
    """Entries of the states of some blocks: stacked when asked for, stored when set.

    What the states do not have can be set too, and is forgotten. A stack may be changed
    in place before it is set; autograd sees copies.
    """

    def __init__(self, states: list[tuple[State, str]], follow: bool) -> None:
        self.states, self.follow = states, follow
        self.copy = follow or len(states) > 1
        self.known: State = {}

    def _entries(self, name: str) -> Tensors:
        kind, _, rest = name.partition("_")
        return [
            state[own]
            for state, tag in self.states
            if (own := f"{kind}_{tag}{rest}") in state
        ]

    def __contains__(self, name: str) -> bool:
        return bool(self._entries(name))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.known:
            self.known[name] = stacked(self._entries(name), self.copy)
        return self.known[name]

    def __setitem__(self, name: str, stack: Tensor) -> None:
        before, self.known[name] = self.known.get(name), stack
        if self.follow:  # of which the next line has no derivative
            for entry, x in zip(self._entries(name), stack, strict=False):
                entry.copy_(x)
        elif (self.copy or stack is not before) and (own := self._entries(name)):
            torch._foreach_copy_(own, list(stack.unbind()))


def one_block(x: Tensor, group: Group) -> list[tuple[str, Block]]:
    """A tensor as its only block."""
    return [("", ())]


def in_stacks(
    rule: Callable[..., Tensor | None],
    tensors: Sequence[Tensors],
    states: States,
    steps: list[Any],
    group: Group,
    blocks: Callable[..., list[tuple[str, Block]]] = one_block,
) -> list[Any]:
    """What a rule makes of lists of tensors, block by block; None where it says so.

    It is called with a stack from each list, what is `Kept` of it, and the count of
    steps: a number if that is known, so that only blocks of equal age go together.
    """
    found: list[Any] = [None for _ in states]
    alike: dict[Any, list[tuple[int, str, Block]]] = {}
    for i, (x, state, step) in enumerate(zip(tensors[0], states, steps, strict=True)):
        age = None if isinstance(step, Tensor) else step
        for tag, block in blocks(x, group):
            key = x[block].shape, len(state), age
            alike.setdefault(key, []).append((i, tag, block))
    for (shape, _, age), members in alike.items():
        alone = tensors[0][0].is_cpu and max(shape, default=0) >= ALONE
        for some in [[one] for one in members] if alone else [members]:
            stacks = [stacked([xs[i][block] for i, _, block in some]) for xs in tensors]
            kept = Kept(
                [(states[i], tag) for i, tag, _ in some], group["differentiable"]
            )
            step = torch.stack([steps[i] for i, _, _ in some]) if age is None else age
            moves = rule(*stacks, kept, step, group)
            for (i, _, block), move in zip(some, () if moves is None else moves):
                like = tensors[0][i]
                if move.shape == like.shape:
                    found[i] = move
                else:
                    found[i] = torch.empty_like(like) if found[i] is None else found[i]
                    found[i][block] = move
    return found


def counted(steps: list[Any]) -> list[float]:
    """Counts of steps as numbers; where they are on a device the host waits."""
    tensors = isinstance(steps[0], Tensor)
    found: list[float] = torch.stack(steps).tolist() if tensors else steps
    return found


def rule_of_lists(multi: Any, new_state: Any, limit: Any, **more: Any) -> Rule:
    """A rule for lists, of which the one for a tensor is that for a list of one."""
    return Rule(alone(multi), multi, new_state, limit, **more)
