"""What an update rule sees: real, finite, single- or double-precision tensors.

Parameters may be bfloat16, complex, non-contiguous, or may have received a NaN;
an update rule should not have to know. A `Batch` holds tensors of one parameter
group that share a device and a dtype. `open` prepares them for the rule,
`close` writes the results back.

The NaN policy lives here too: a tensor whose gradient is not finite (or too large
for the state, see ``Rule.gradient_limit``) is left exactly as it was,
parameter and state, and its ``skipped`` counter goes up. Where the flag can be read
for nothing (CPU) such tensors are taken out before the rule runs. Elsewhere reading
it would make the host wait for the device, so the rule runs on a gradient of zeros
and the old values are selected afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .decay import Decay, apart
from .rounding import RESIDUAL, opened, rounding_of, written
from .state import State, real, state_dtype, tensors_of

__all__ = ["Batch", "StateKeeper", "reads_flags_for_free"]


class StateKeeper(Protocol):
    """What a batch asks of its optimizer."""

    state: Any

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State: ...

    def rule_of(self, group: Mapping[str, Any]) -> Any: ...


class Batch:
    """Tensors of one group, one device and one dtype, on their way through a rule.

    Parameters
    ----------
    group : dict
        The hyper-parameters, with ``lr`` resolved to a float or a 0-d tensor.
    tensors : list of Tensor
        Parameters with a dense gradient, none of them empty.

    Attributes
    ----------
    group, tensors
        As above; `open` takes skipped tensors out where it can.
    params, grads : list of Tensor
        What the rule sees: real, at least float32, finite. ``params`` and the
        states are written in place; ``grads`` may be the users' gradients and are
        never written.
    states : list of dict
        The state of each parameter, as real tensors.
    steps : list of float or Tensor
        How many steps each parameter has taken, this one included.
    finite : list of Tensor or None
        Where the flags could not be read: 0-d booleans, False for the tensors whose
        update will be undone, for a gradient that is not finite or counts as none.
        None where such tensors have been taken out.
    agreed : list of Tensor or None
        The flags where several processes have found them together, as 0-d booleans.
    moved : list of Tensor or None
        Likewise whether a gradient has an entry that is not zero, for rules with
        ``zero_is_none``.
    rates : float, Tensor, list or None
        What multiplies κ where decay is not plain, if it is not the group's ``lr``.
    counts : bool
        False where another process holds the same and adds it to joint sums.
    before, after : callable or None
        What is to be done first in `open` and last in `close`.
    """

    def __init__(self, group: dict[str, Any], tensors: list[Tensor]) -> None:
        self.group = group
        self.tensors = tensors
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.states: list[State] = []
        self.steps: list[Any] = []
        self.finite: list[Tensor] | None = None
        self.agreed: list[Tensor] | None = None
        self.moved: list[Tensor] | None = None
        self.rates: Any = None
        self.counts = True
        self.before: Callable[[], None] | None = None
        self.after: Callable[[], None] | None = None
        self._kept: list[State] = []
        self._fine: list[Tensor] = []
        self._how = "nearest"
        self._decay: Decay | None = None
        self._saved: list[tuple[Tensor, Tensor, Tensor]] = []
        self._copied = False

    @property
    def is_complex(self) -> bool:
        """Whether the parameters are complex, so that the rule sees pairs."""
        return bool(self.tensors) and self.tensors[0].is_complex()

    @property
    def foreach(self) -> bool:
        """Whether the rule for lists is to be used.

        The group's ``foreach`` (or ``fused``), or, where that is None, whether the
        tensors are plain ones: subclasses may not know the list operations.
        """
        asked = self.group.get("fused") or self.group["foreach"]
        if asked is not None or self.group["differentiable"]:
            return bool(asked)
        return {type(p) for p in self.tensors} <= {Tensor, torch.nn.Parameter}

    def open(self, optimizer: StateKeeper) -> None:
        """Prepare what the rule sees and set aside what must not change.

        Parameters
        ----------
        optimizer : BaseOptimizer
            Gives the state of each tensor and the largest gradient it can take.
        """
        if self.before is not None:
            self.before()
        group, differentiable = self.group, self.group["differentiable"]
        wide = state_dtype(self.tensors[0].dtype)
        self.grads = [p.grad for p in self.tensors if p.grad is not None]
        if any(g.dtype != wide for g in self.grads):
            self.grads = [g.to(wide) for g in self.grads]
        if self.is_complex:
            self.grads = [real(g) for g in self.grads]
        self._kept = states_of(optimizer, self.tensors, group)
        limits = _limits(optimizer, self.grads, group)
        if differentiable or reads_flags_for_free(self.tensors[0].device):
            agreed = self.agreed and torch.stack(self.agreed).tolist()
            stack = self.foreach and not group.get("fused")
            fine = agreed or _readable_flags(self.grads, limits, stack)
            self._take_out(fine, self._told(optimizer))
        else:
            self._fine = self.agreed or _device_flags(self.grads, limits)
            told = self._told(optimizer)
            pairs = zip(self._fine, told or self._fine, strict=True)
            self.finite = [a & b for a, b in pairs] if told else self._fine
        if differentiable:
            self._kept = [
                {k: v.clone() for k, v in tensors_of(s).items()} for s in self._kept
            ]
        if self._kept:
            self._count()
        if group["maximize"] and self.grads:
            self.grads = list(torch._foreach_neg(self.grads))
        self.states = self._kept
        if self.is_complex:
            self.states = [
                {k: real(v) for k, v in tensors_of(s).items()} for s in self._kept
            ]
        if self.tensors and group.get("rounding", "nearest") != "nearest":
            self._how = rounding_of(self.tensors[0], group)
        if self._how == "compensated":  # the rule need not know
            self.states = [_without(s, RESIDUAL) for s in self._kept]
        self.params = self._opened(wide)
        if self.params and group.get("decay", "plain") != "plain" and apart(group):
            self._decay = Decay(self.params, group)
            self.group = {**group, "weight_decay": 0.0}
        if self.finite is not None:
            self._set_aside(self.finite)

    def close(self, optimizer: StateKeeper) -> None:
        """Undo the tensors that were to be left alone; write the others back.

        Parameters
        ----------
        optimizer : BaseOptimizer
            Receives the new state where the rule worked on copies.
        """
        if self._decay is not None:
            rates = self.group["lr"] if self.rates is None else self.rates
            watched = getattr(optimizer, "warmup_steps", 0)
            early = [watched > 0 and t <= watched for t in self.steps]
            self._decay.act(self.params, rates, early)
        for flag, new, old in self._saved:
            torch.where(flag, new, old, out=new)
        self._saved = []
        if self._how != "nearest":
            for i, (p, new) in enumerate(zip(self.tensors, self.params, strict=True)):
                fine = self.finite[i] if self.finite else None
                written(p, new, self._kept[i], self._how, fine)
        elif self._copied:
            for p, new in zip(self.tensors, self.params, strict=True):
                real(p).copy_(new)
        if self.group["differentiable"]:
            for p, state in zip(self.tensors, self._kept, strict=True):
                optimizer.state[p].update(state)
        if self.after is not None:
            self.after()

    def _opened(self, wide: torch.dtype) -> list[Tensor]:
        """The parameters as the rule is to see them."""
        tensors, differentiable = self.tensors, self.group["differentiable"]
        self._copied = differentiable or any(p.dtype != wide for p in tensors)
        if not self._copied and not self.is_complex:
            return list(tensors)
        pairs = zip(tensors, self._kept, strict=True)
        same = [opened(p, state, wide, self._how) for p, state in pairs]
        return [real(p.clone() if differentiable else p) for p in same]

    def _told(self, optimizer: StateKeeper) -> list[Tensor] | None:
        """Which gradients are not zero, if a zero counts as none."""
        if not optimizer.rule_of(self.group).zero_is_none:
            return None
        return self.moved or nonzero_flags(self.grads)

    def _take_out(self, fine: list[bool], told: list[Tensor] | None) -> None:
        for state, kept in zip(self._kept, fine, strict=True):
            if not kept:
                state["skipped"] += 1
        moved = torch.stack(told).tolist() if told else fine
        keep = [a and b for a, b in zip(fine, moved, strict=True)]
        if all(keep):
            return
        self.tensors = _where(keep, self.tensors)
        self.grads = _where(keep, self.grads)
        self._kept = _where(keep, self._kept)

    def _count(self) -> None:
        """Advance the counters: steps taken, and those that will be undone."""
        counters = [state["step"] for state in self._kept]
        self.steps = counters
        if self.finite is not None:
            taken = torch.stack(self.finite).to(counters[0].dtype)
            torch._foreach_add_(counters, list(taken.unbind()))
            skipped = [state["skipped"] for state in self._kept]
            fine = torch.stack(self._fine).to(taken.dtype)
            torch._foreach_add_(skipped, list((1.0 - fine).unbind()))
            return
        if counters[0].is_cpu and not self.group["differentiable"]:
            advance(counters)
        else:
            torch._foreach_add_(counters, 1.0)
        if not self.group["capturable"]:
            self.steps = _read(counters, self.group)

    def _set_aside(self, flags: list[Tensor]) -> None:
        pairs = zip(flags, self.grads, strict=True)
        self.grads = [torch.where(flag, g, 0.0) for flag, g in pairs]
        for flag, p, state in zip(flags, self.params, self.states, strict=True):
            own = tensors_of(state).items()
            kept = [v for k, v in own if k not in ("step", "skipped")]
            self._saved += [(flag, x, x.clone()) for x in (p, *kept)]


def _without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


def _where(keep: list[bool], values: list[Any]) -> list[Any]:
    return [value for value, kept in zip(values, keep, strict=True) if kept]


def _read(counters: list[Tensor], group: Mapping[str, Any]) -> list[float]:
    """Their numbers; one by one where ``torch.func`` may stand around them."""
    if group["differentiable"]:
        return [float(count) for count in counters]
    found: list[float] = torch.stack(counters).tolist()
    return found


def reads_flags_for_free(device: torch.device) -> bool:
    """Whether reading one number from this device makes nobody wait."""
    return device.type == "cpu"


def _limits(
    optimizer: StateKeeper, grads: list[Tensor], group: Mapping[str, Any]
) -> list[float]:
    """How large each gradient may be; asked once for all of one shape."""
    shapes = [g.shape for g in grads]
    some = dict(zip(shapes, grads, strict=True))
    limit = optimizer.rule_of(group).gradient_limit
    known = {x: limit(g, group) for x, g in some.items()}
    return [known[shape] for shape in shapes]


# Gradients of fewer numbers are looked at together.
SMALL = 2**14


@torch.no_grad()
def _readable_flags(
    grads: list[Tensor], limits: list[float], stack: bool = False
) -> list[bool]:
    """Whether each gradient is finite and within its limit."""
    shapes = {g.shape for g in grads}
    if len(grads) > 2 and max(shape.numel() for shape in shapes) < SMALL:
        if stack and len(shapes) == 1:
            fine = _within(torch.stack(grads), min(limits))
        else:
            norms = torch.stack(torch._foreach_norm(grads))
            fine = float(norms.max()) <= min(limits)
        if fine:
            return [True] * len(grads)
    return [_within(g, limit) for g, limit in zip(grads, limits, strict=True)]


def _within(x: Tensor, limit: float) -> bool:
    low, high = torch.aminmax(x)  # NaN if one entry is
    return -limit <= float(low) and float(high) <= limit


@torch.no_grad()
def nonzero_flags(grads: list[Tensor]) -> list[Tensor]:
    """Whether each gradient has an entry that is not zero; nothing is read back."""
    largest = torch.stack(torch._foreach_norm(grads, ord=math.inf))
    return list((largest != 0).unbind())


def _device_flags(grads: list[Tensor], limits: list[float]) -> list[Tensor]:
    """The same as 0-d booleans on the device; nothing is read back."""
    largest = torch.stack(torch._foreach_norm(grads, ord=math.inf))
    if len(set(limits)) == 1:
        return list((largest <= limits[0]).unbind())
    pairs = zip(largest.unbind(), limits, strict=True)
    return [value <= limit for value, limit in pairs]


def states_of(
    optimizer: Any, tensors: list[Tensor], group: Mapping[str, Any]
) -> list[State]:
    """The states of tensors of a group; `state_of` is asked where it has to act."""
    if not getattr(optimizer, "tends_state", True):
        needed = optimizer.entries(group)
        states = [optimizer.state[p] for p in tensors]
        if all(needed <= set(names) for names in {tuple(state) for state in states}):
            return states
    return [optimizer.state_of(p, group) for p in tensors]


def advance(counters: list[Tensor]) -> None:
    """Add one to counters on a CPU."""
    torch._foreach_add_(counters, torch.ones(()), alpha=1.0)
