"""What an update rule sees: real, finite, single- or double-precision tensors.

Parameters may be bfloat16, complex, non-contiguous, or may have received a NaN;
an update rule should not have to know. A `Batch` holds tensors of one parameter
group that share a device and a dtype. `open` prepares them for the rule,
`close` writes the results back.

The NaN policy lives here too. An entry of a gradient is bad if it is not finite, or
too large for the state (``Rule.gradient_limit``). A rule that works entry by entry
leaves the bad ones exactly as they were, parameter and state, any other rule the whole
tensor; the ``skipped`` counter of the tensor goes up. The rule runs on zeros there, and
the old values are selected afterwards. Where flags can be read for nothing (CPU),
tensors without a bad entry pay no more than the look, and whole ones are taken out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .decay import Decay, apart
from .rounding import RESIDUAL, opened, rounding_of, written
from .rule import Rule
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
        states are written in place; ``grads`` may be the users' and never are.
    states : list of dict
        The state of each parameter, as real tensors.
    steps : list of float or Tensor
        How many steps each parameter has taken, this one included.
    finite : list of Tensor or None
        Where tensors are left alone whole and flags could not be read: 0-d booleans,
        False for a gradient that has a bad entry or counts as none. None where such
        tensors have been taken out.
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
        self._flags: list[Tensor | None] = []  # what may change, of each; None: all
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

    def open(self, optimizer: StateKeeper, whole: bool | None = None) -> None:
        """Prepare what the rule sees and set aside what must not change.

        Parameters
        ----------
        optimizer : BaseOptimizer
            Gives the state of each tensor and the largest gradient it can take.
        whole : bool, optional
            Whether a bad entry stops its whole tensor. Default: if the rule does not
            work entry by entry.
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
        rule = optimizer.rule_of(group)
        if whole is None:
            whole = not rule.entrywise
        limits, told = _limits(rule, self.grads, group), None
        if rule.zero_is_none:
            told = self.moved or nonzero_flags(self.grads)
        if differentiable or reads_flags_for_free(self.tensors[0].device):
            self._look(limits, told, whole)
            taken = None
        else:
            taken = self._flagged(limits, told, whole)
        if differentiable:
            self._kept = [
                {k: v.clone() for k, v in tensors_of(s).items()} for s in self._kept
            ]
        if self._kept:
            self._count(taken)
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
        if self._flags:
            self._set_aside()

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
            if self.group["differentiable"]:
                new.copy_(torch.where(flag, new, old))
            else:
                torch.where(flag, new, old, out=new)
        self._saved = []
        if self._how != "nearest":
            for i, (p, new) in enumerate(zip(self.tensors, self.params, strict=True)):
                some = self._flags[i] if self._flags else None
                written(p, new, self._kept[i], self._how, some)
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

    def _look(
        self, limits: list[float], told: list[Tensor] | None, whole: bool
    ) -> None:
        """Find the bad entries where that is free; take tensors out that rest whole."""
        agreed = self.agreed and torch.stack(self.agreed).tolist()
        stack = self.foreach and not self.group.get("fused")
        fine: list[bool] = agreed or _readable_flags(self.grads, limits, stack)
        if told is None and all(fine):
            return
        for state, kept in zip(self._kept, fine, strict=True):
            if not kept:
                state["skipped"] += 1
        moved = torch.stack(told).tolist() if told else [True] * len(fine)
        keep = [a and (b or not whole) for a, b in zip(moved, fine, strict=True)]
        if not whole and not all(fine):
            triples = zip(fine, self.grads, limits, strict=True)
            self._flags = [None if a else g.abs() <= top for a, g, top in triples]
        if not all(keep):
            self.tensors = _where(keep, self.tensors)
            self.grads = _where(keep, self.grads)
            self._kept = _where(keep, self._kept)
            self._flags = _where(keep, self._flags) if self._flags else []

    def _flagged(
        self, limits: list[float], told: list[Tensor] | None, whole: bool
    ) -> list[Tensor] | None:
        """The same by flags on the device; which tensors take the step, None for all."""
        fine = self.agreed or _device_flags(self.grads, limits)
        skipped = [state["skipped"] for state in self._kept]
        refused = 1.0 - torch.stack(fine).to(skipped[0].dtype)
        torch._foreach_add_(skipped, list(refused.unbind()))
        flags, taken = fine, told
        if not whole:
            pairs = zip(self.grads, limits, strict=True)
            flags = [g.abs() <= top for g, top in pairs]
        if told is not None:
            flags = [a & b for a, b in zip(flags, told, strict=True)]
        if whole:
            self.finite = taken = flags
        self._flags = list(flags)
        return taken

    def _count(self, taken: list[Tensor] | None) -> None:
        """Advance the counters of steps, where flags say so or all of them."""
        counters = [state["step"] for state in self._kept]
        self.steps = counters
        if taken is not None:
            ones = torch.stack(taken).to(counters[0].dtype)
            torch._foreach_add_(counters, list(ones.unbind()))
        elif counters[0].is_cpu and not self.group["differentiable"]:
            advance(counters)
        else:
            torch._foreach_add_(counters, 1.0)
        here = self.group["differentiable"] or reads_flags_for_free(counters[0].device)
        if here and not self.group["capturable"]:
            self.steps = _read(counters, self.group)

    def _set_aside(self) -> None:
        """Give the rule zeros for what is bad, and keep what must not change."""
        for i, flag in enumerate(self._flags):
            if flag is None:
                continue
            self.grads[i] = torch.where(flag, self.grads[i], 0.0)
            p, own = self.params[i], tensors_of(self.states[i]).items()
            kept = [v for k, v in own if k not in ("step", "skipped")]
            if flag.dim():  # what is one number for the tensor goes on
                kept = [v for v in kept if v.shape == p.shape]
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


def _limits(rule: Rule, grads: list[Tensor], group: Mapping[str, Any]) -> list[float]:
    """How large each gradient may be; asked once for all of one shape."""
    shapes = [g.shape for g in grads]
    some = dict(zip(shapes, grads, strict=True))
    known = {x: rule.gradient_limit(g, group) for x, g in some.items()}
    return [known[shape] for shape in shapes]


# Gradients of fewer numbers are looked at together.
SMALL = 2**14


@torch.no_grad()
def _readable_flags(
    grads: list[Tensor], limits: list[float], stack: bool = False
) -> list[bool]:
    """Whether each gradient is finite and within its limit."""
    if not grads:
        return []
    shapes = {g.shape for g in grads}
    small = len(grads) > 2 and max(shape.numel() for shape in shapes) < SMALL
    if small and stack and len(shapes) == 1:
        norms = torch.linalg.vector_norm(torch.stack(grads).flatten(1), dim=1)
    else:
        norms = torch.stack(torch._foreach_norm(grads))
    # a length below the limit says it of every entry, and is read twice as fast
    lengths = [
        norm < 0.99 * limit for norm, limit in zip(norms.tolist(), limits, strict=True)
    ]
    if all(lengths):
        return lengths
    rows = zip(lengths, grads, limits, strict=True)
    return [short or _within(g, limit) for short, g, limit in rows]


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
