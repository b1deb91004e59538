"""One pass over the memory by `torch.compile`, for rules that work entry by entry.

What is compiled, once for each choice of hyper-parameters, stands in `compiling`.
Here it meets the tensors of an optimizer: large ones one by one, small ones of equal
shapes end to end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .batch import reads_flags_for_free
from .compiling import EXAMPLE, Kernel, compile_flat, flat_step
from .state import State, real, state_dtype

# Tensors below this go through the pass laid end to end where flags can be read.
SMALL = 2**14
# Numbers of one tensor in such a pass; with its state they should stay in the cache.
PACK = 2**16
_kernels: dict[Any, Kernel] = {}


def compiled_kernels() -> int:
    """How many passes have been compiled so far in this process.

    Returns
    -------
    int
        It grows with a new choice of hyper-parameters or dtype, and not with new
        learning rates, step counts or shapes.
    """
    return len(_kernels)


class Passes:
    """The passes over the tensors of one group in one step.

    Parameters
    ----------
    optimizer : BaseOptimizer
        One whose rule works entry by entry.
    group : dict
        The hyper-parameters, with ``lr`` resolved.
    """

    def __init__(self, optimizer: Any, group: Mapping[str, Any]) -> None:
        self.optimizer, self.group = optimizer, group
        known = [name for name in optimizer.defaults if name not in VARYING]
        self.plain = {name: _plain(group[name]) for name in known}
        self.key = (type(optimizer), torch.get_num_threads(), *self.plain.items())
        self.numbers: dict[Any, Tensor] = {}
        self.kernels: dict[Any, Kernel] = {}
        self.taken: list[Tensor] = []
        self.states: list[State] = []

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One step of those that lie flat in the memory.

        Parameters
        ----------
        tensors : list of Tensor
            Of one device and dtype, with dense gradients.

        Returns
        -------
        list of Tensor
            Those that do not, or are a single number: still to be done.
        """
        free = reads_flags_for_free(tensors[0].device)
        left, packs = [], dict[Any, list[Tensor]]()
        for p in tensors:
            state = self.optimizer.state_of(p, self.group)
            numel = p.numel()
            if numel < 2 or not _lies_flat(p, state):
                left.append(p)
            elif free and numel < SMALL and "started" not in state:
                alike = (p.shape, p.grad.dtype, float(state["step"]))  # type: ignore[union-attr]
                packs.setdefault(alike, []).append(p)
            else:
                self.alone(p, state)
        for pack in packs.values():
            length = max(1, PACK // pack[0].numel())
            for start in range(0, len(pack), length):
                self.together(pack[start : start + length])
        return left

    def alone(self, p: Tensor, state: State) -> None:
        """A pass over one tensor, which finds out whether it counts."""
        grad = _flat(p.grad)  # type: ignore[arg-type]
        kernel = self.kernel(p, grad, state)
        numbers = self.count(state, p.dtype)
        entries = [_flat(x) for name, x in state.items() if name not in COUNTERS]
        self.taken.append(kernel(_flat(p), grad, numbers, *entries))
        self.states.append(state)

    def together(self, pack: list[Tensor]) -> None:
        """A pass over small tensors of one shape, laid end to end."""
        states: list[State] = [self.optimizer.state[p] for p in pack]
        names = [name for name in states[0] if name not in COUNTERS]
        lists = [pack, *([state[name] for state in states] for name in names)]
        if len(pack) > 1:
            joined = [torch.stack(xs) for xs in lists]
            flat = [_flat(x) for x in joined]
            grads = _flat(torch.stack([p.grad for p in pack]))  # type: ignore[misc]
            kernel = self.kernel(pack[0], grads, states[0])
            if kernel(flat[0], grads, self.count(states[0], pack[0].dtype), *flat[1:]):
                for xs, x in zip(lists, joined, strict=True):
                    torch._foreach_copy_(xs, x.unbind())
                torch._foreach_add_([state["step"] for state in states], 1.0)
                return
        for p, state in zip(pack, states, strict=True):  # alone, or one is not finite
            self.alone(p, state)

    def finish(self) -> None:
        """Advance the counters: steps taken, and those not taken."""
        if not self.states:
            return
        steps = [state["step"] for state in self.states]
        taken = torch.stack(self.taken).to(steps[0].dtype)
        torch._foreach_add_(steps, list(taken.unbind()))
        if not reads_flags_for_free(taken.device) or not taken.all():
            skipped = [state["skipped"] for state in self.states]
            torch._foreach_add_(skipped, list((1.0 - taken).unbind()))

    def count(self, state: State, dtype: torch.dtype) -> Tensor:
        """η and, for each β, what `Counted` holds: one vector on the device."""
        step, betas = state["step"], self.group.get("betas", ())
        kind, lr = state_dtype(dtype).to_real(), self.group["lr"]
        if not reads_flags_for_free(step.device):
            like = step.double()  # a number is filled in there, for a copy would wait
            rate = lr.to(like) if isinstance(lr, Tensor) else like.new_full((), lr)
            values = [rate]
            for beta in betas:
                weight = 1 - torch.pow(beta, step.double() + 1)
                values += [weight, weight.sqrt(), rate / weight]
            return torch.stack(values).to(kind)
        t = float(step) + 1
        if (t, dtype) not in self.numbers:
            found = [float(lr)]
            for beta in betas:
                weight = 1 - beta**t
                found += [weight, math.sqrt(weight), found[0] / weight]
            self.numbers[t, dtype] = torch.tensor(found, dtype=kind)
        return self.numbers[t, dtype]

    def kernel(self, p: Tensor, grad: Tensor, state: State) -> Kernel:
        """The compiled pass for these hyper-parameters, made at the first call."""
        short = (p.device, p.dtype, grad.dtype, *state)
        if short in self.kernels:
            return self.kernels[short]
        names = [name for name in state if name not in COUNTERS]
        kinds = [(state[name].dtype, state[name].dim() > 0) for name in names]
        key = (self.key, short, *kinds)
        if key not in _kernels:
            like = real(torch.empty(0, dtype=state_dtype(p.dtype), device="meta"))
            limit = self.optimizer.gradient_limit(like, self.group)
            pure = flat_step(type(self.optimizer), self.plain, names, like.dtype, limit)
            length = 1 + 3 * len(self.group.get("betas", ()))
            sizes = [real(p).dtype, grad.dtype]
            example = [torch.zeros(EXAMPLE, dtype=x, device=p.device) for x in sizes]
            example.append(torch.ones(length, dtype=like.dtype, device=p.device))
            example += [
                _flat(torch.zeros(EXAMPLE if whole else (), dtype=x, device=p.device))
                for x, whole in ((x.to_real(), whole) for x, whole in kinds)
            ]
            _kernels[key] = compile_flat(pure, example)
        self.kernels[short] = _kernels[key]
        return self.kernels[short]


COUNTERS = ("step", "skipped")


def _lies_flat(p: Tensor, state: State) -> bool:
    if not p.is_contiguous() or not p.grad.is_contiguous():  # type: ignore[union-attr]
        return False
    return all(x.is_contiguous() for x in state.values())


def _flat(x: Tensor) -> Tensor:
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.detach().view(-1) if x.dim() else x


# What changes from step to step, or does not change what is computed.
VARYING = ("lr", "foreach", "fused", "capturable", "rounding")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
