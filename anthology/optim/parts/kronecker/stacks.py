"""Stacks of tensors, (n, d₁, …, d_N), with a factor an axis; what is alike is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.products import peak
from anthology.optim.core.rule import Group, Rule
from anthology.optim.core.state import State, States, Tensors
from anthology.optim.parts.arithmetic import alone

Block = tuple[slice, ...]

# With so long an axis a block goes alone on a CPU, where a batch of products or of
# decompositions is a loop and stacking the factors costs more than it saves.
ALONE = 256


def cut(shape: tuple[int, ...], size: int) -> list[Block]:
    """Blocks with at most `size` entries along each axis."""
    axes = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length in shape or (1,)
    ]
    return list(product(*axes))


def axes_of(shape: Sequence[int], group: Group) -> list[int]:
    """The axes of a block that have a factor, or a basis."""
    if len(shape) == 1 and group["vectors"] != "full":
        return []
    return [axis for axis, d in enumerate(shape) if d <= group["max_dim"]]


def unfold(x: Tensor, axis: int) -> Tensor:
    """G₍ᵢ₎, the matrix whose rows are the slices along an axis."""
    return x.movedim(axis + 1, 1).reshape(len(x), x.shape[axis + 1], -1)


def fold(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """Undo `unfold`."""
    moved = like.movedim(axis + 1, 1)
    return rows.reshape(moved.shape).movedim(1, axis + 1)


def multiply(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A matrix applied along an axis: MX for axis 0 of a matrix, XMᵀ for axis 1."""
    if 0 < axis == x.ndim - 2:  # from the right, so that nothing is moved
        rows = x.flatten(1, -2) @ matrix.mT
        return rows.reshape(x.shape)
    return fold(matrix @ unfold(x, axis), x, axis)


def whitened(x: Tensor, axis: int, whiteners: Mapping[int, Tensor]) -> Tensor:
    """A tensor divided by the factors of all axes but one: G S⁻½/√d for axis 0."""
    for other, matrix in whiteners.items():
        if other != axis:
            x = multiply(x, matrix, other)
    many = max(x[0].numel(), 1)
    room = math.sqrt(torch.finfo(x.dtype).max / (2.0**20 * many))
    share: float = x.shape[axis + 1] / many
    return (x * math.sqrt(share)).clamp(-room, room)


def nonzero(x: Tensor) -> Tensor:
    """`x` with ones in place of zeros, to divide by."""
    return torch.where(x == 0, torch.ones_like(x), x)


def length(x: Tensor) -> Tensor:
    """The Euclidean norm of a tensor of any scale, 0-d."""
    flat = x.reshape(1, -1)
    top = peak(flat, 1)
    out: Tensor = torch.linalg.vector_norm(flat / top, dim=1) * top[:, 0]
    return out[0]


def grafted(moves: Tensors, others: Tensors) -> Tensors:
    """Moves of the length that others have, tensor by tensor."""
    pairs = zip(moves, others, strict=True)
    return [u * (length(t) / nonzero(length(u))) for u, t in pairs]


def heavy_ball(moves: Tensors, states: States, group: Group) -> Tensors:
    """b ← μb + u; then b, or with Nesterov's look-ahead u + μb."""
    buffers = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_add_(buffers, moves)
    if not group.get("nesterov"):
        return buffers
    ahead = torch._foreach_mul(buffers, group["momentum"])
    return list(torch._foreach_add(moves, ahead))


def stacked(tensors: Tensors, copy: bool = False) -> Tensor:
    """A view of a single tensor as a stack of one, a copy of several."""
    return torch.stack(tensors) if copy or len(tensors) > 1 else tensors[0][None]


class Kept:
    """Entries of the states of some blocks: stacked when asked for, stored when set."""

    # What the states do not have can be set too, and is forgotten. A stack may be
    # changed in place before it is set; autograd sees copies.
    def __init__(self, states: list[tuple[State, str]], follow: bool) -> None:
        self.states, self.follow = states, follow
        self.copy = follow or len(states) > 1
        self.known: State = {}

    def _entries(self, name: str) -> Tensors:
        kind, _, rest = name.partition("_")
        own = [(state, f"{kind}_{tag}{rest}") for state, tag in self.states]
        return [state[entry] for state, entry in own if entry in state]

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


def in_stacks(
    rule: Callable[..., Tensor | None],
    tensors: Sequence[Tensors],
    states: States,
    steps: list[Any],
    group: Group,
    blocks: Callable[..., list[tuple[str, Block]]] | None = None,
) -> list[Any]:
    """What a rule makes of lists of tensors, block by block; None where it says so."""
    found: list[Any] = [None for _ in states]
    alike: dict[Any, list[tuple[int, str, Block]]] = {}
    for i, (x, state, step) in enumerate(zip(tensors[0], states, steps, strict=True)):
        age = None if isinstance(step, Tensor) else step  # of equal age, if it is known
        for tag, block in blocks(x, group) if blocks else [("", ())]:
            key = x[block].shape, len(state), age
            alike.setdefault(key, []).append((i, tag, block))
    for (shape, _, age), members in alike.items():
        apart = tensors[0][0].is_cpu and max(shape, default=0) >= ALONE
        for some in [[one] for one in members] if apart else [members]:
            stacks = [stacked([xs[i][block] for i, _, block in some]) for xs in tensors]
            own = [(states[i], tag) for i, tag, _ in some]
            kept = Kept(own, group["differentiable"])
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


def as_numbers(steps: list[Any]) -> list[float]:
    """Counts of steps as numbers; where they are on a device the host waits."""
    tensors = isinstance(steps[0], Tensor)
    found: list[float] = torch.stack(steps).tolist() if tensors else steps
    return found


def rule_of_lists(multi: Any, new_state: Any, limit: Any, **more: Any) -> Rule:
    """A rule for lists, of which the one for a tensor is that for a list of one."""
    return Rule(alone(multi), multi, new_state, limit, **more)
