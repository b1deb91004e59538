"""What an optimizer remembers: which of it moves, and how it began."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from anthology.motion.steps.loan import copied, lent, parameters_of, same, take

# what an optimizer keeps: by parameter (or any other key), then by name
State: TypeAlias = Mapping[Any, Mapping[str, Any]]


class Group(NamedTuple):
    """The key of what an optimizer keeps in a parameter group."""

    number: int


class Recording(dict[str, Any]):
    """A parameter's state that remembers the first value of every entry."""

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.first: dict[str, Any] = {}
        self.update(copied(entries or {}))

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
            value = value.double()
        super().__setitem__(name, value)
        if name not in self.first:
            self.first.update(copied({name: value}))

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As of a dict, which would not call ``__setitem__``."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """As of a dict, which would not call ``__setitem__``."""
        if name not in self:
            self[name] = default
        return self[name]


class Snapshot(NamedTuple):
    """Copies of parameters and state at one moment."""

    parameters: list[Tensor]
    state: State


def snapshot(optimizer: Optimizer, settings: list[tuple[int, str]]) -> Snapshot:
    state: dict[Any, dict[str, Any]] = {}
    state |= {key: copied(named) for key, named in optimizer.state.items()}
    for number, name in settings:
        value = optimizer.param_groups[number][name]
        state.setdefault(Group(number), {})[name] = copied({name: value})[name]
    return Snapshot([p.detach().clone() for p in parameters_of(optimizer)], state)


def load(optimizer: Optimizer, entry: Entry, piece: Tensor) -> None:
    """Give an optimizer one entry of its state."""
    if isinstance(entry.key, Group):
        kept = optimizer.param_groups[entry.key.number]
    else:
        kept = optimizer.state[entry.key]
    kept[entry.name] = entry.at(piece)


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of the state: some coordinates of the vector, or a constant."""

    key: Any
    name: str
    value: Any
    counts: bool = False  # an int that a step changes

    def __post_init__(self) -> None:
        value, given = self.value, f"the state {self.name!r}"
        if not isinstance(value, Tensor | float | int | str | None):
            raise TypeError(
                f"{given} must be a number or a Tensor, got {type(value).__name__}"
            )
        if not isinstance(value, Tensor):
            return
        if value.layout != torch.strided or value.is_complex():
            raise TypeError(f"{given} must be dense and real, got {_kind(value)}")
        if self.moves and value.ndim and value.dtype != torch.float64:
            raise TypeError(
                f"{given} must be float64 like the parameters, got {value.dtype}: its "
                "rounding would hide the differences of the steps"
            )

    @property
    def moves(self) -> bool:
        """Whether it is a coordinate."""
        if isinstance(self.value, Tensor):
            return self.value.dtype.is_floating_point
        return isinstance(self.value, float) or self.counts

    @property
    def shape(self) -> torch.Size:
        return self.value.shape if isinstance(self.value, Tensor) else torch.Size()

    @property
    def size(self) -> int:
        return self.shape.numel() if self.moves else 0

    def at(self, piece: Tensor) -> Any:
        """The value for an optimizer: a copy, float64 even for a counter."""
        if not self.moves:
            return copied({self.name: self.value})[self.name]
        if isinstance(self.value, Tensor):
            return piece.reshape(self.shape).to(self.value.device, copy=True)
        number = float(piece)
        return int(number) if self.counts and number.is_integer() else number

    def read(self, now: Any, device: torch.device) -> Tensor:
        """Its coordinates now; a constant has none, and must not have changed."""
        if not self.moves:
            if not same(now, self.value):
                raise RuntimeError(
                    f"a step changed the state {self.name!r}, which is no floating-"
                    "point number and so cannot move"
                )
            return torch.empty(0, dtype=torch.float64, device=device)
        number = torch.as_tensor(now).detach()
        if number.shape != self.shape:
            raise RuntimeError(
                f"a step changed the shape of the state {self.name!r} from "
                f"{tuple(self.shape)} to {tuple(number.shape)}"
            )
        return number.to(device, torch.float64).reshape(-1)


def entries_of(state: State, later: State | None = None) -> list[Entry]:
    """The entries of a state; an int that is different later is a counter."""
    entries = []
    for key, named in state.items():
        for name, value in named.items():
            after = value if later is None else later[key].get(name)
            counts = type(value) is int and type(after) is int and after != value
            entries.append(Entry(key, name, value, counts))
    return entries


def _kind(x: Tensor) -> str:
    return str(x.dtype if x.layout == torch.strided else x.layout)


def trial(
    optimizer: Optimizer, closure: Callable[[], Any]
) -> tuple[list[Snapshot], list[list[Entry]]]:
    """Two steps, and what the state may have been before them."""
    with lent(optimizer) as loan:
        recording = _recorded(optimizer, loan.state)
        known = {(e.key, e.name) for e in entries_of(recording)}
        take(optimizer, closure)
        if all(p.grad is None for p in parameters_of(optimizer)):
            raise ValueError(
                "no parameter received a gradient: the closure must call backward() "
                "on the loss"
            )
        settings = loan.changed_settings()
        points = [snapshot(optimizer, settings)]
        take(optimizer, closure)
        points.append(snapshot(optimizer, settings))
        first: dict[Any, Mapping[str, Any]] = {
            key: named.first for key, named in recording.items()
        }
    for number, name in settings:
        value = optimizer.param_groups[number][name]
        first[Group(number)] = {**first.get(Group(number), {}), name: value}
    entries = entries_of(first, points[-1].state)
    # an entry that is stored only after its first update (torch's SGD) has been
    # recorded too late; before, it can only have been zero
    zeroed = [
        replace(entry, value=torch.zeros_like(entry.value))
        if isinstance(entry.value, Tensor)
        and (entry.key, entry.name) not in known
        and same(entry.value, points[0].state[entry.key].get(entry.name))
        else entry
        for entry in entries
    ]
    return points, [entries, zeroed]


def _recorded(optimizer: Optimizer, state: State) -> dict[Any, Recording]:
    """Give the optimizer a copy of its state that records, and may be filled."""
    recording: defaultdict[Any, Recording] = defaultdict(Recording)
    for key, named in state.items():
        recording[key] = Recording(named)
    optimizer.state = recording
    create = getattr(optimizer, "create_state", None)
    if callable(create):
        create()
        for named in recording.values():  # what it filled in after storing it
            named.first = copied(named)
    return recording
