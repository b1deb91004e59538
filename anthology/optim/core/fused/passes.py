"""One pass over the memory by `torch.compile`, for rules that work entry by entry.

What is compiled, once for each choice of hyper-parameters, stands in `compiling`.
Here it meets the tensors of an optimizer: on a CPU all in one call, elsewhere one by
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..batch import Batch, advance, reads_flags_for_free, states_of
from ..state import State, real, state_dtype
from .compile import EXAMPLE, flat_step, plain_step
from .direct import Kernel, compile_direct
from .lists import Lists, compile_lists
from .numbers import Numbers

_kernels: dict[Any, Kernel | Lists | None] = {}


def compiled_kernels() -> int:
    """How many passes have been compiled so far in this process."""
    return sum(kernel is not None for kernel in _kernels.values())


def run(optimizer: Any, batch: Batch) -> list[Tensor]:
    """One step of the tensors of a batch that compiled passes can take."""
    passes = Passes(optimizer, batch.group)
    left = passes.run(batch.tensors)
    passes.finish()
    return left


class Passes:
    """The passes over tensors of one group in one step."""

    def __init__(self, optimizer: Any, group: Mapping[str, Any]) -> None:
        self.optimizer, self.group = optimizer, group
        self.numbers = Numbers(optimizer, group)
        threads = torch.get_num_threads()
        self.rule = optimizer.rule_of(group)
        self.key = (self.rule, threads, *self.numbers.key)
        self.kernels: dict[Any, Kernel | Lists | None] = {}
        self.taken: list[Tensor] = []
        self.states: list[State] = []

    def run(self, tensors: list[Tensor]) -> list[Tensor]:
        """One step of those that lie flat in the memory."""
        states = states_of(self.optimizer, tensors, self.group)
        sorts, left = _sorts(tensors, states)
        for sort in sorts:
            if not self.all_in_one(sort):
                for p, state in zip(sort.tensors, sort.states, strict=True):
                    self.alone(p, state)
        return left

    def all_in_one(self, sort: _Sort) -> bool:
        """One call for tensors of one sort; False where that cannot be."""
        p, states = sort.tensors[0], sort.states
        if not reads_flags_for_free(p.device) or p.is_complex():
            return False
        lists: Any = self.kernel(p, sort.grads[0], states[0], compile_lists)
        if lists is None:
            return False
        counters = [state["step"] for state in states]
        steps = torch.stack(counters).tolist()
        numbers = {t: self.numbers.at(t, p.dtype).data_ptr() for t in set(steps)}
        tensors = (sort.tensors, sort.grads, *sort.entries)
        columns = [list(map(Tensor.data_ptr, xs)) for xs in tensors]
        if len(set(columns[0])) < len(columns[0]):
            return False  # two parameters in one place must not move at the same time
        columns.insert(2, [numbers[t] for t in steps])
        limit = self.numbers.limit(p.dtype)
        taken = lists(columns, sort.sizes, limit, self.rule.zero_is_none)
        if set(taken) != {1}:
            pairs = zip(counters, taken, strict=True)
            counters = [counter for counter, code in pairs if code == 1]
            for state, code in zip(states, taken, strict=True):
                state["skipped"] += code == 0
        if counters:
            advance(counters)
        return True

    def alone(self, p: Tensor, state: State) -> None:
        """A pass over one tensor, which finds out whether it counts."""
        grad = _flat(p.grad)  # type: ignore[arg-type]
        kernel: Any = self.kernel(p, grad, state, compile_direct)
        numbers = self.numbers.of(state, p.dtype)
        entries = [_flat(state[name]) for name in _names(state)]
        self.taken.append(kernel(_flat(p), grad, numbers, *entries))
        self.states.append(state)

    def finish(self) -> None:
        """Advance the counters: steps taken, and those not taken."""
        if not self.states:
            return
        steps = [state["step"] for state in self.states]
        codes = torch.stack(self.taken)
        taken = (codes == 1).to(steps[0].dtype)
        torch._foreach_add_(steps, list(taken.unbind()))
        if not reads_flags_for_free(taken.device) or not taken.all():
            skipped = [state["skipped"] for state in self.states]
            refused = (codes == 0).to(taken.dtype)
            torch._foreach_add_(skipped, list(refused.unbind()))

    def kernel(self, p: Tensor, grad: Tensor, state: State, compiler: Any) -> Any:
        """The compiled pass for these hyper-parameters, made at the first call."""
        short = (compiler, p.device, p.dtype, grad.dtype, *state)
        if short in self.kernels:
            return self.kernels[short]
        names = _names(state)
        kinds = [(state[name].dtype, state[name].dim() > 0) for name in names]
        key = (self.key, short, *kinds)
        if key not in _kernels:
            like = real(torch.empty(0, dtype=state_dtype(p.dtype), device="meta"))
            rule = (self.rule, self.numbers.plain, names, like.dtype)
            pure = plain_step(*rule, self.numbers.varying)
            if compiler is not compile_lists:
                pure = flat_step(pure, like.dtype, rule[0].zero_is_none)
            length = self.numbers.at(0.0, p.dtype).numel()
            sizes = [real(p).dtype, grad.dtype]
            example = [torch.zeros(EXAMPLE, dtype=x, device=p.device) for x in sizes]
            example.append(torch.ones(length, dtype=like.dtype, device=p.device))
            example += [
                _flat(torch.zeros(EXAMPLE if whole else (), dtype=x, device=p.device))
                for x, whole in ((x.to_real(), whole) for x, whole in kinds)
            ]
            _kernels[key] = compiler(pure, example)
        self.kernels[short] = _kernels[key]
        return self.kernels[short]


COUNTERS = ("step", "skipped")


def _names(state: State) -> list[str]:
    """The entries of a state that a rule reads."""
    own = state.items()
    return [name for name, x in own if name not in COUNTERS and isinstance(x, Tensor)]


class _Sort(NamedTuple):
    """Tensors that go through the same pass, with what they bring along."""

    tensors: list[Tensor]
    states: list[State]
    grads: list[Tensor]
    entries: list[list[Tensor]]  # one list a name
    sizes: list[int]


def _sorts(
    tensors: list[Tensor], states: list[State]
) -> tuple[list[_Sort], list[Tensor]]:
    """All tensors by sort, and those that do not fit."""
    if len({tuple(state) for state in states}) == 1:
        sort = _sort(tensors, states)
        if _uniform(sort):
            return [sort], []
    found: dict[Any, tuple[list[Tensor], list[State]]] = {}
    left = []
    for p, state in zip(tensors, states, strict=True):
        alone = _sort([p], [state])
        if not _uniform(alone):
            left.append(p)
            continue
        kinds = [(xs[0].dtype, xs[0].dim() > 0) for xs in alone.entries]
        lists = found.setdefault((alone.grads[0].dtype, *state, *kinds), ([], []))
        lists[0].append(p)
        lists[1].append(state)
    return [_sort(*lists) for lists in found.values()], left


def _sort(tensors: list[Tensor], states: list[State]) -> _Sort:
    grads: list[Tensor] = [p.grad for p in tensors]  # type: ignore[misc]
    entries = [[state[name] for state in states] for name in _names(states[0])]
    return _Sort(tensors, states, grads, entries, list(map(Tensor.numel, tensors)))


def _uniform(sort: _Sort) -> bool:
    """Whether all lie flat, with a gradient and averages alike in dtype and length."""
    if min(sort.sizes) < 2 or not all(map(Tensor.is_contiguous, sort.tensors)):
        return False
    ones = [1] * len(sort.sizes)
    return all(
        len({x.dtype for x in xs}) == 1
        and all(map(Tensor.is_contiguous, xs))
        and list(map(Tensor.numel, xs)) == (sort.sizes if xs[0].dim() else ones)
        for xs in (sort.grads, *sort.entries)
    )


def _flat(x: Tensor) -> Tensor:
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.detach().view(-1) if x.dim() else x
