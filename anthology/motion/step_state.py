"""What a step of an optimizer changes: lent, recorded, and given back."""

from __future__ import annotations

from collections import UserDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from anthology.motion._arguments import require_kind

# what state is kept by (a parameter, a Group, or any other key), and its name
Slot: TypeAlias = tuple[Any, str]
# copies of parameters and state at one moment
Snapshot: TypeAlias = tuple[list[Tensor], dict[Slot, Any]]


class Group(NamedTuple):
    """The key of what an optimizer keeps in a parameter group."""

    number: int


class Loan:
    """An optimizer lent for phantom steps: without state and gradients inside, all as
    before, bit for bit, after."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self.state = optimizer, optimizer.state
        self._attributes = dict(vars(optimizer))
        self._groups = [(g, dict(g)) for g in optimizer.param_groups]
        settings = [x for _, values in self._groups for x in values.values()]
        self._tensors = [(x, copied(x)) for x in settings if isinstance(x, Tensor)]
        self._parameters = [(p, copied(p), p.grad) for p in parameters_of(optimizer)]

    def __enter__(self) -> Self:
        self._optimizer.state = defaultdict(dict)
        return self

    def __exit__(self, *_: object) -> None:
        vars(self._optimizer).clear()
        vars(self._optimizer).update(self._attributes)
        for group, values in self._groups:
            group.clear()
            group.update(values)
        with torch.no_grad():
            for value, copy in self._tensors:
                if not equal(value, copy):
                    value.copy_(copy)
            for p, copy, gradient in self._parameters:
                p.copy_(copy)
                p.grad = gradient

    def changed_settings(self) -> list[Slot]:
        """Values of groups that are no longer what they were."""
        copies = {id(value): copy for value, copy in self._tensors}
        return [
            (Group(number), name)
            for number, (group, values) in enumerate(self._groups)
            for name, value in values.items()
            if name != "params" and not equal(group[name], copies.get(id(value), value))
        ]


def take(optimizer: Optimizer, closure: Callable[[], Any]) -> None:
    for p in parameters_of(optimizer):
        p.grad = None
    with torch.enable_grad():
        optimizer.step(closure)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def holder(optimizer: Optimizer, key: Any) -> dict[str, Any]:
    """The dictionary in which an optimizer keeps the state of a key."""
    groups, state = optimizer.param_groups, optimizer.state
    found: dict[str, Any] = groups[key.number] if isinstance(key, Group) else state[key]
    return found


def snapshot(optimizer: Optimizer, settings: list[Slot]) -> Snapshot:
    slots = slots_of(optimizer.state) + settings
    state = {(key, name): copied(holder(optimizer, key)[name]) for key, name in slots}
    return [copied(p) for p in parameters_of(optimizer)], state


def slots_of(state: Mapping[Any, Mapping[str, Any]]) -> list[Slot]:
    return [(key, name) for key, held in state.items() for name in held]


def copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def equal(a: Any, b: Any) -> bool:
    """Equal in kind and value; NaN equals NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.allclose(a, b.to(a.device), rtol=0, atol=0, equal_nan=True)
        )
    return a is b or (type(a) is type(b) and bool(a == b))


@dataclass(frozen=True, eq=False)
class Entry:
    """One entry of the state: some coordinates of the vector, or a constant."""

    slot: Slot
    value: Any
    counts: bool = False  # an int that a step changes

    def __post_init__(self) -> None:
        value, given = self.value, f"the state {self.slot[1]!r}"
        if not isinstance(value, float | int | str | None):
            require_kind(given, value, "a number or a Tensor", Tensor)
        if not isinstance(value, Tensor):
            return
        if value.layout != torch.strided or value.is_complex():
            kind = value.dtype if value.layout == torch.strided else value.layout
            raise TypeError(f"{given} must be dense and real, got {kind}")
        if self.moves and value.ndim and value.dtype != torch.float64:
            raise TypeError(
                f"{given} must be float64 like the parameters, got {value.dtype}: its "
                "rounding would hide the differences of the steps"
            )

    @property
    def moves(self) -> bool:
        """Whether it is a coordinate."""
        if isinstance(self.value, Tensor):
            return self.value.is_floating_point()
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
            return copied(self.value)
        if isinstance(self.value, Tensor):
            return piece.reshape(self.shape).to(self.value.device, copy=True)
        number = float(piece)
        return int(number) if self.counts and number.is_integer() else number

    def read(self, now: Any, device: torch.device) -> Tensor:
        """Its coordinates now; a constant has none, and must not have changed."""
        name = self.slot[1]
        if not self.moves:
            if not equal(now, self.value):
                raise RuntimeError(
                    f"a step changed the state {name!r}, which is no floating-"
                    "point number and so cannot move"
                )
            return torch.empty(0, dtype=torch.float64, device=device)
        number = torch.as_tensor(now).detach()
        if number.shape != self.shape:
            raise RuntimeError(
                f"a step changed the shape of the state {name!r} from "
                f"{tuple(self.shape)} to {tuple(number.shape)}"
            )
        return number.to(device, torch.float64).reshape(-1)


class Recording(UserDict[str, Any]):
    """A parameter's state that remembers the first value of every entry."""

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        self.first: dict[str, Any] = {}
        super().__init__({name: copied(x) for name, x in (entries or {}).items()})

    def __setitem__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point():
            value = value.double()
        super().__setitem__(name, value)
        if name not in self.first:
            self.first[name] = copied(value)


def trial(
    optimizer: Optimizer, closure: Callable[[], Any]
) -> tuple[list[Snapshot], list[list[Entry]]]:
    """Two steps, and what the state may have been before them."""
    with Loan(optimizer) as loan:
        recording: defaultdict[Any, Recording] = defaultdict(Recording)
        recording.update((key, Recording(held)) for key, held in loan.state.items())
        optimizer.state = recording
        create = getattr(optimizer, "create_state", None)
        if callable(create):
            create()
            for held in recording.values():  # what it filled in after storing it
                held.first = {name: copied(value) for name, value in held.items()}
        known = set(slots_of(recording))
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
    seen = {key: held.first for key, held in recording.items()}
    first = {(key, name): seen[key][name] for key, name in slots_of(seen)}
    first |= {(key, name): holder(optimizer, key)[name] for key, name in settings}
    entries, zeroed = [], []
    for slot, value in first.items():
        after = points[-1][1].get(slot)
        counts = type(value) is int and type(after) is int and after != value
        entries.append(Entry(slot, value, counts))
        # an entry that is stored only after its first update (torch's SGD) has been
        # recorded too late; before, it can only have been zero
        late = isinstance(value, Tensor) and slot not in known
        if late and equal(value, points[0][1].get(slot)):
            value = torch.zeros_like(value)
        zeroed.append(replace(entries[-1], value=value))
    return points, [entries, zeroed]
