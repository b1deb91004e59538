"""One pass over the memory by `torch.compile`, for rules that work entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch import Batch, advance, reads_flags_for_free, states_of
from ..state import State, real, state_dtype
from .compile import EXAMPLE, Numbers, flat_step, plain_step
from .direct import Kernel, compile_direct

_kernels: dict[Any, Kernel] = {}
COUNTERS = ("step", "skipped")
# For fewer numbers a call takes longer than list operations do.
LEAST = 2**14


def compiled_kernels() -> int:
    """How many passes have been compiled so far in this process."""
    return len(_kernels)


def run_compiled(optimizer: Any, batch: Batch) -> list[Tensor]:
    """One step of the tensors of a batch that compiled passes can take."""
    passes, left = Passes(optimizer, batch.group), []
    for p, state in zip(
        batch.tensors, states_of(optimizer, batch.tensors, batch.group), strict=True
    ):
        if p.numel() < LEAST or not _lies_flat(p, state):
            left.append(p)
        elif not (passes.rule.zero_is_none and _rests(p)):
            passes.step(p, state)
    passes.finish()
    return left


class Passes:
    """The passes over tensors of one group in one step."""

    def __init__(self, optimizer: Any, group: Mapping[str, Any]) -> None:
        self.numbers = Numbers(optimizer, group)
        self.rule = optimizer.rule_of(group)
        self.key = (self.rule, torch.get_num_threads(), *self.numbers.key)
        self.kernels: dict[Any, Kernel] = {}
        self.bad: list[Tensor] = []
        self.states: list[State] = []

    def step(self, p: Tensor, state: State) -> None:
        """A pass over one tensor, which finds out whether it counts."""
        names, grad = _names(state), _flat(p.grad)  # type: ignore[arg-type]
        kernel = self.kernel(p, grad, state, names)
        numbers = self.numbers.of(state, p.dtype)
        entries = [_flat(state[name]) for name in names]
        self.bad.append(kernel(_flat(p), grad, numbers, *entries))
        self.states.append(state)

    def finish(self) -> None:
        """Advance the counters: of steps taken, and of those with bad entries."""
        if not self.states:
            return
        steps = [state["step"] for state in self.states]
        skipped = [state["skipped"] for state in self.states]
        bad = torch.stack(self.bad).to(steps[0].dtype)
        if reads_flags_for_free(bad.device):
            advance(steps)
            if not bad.any():
                return
        else:
            torch._foreach_add_(steps, list((bad != -1).to(bad.dtype).unbind()))
        counted = (bad != 0) & (bad != -1)
        torch._foreach_add_(skipped, list(counted.to(bad.dtype).unbind()))

    def kernel(self, p: Tensor, grad: Tensor, state: State, names: list[str]) -> Kernel:
        """The compiled pass for these hyper-parameters, made at the first call."""
        short = (p.device, p.dtype, grad.dtype, *state)
        if short in self.kernels:
            return self.kernels[short]
        kinds = [(state[name].dtype.to_real(), state[name].dim() > 0) for name in names]
        key = (self.key, short, *kinds)
        if key not in _kernels:
            home, kind = p.device, state_dtype(p.dtype).to_real()
            pure = plain_step(
                self.rule, self.numbers.plain, names, kind, self.numbers.varying
            )
            resting = self.rule.zero_is_none and not reads_flags_for_free(home)
            length = self.numbers.at(0.0, p.dtype).numel()
            example = [torch.zeros(EXAMPLE, dtype=p.dtype.to_real(), device=home)]
            example.append(torch.zeros(EXAMPLE, dtype=grad.dtype, device=home))
            example.append(torch.ones(length, dtype=kind, device=home))
            example += [
                torch.zeros(EXAMPLE if whole else (), dtype=x, device=home)
                for x, whole in kinds
            ]
            _kernels[key] = compile_direct(flat_step(pure, kind, resting), example)
        self.kernels[short] = _kernels[key]
        return self.kernels[short]


def _names(state: State) -> list[str]:
    """The entries of a state that a rule reads."""
    own = state.items()
    return [name for name, x in own if name not in COUNTERS and isinstance(x, Tensor)]


def _lies_flat(p: Tensor, state: State) -> bool:
    """Whether a tensor, its gradient and its averages are lines of one length."""
    lines = [p, p.grad, *(state[name] for name in _names(state))]
    return all(
        x is not None and x.is_contiguous() and (not x.dim() or x.numel() == p.numel())
        for x in lines
    )


def _rests(p: Tensor) -> bool:
    """Whether a gradient is zero, where one may look; a sample nearly always tells."""
    if not reads_flags_for_free(p.device):
        return False
    g = _flat(p.grad)  # type: ignore[arg-type]
    return not (g[:: -(-len(g) // 64)].any() or g.any())


def _flat(x: Tensor) -> Tensor:
    return real(x).detach().view(-1) if x.dim() else x
