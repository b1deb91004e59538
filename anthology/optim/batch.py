"""What an update rule sees: real, finite, single- or double-precision tensors.

Parameters may be bfloat16, complex, non-contiguous, or may have received a NaN;
an update rule should not have to know. A `Batch` holds tensors of one parameter
group that share a device and a dtype. `open` prepares them for the rule,
`close` writes the results back.

The NaN policy lives here too: a tensor whose gradient is not finite (or too large
for the state, see ``BaseOptimizer.gradient_limit``) is left exactly as it was,
parameter and state, and its ``skipped`` counter goes up. Where the flag can be read
for nothing (CPU) such tensors are taken out before the rule runs. Elsewhere reading
it would make the host wait for the device, so the rule runs on a gradient of zeros
and the old values are selected afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Limit = Callable[[Tensor, Mapping[str, Any]], float]


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which state is kept and rules compute: at least float32.

    Parameters
    ----------
    dtype : torch.dtype
        A parameter's dtype, real or complex.

    Returns
    -------
    torch.dtype
        float32 or complex64 for what is narrower, the dtype itself otherwise.
    """
    narrow = torch.complex64 if dtype.is_complex else torch.float32
    return torch.promote_types(dtype, narrow)


def real(x: Tensor) -> Tensor:
    """``x`` itself, or its view as pairs (real, imaginary) along a new last axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def reads_flags_for_free(device: torch.device) -> bool:
    """Whether reading one number from this device makes nobody wait."""
    return device.type == "cpu"


class Batch:
    """Tensors of one group, one device and one dtype, on their way through a rule.

    Attributes
    ----------
    group : dict
        The hyper-parameters, with ``lr`` resolved to a float or a 0-d tensor.
    tensors : list of Tensor
        The parameters themselves.
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
        update will be undone. None where such tensors have been taken out.
    """

    def __init__(self, group: dict[str, Any], tensors: list[Tensor]) -> None:
        self.group = group
        self.tensors = tensors
        self.params: list[Tensor] = []
        self.grads: list[Tensor] = []
        self.states: list[State] = []
        self.steps: list[Any] = []
        self.finite: list[Tensor] | None = None
        self._saved: list[tuple[Tensor, Tensor, Tensor]] = []

    def open(self, optimizer: Any) -> None:
        """Prepare what the rule sees and set aside what must not change.

        Parameters
        ----------
        optimizer : BaseOptimizer
            Gives the state of each tensor and the largest gradient it can take.
        """
        group, tensors = self.group, self.tensors
        wide = state_dtype(tensors[0].dtype)
        grads = [real(p.grad.to(wide)) for p in tensors if p.grad is not None]
        states = [optimizer.state_of(p, group) for p in tensors]
        limits = [optimizer.gradient_limit(g, group) for g in grads]
        device = tensors[0].device
        if group["differentiable"] or reads_flags_for_free(device):
            keep = _readable_flags(grads, limits)
            if not all(keep):
                for state, kept in zip(states, keep, strict=True):
                    if not kept:
                        state["skipped"] += 1
                tensors = [p for p, kept in zip(tensors, keep, strict=True) if kept]
                grads = [g for g, kept in zip(grads, keep, strict=True) if kept]
                states = [s for s, kept in zip(states, keep, strict=True) if kept]
            self.tensors = tensors
        else:
            self.finite = list(_device_flags(grads, limits))
        if group["differentiable"]:
            states = [{k: v.clone() for k, v in s.items()} for s in states]
        self._count(states)
        if group["maximize"]:
            grads = list(torch._foreach_neg(grads)) if grads else grads
        if self.finite is not None:
            pairs = zip(self.finite, grads, strict=True)
            grads = [torch.where(flag, g, 0.0) for flag, g in pairs]
        self.grads = grads
        self.params = [real(p.to(wide)) for p in tensors]
        if group["differentiable"]:
            self.params = [p.clone() for p in self.params]
        self.states = states
        if tensors and tensors[0].is_complex():
            self.states = [{k: real(v) for k, v in s.items()} for s in states]
        self._raw_states = states
        if self.finite is not None:
            self._save(self.finite)

    def _count(self, states: list[State]) -> None:
        """Advance the step counters of the tensors that take this step."""
        if not states:
            return
        counters = [s["step"] for s in states]
        if self.finite is None:
            torch._foreach_add_(counters, 1.0)
            if not (self.group["capturable"] or self.group["differentiable"]):
                self.steps = torch.stack(counters).tolist()
                return
        else:
            taken = torch.stack(self.finite).to(counters[0].dtype)
            torch._foreach_add_(counters, list(taken.unbind()))
            skipped = [s["skipped"] for s in states]
            torch._foreach_add_(skipped, list((1.0 - taken).unbind()))
        self.steps = counters

    def _save(self, flags: list[Tensor]) -> None:
        for flag, p, state in zip(flags, self.params, self.states, strict=True):
            kept = [v for k, v in state.items() if k not in ("step", "skipped")]
            self._saved += [(flag, x, x.clone()) for x in (p, *kept)]

    def close(self, optimizer: Any) -> None:
        """Undo the tensors that were to be left alone; write the others back.

        Parameters
        ----------
        optimizer : BaseOptimizer
            Receives the new state where the rule worked on copies.
        """
        for flag, new, old in self._saved:
            torch.where(flag, new, old, out=new)
        self._saved = []
        differentiable = self.group["differentiable"]
        if not self.tensors:
            return
        if differentiable or state_dtype(self.tensors[0].dtype) != self.tensors[0].dtype:
            for p, new in zip(self.tensors, self.params, strict=True):
                real(p).copy_(new)
        if differentiable:
            for p, state in zip(self.tensors, self._raw_states, strict=True):
                optimizer.state[p].update(state)


def _readable_flags(grads: list[Tensor], limits: list[float]) -> list[bool]:
    """Whether each gradient is finite and within its limit.

    The Euclidean norm bounds the largest entry and is ten times cheaper on a CPU;
    the entries themselves are looked at only where that bound does not settle it.
    """
    if not grads:
        return []
    grads = [g.detach() for g in grads]
    norms = torch.stack(torch._foreach_norm(grads)).tolist()
    return [
        norm <= limit or bool(g.abs().max() <= limit)
        for norm, limit, g in zip(norms, limits, grads, strict=True)
    ]


def _device_flags(grads: list[Tensor], limits: list[float]) -> tuple[Tensor, ...]:
    """The same as 0-d booleans on the device; nothing is read back."""
    largest = torch.stack(torch._foreach_norm(grads, ord=math.inf))
    if len(set(limits)) == 1:
        return (largest <= limits[0]).unbind()
    pairs = zip(largest.unbind(), limits, strict=True)
    return tuple(value <= limit for value, limit in pairs)
