"""Small tensors of one shape laid end to end, so that one call serves them all.

Their state is laid end to end for good: each keeps a view of its part, so that nothing
is copied from step to step but parameters and gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from anthology.optim.core.state import State, real, tensors_of

# Tensors below this are laid end to end.
SMALL = 2**14
# Numbers of one row of tensors; with their state they should stay in the cache.
ROW = 2**18


class Strip:
    """One tensor, or several small ones of one shape, on their way through a step."""

    def __init__(
        self,
        tensors: list[Tensor],
        states: list[State],
        step: Any = 0.0,
        flag: Tensor | None = None,
    ) -> None:
        self.tensors, self.states, self.step, self.flag = tensors, states, step, flag
        self.grads: Tensor | None = None  # laid end to end, if that has been done
        self.refs: list[ref[Tensor]] = []  # to the parameters, between steps
        self.laid: dict[str, Tensor] = {}  # entries of the state of several tensors
        self._views: dict[str, list[Tensor]] = {}

    def flags(self) -> list[Tensor]:
        """The flag, if there is one."""
        return [] if self.flag is None else [self.flag]

    def of(self, name: str) -> list[Tensor]:
        """An entry of the state of each."""
        return [state[name] for state in self.states]

    def entry(self, name: str) -> Tensor:
        """An entry of the state of all, with a row for each tensor if several."""
        if name not in self.laid:
            self.laid[name] = real(self.states[0][name]).view(-1)
        return self.laid[name]

    def lay(self, names: Iterable[str]) -> None:
        """Lay entries of the state end to end, for good."""
        for name in names:
            xs = self.of(name)
            if len(xs) == 1:
                self._views[name], _ = xs, self.entry(name)
                continue
            laid = torch.stack([real(x) for x in xs])
            whole = torch.view_as_complex(laid) if xs[0].is_complex() else laid
            self._views[name] = list(whole.unbind())
            self.laid[name] = laid.view(len(xs), -1)
            for state, view in zip(self.states, self._views[name], strict=True):
                state[name] = view

    def holds(self) -> bool:
        """Whether the entries are still where they have been laid."""
        return all(
            state.get(name) is view
            for name, views in self._views.items()
            for state, view in zip(self.states, views, strict=True)
        )

    def of_these(self, tensors: list[Tensor]) -> Strip:
        """The same row in a step of which these are the parameters."""
        row = Strip(tensors, self.states)
        row.laid, row._views = self.laid, self._views
        return row

    def joined(self, xs: list[Tensor], room: Space) -> Tensor:
        """Parameters or gradients end to end: a copy, or of a single one a view."""
        if len(xs) == 1:
            return real(xs[0].detach()).view(-1)
        xs = [real(x) for x in xs] if xs[0].is_complex() else xs
        flat, _ = room.like(xs)
        torch.cat(xs, out=flat)
        return flat.view(len(xs), -1)

    def write(self, room: Space) -> None:
        """Write back parameters that have been joined."""
        if len(self.tensors) > 1:
            xs = self.tensors
            xs = [real(x) for x in xs] if xs[0].is_complex() else xs
            torch._foreach_copy_(xs, room.like(xs)[1])


class Space:
    """Memory for one row of tensors at a time, taken once for all."""

    def __init__(self) -> None:
        self._rooms: dict[torch.dtype, Tensor] = {}
        self._parts: dict[Any, tuple[Tensor, list[Tensor]]] = {}

    def like(self, xs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Memory for tensors of one shape end to end, and its parts."""
        key = xs[0].shape, xs[0].dtype, len(xs)
        if key not in self._parts:
            if xs[0].dtype not in self._rooms:
                self._rooms[xs[0].dtype] = xs[0].detach().new_empty(ROW)
            numel = xs[0].numel()
            flat = self._rooms[xs[0].dtype][: len(xs) * numel]
            parts = flat.view(len(xs), *xs[0].shape).unbind()
            flat = flat.view(len(xs) * xs[0].shape[0], *xs[0].shape[1:])
            self._parts[key] = flat, list(parts)
        return self._parts[key]


class Shelf:
    """The rows of one group of tensors, from step to step."""

    def __init__(self, optimizer: Any, names: list[str]) -> None:
        self.optimizer, self.names = optimizer, names
        self.rows: list[Strip] = []

    def rows_of(self, tensors: list[Tensor], states: list[State]) -> list[Strip]:
        """All tensors in rows: small ones of one shape together."""
        here = {id(state): i for i, state in enumerate(states)}
        found, kept = [], []
        for row in self.rows:
            whole = all(id(state) in here for state in row.states)
            if row.holds() and (whole or self._known(row)):
                kept.append(row)
                some = [tensors[here[id(s)]] for s in row.states] if whole else []
                if whole and _alike(some):
                    found.append(row.of_these(some))
                    for state in row.states:
                        del here[id(state)]
        self.rows = kept
        return found + self._new(tensors, states, list(here.values()))

    def tidy(self) -> bool:
        """Forget what is no longer the optimizer's; whether anything is left."""
        self.rows = [row for row in self.rows if self._known(row)]
        return bool(self.rows)

    def _new(
        self, tensors: list[Tensor], states: list[State], places: list[int]
    ) -> list[Strip]:
        """Rows of those that are in none; one whose row is not whole stays alone."""
        taken = {id(s) for row in self.rows for s in row.states} if places else set()
        alike: dict[Any, list[int]] = {}
        for i in places:
            p, state = tensors[i], states[i]
            make_lines(state)
            small = p.numel() < SMALL and id(state) not in taken
            key = (p.shape, p.grad.dtype) if small else i  # type: ignore[union-attr]
            alike.setdefault(key, []).append(i)
        found = []
        for same in alike.values():
            length = max(1, ROW // _numbers(tensors[same[0]]))
            for start in range(0, len(same), length):
                some = same[start : start + length]
                row = Strip([tensors[i] for i in some], [states[i] for i in some])
                found.append(row)
                if id(states[some[0]]) not in taken:
                    row.lay(self.names)
                    self.rows.append(row.of_these([]))
                    self.rows[-1].refs = [ref(p) for p in row.tensors]
        return found

    def _known(self, row: Strip) -> bool:
        """Whether its states are still those of the optimizer."""
        kept, params = self.optimizer.state, [known() for known in row.refs]
        pairs = zip(params, row.states, strict=True)
        return all(p is not None and kept.get(p) is state for p, state in pairs)


def make_lines(state: State) -> None:
    """Lay entries that a checkpoint brought in another order as the parameter lies."""
    for name, x in tensors_of(state).items():
        if not x.is_contiguous():
            state[name] = x.contiguous()


def _numbers(p: Tensor) -> int:
    return p.numel() * (2 if p.is_complex() else 1)


def _alike(tensors: list[Tensor]) -> bool:
    return len({p.grad.dtype for p in tensors}) == 1  # type: ignore[union-attr]
