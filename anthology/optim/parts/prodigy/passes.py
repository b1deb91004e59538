"""Prodigy in two passes over the memory, compiled or by Triton.

Large tensors go alone, small ones of one shape end to end. Where numbers can be read
for nothing (CPU), the smallest and the largest entry of a gradient are read just
before the first pass, which then finds it in the cache, and tensors to be skipped stay
out. Elsewhere a flag on the device says what is written, and the host waits for
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from anthology.kernels.prodigy import move, observe
from anthology.optim.core import batch as batching
from anthology.optim.core import dispatch
from anthology.optim.core.batch import Batch
from anthology.optim.core.decay import apart
from anthology.optim.core.rounding import rounding_of
from anthology.optim.core.state import State, real, state_dtype
from anthology.optim.parts.prodigy.compiled import pass_kernel
from anthology.optim.parts.prodigy.distance import memory
from anthology.optim.parts.prodigy.eager import first_eager, second_eager
from anthology.optim.parts.prodigy.rows import Shelf, Space, Strip, make_lines
from anthology.optim.parts.prodigy.totals import Sums
from anthology.optim.parts.prodigy.update import correction


class TwoPasses:
    """Tensors of one group, device and dtype that take their step in two passes."""

    def __init__(
        self,
        optimizer: Any,
        group: dict[str, Any],
        first: Tensor,
        way: str,
        counts: bool,
    ) -> None:
        self.optimizer, self.group, self.way = optimizer, group, way
        self.tensors: list[Tensor] = []
        self.counts, self.home = counts, first.device
        self.kind = state_dtype(first.dtype).to_real()
        self.reads = batching.reads_flags_for_free(self.home)
        self.memory = memory(group)
        others = {"exp_avg": group["betas"][0] > 0, "s": self.memory > 0}
        self.names = ("exp_avg_sq", *(name for name, kept in others.items() if kept))
        self.sign = -1.0 if group["maximize"] else 1.0
        like = torch.empty(0, dtype=self.kind, device="meta")
        self.limit = optimizer.rule_of(group).gradient_limit(like, group)
        self.states: list[State] = []
        self.rows: list[Strip] = []
        self.rooms = Space(), Space()  # for gradients and for parameters
        self.flags: Tensor | None = None
        self._numbers = Sums(self.kind, self.home)
        self.key = id(group["params"]), self.home, first.dtype, self.names
        names = ["p0", *self.names, "step", *["numerator"] * (self.memory > 0)]
        shelves: dict[Any, Shelf] = optimizer.shelves
        self.shelf = shelves.setdefault(self.key, Shelf(optimizer, names))

    def takes(self, p: Tensor) -> bool:
        """Take a tensor in if it is a line of at least two numbers."""
        if p.numel() < 2 or not p.is_contiguous() or not p.grad.is_contiguous():  # type: ignore[union-attr]
            return False
        if self.way == "foreach" and p.grad.dtype != self.kind:  # type: ignore[union-attr]
            return False
        state = self.optimizer.state.get(p)
        if not state or "p0" not in state or (self.memory and "s" not in state):
            state = self.optimizer.state_of(p, self.group)
        self.tensors.append(p)
        self.states.append(state)
        return True

    def observe(self, d: Any, top: Any) -> tuple[list[Tensor], list[Tensor]]:
        """The first pass over all of them."""
        lr = self.group["lr"]
        d, top = self._number(d), self._number(top)
        unit = (lr > 0) * d / self.group["d0"]
        found, rates = [], []
        for row in self._planned():
            rate = unit * (d * top) * self._correction(row)
            weight = unit * d if self.group["safeguard_warmup"] else rate
            found.append(self._first(row, d, weight))
            rates.append(rate)
            self.rows.append(row)
        self.tensors = [p for row in self.rows for p in row.tensors]
        if not found:
            return [], []
        gather = self._put if self.reads else self._put_where
        products, lengths = gather(found, rates)
        pair = products.sum(), lengths.sum()
        if isinstance(lr, Tensor):
            pair = torch.where(lr > 0, pair[0], 0.0), torch.where(lr > 0, pair[1], 0.0)
        elif lr <= 0:
            pair = torch.zeros_like(pair[0]), torch.zeros_like(pair[1])
        r, length = pair if self.counts else (torch.zeros_like(x) for x in pair)
        return [r], [length]

    def move(self, d: Any, new: Any) -> None:
        """The second pass: decay, and the step."""
        d, new = self._number(d), self._number(new)
        group, tiny = self.group, torch.finfo(self.kind).tiny
        least = group["eps"] * new
        # at least the smallest number, so that 0/0 cannot arise whatever ε is
        least = least.clamp_min(tiny) if isinstance(least, Tensor) else max(least, tiny)
        for row in self.rows:
            size = d * group["lr"] * self._correction(row)
            self._second(row, d, size, least)

    def keep(self, name: str, value: Tensor) -> None:
        """Write d or ``d_max`` into the state of each tensor that has moved."""
        states = [state for row in self.rows for state in row.states if name in state]
        same = value.to(self.home, self.kind)
        if self.flags is None:  # one tensor for all, which is never written again
            for state in states:
                state[name] = same
        elif states:
            kept = [state[name] for state in states]
            new = torch.where(self.flags, same, torch.stack(kept))
            torch._foreach_copy_(kept, list(new.unbind()))

    def _number(self, x: Any) -> Any:
        """A 0-d tensor as a float where reading it is free, else where it is used."""
        if not isinstance(x, Tensor):
            return x
        if self.reads:
            return float(x)
        return x.to(self.home, self.kind, non_blocking=True)

    def _correction(self, row: Strip) -> Any:
        return correction(self.group, row.step, self.kind)

    def _planned(self) -> Iterator[Strip]:
        """What goes through the passes, just before it does."""
        corrected = self.group["use_bias_correction"]
        states = self.states
        if not self.reads:
            grads = [real(p.grad) for p in self.tensors]  # type: ignore[arg-type]
            flags = batching._device_flags(grads, [self.limit] * len(grads))
            for p, state, flag in zip(self.tensors, states, flags, strict=True):
                make_lines(state)
                yield Strip([p], [state], state["step"] + 1 if corrected else 0.0, flag)
            return
        for row in self.shelf.rows_of(self.tensors, states):
            steps = [0.0]
            if corrected:
                steps = (torch.stack(row.of("step")) + 1).tolist()
            row.step, row.grads, row.flag = steps[0], None, None
            apart = steps.count(steps[0]) < len(steps)
            if not apart and self._finite(row):
                yield row
            else:
                yield from self._alone(row, steps)

    def _finite(self, row: Strip) -> bool:
        row.grads = row.joined([p.grad for p in row.tensors], self.rooms[0])  # type: ignore[misc]
        low, high = torch.aminmax(row.grads)
        fine: bool = -self.limit <= float(low) and float(high) <= self.limit
        return fine

    def _alone(self, row: Strip, steps: list[float]) -> Iterator[Strip]:
        """Those of a row that are finite, one by one."""
        for i, (p, state) in enumerate(zip(row.tensors, row.states, strict=True)):
            single = Strip([p], [state], steps[i % len(steps)])
            if self._finite(single):
                yield single
            else:
                state["skipped"] += 1

    def _put(self, sums: list[Tensor], rates: list[Any]) -> tuple[Tensor, Tensor]:
        """Advance the counters and r; return r and the lengths of all tensors."""
        products = []
        for row, (product, _), rate in zip(self.rows, sums, rates, strict=True):
            row.entry("step").add_(1.0)
            r = product.view(-1)
            if self.memory:
                kept = row.entry("numerator").view(-1).mul_(self.memory)
                r = kept.add_(r, alpha=self.sign * rate)
            elif self.sign < 0:
                r = -r
            products.append(r)
        return torch.cat(products), torch.cat([x[1].view(-1) for x in sums])

    def _put_where(self, sums: list[Tensor], rates: list[Any]) -> tuple[Tensor, Tensor]:
        """The same where flags say which tensors move."""
        states = [row.states[0] for row in self.rows]
        flags = torch.stack([row.flag for row in self.rows])  # type: ignore[misc]
        counters = [state["step"] for state in states]
        taken = flags.to(counters[0].dtype)
        torch._foreach_add_(counters, list(taken.unbind()))
        skipped = [state["skipped"] for state in states]
        torch._foreach_add_(skipped, list((1.0 - taken).unbind()))
        products, lengths = torch.stack(sums, 1).unbind()
        products = self.sign * products
        if self.memory:
            kept = [state["numerator"] for state in states]
            old = torch.stack(kept)
            new = self.memory * old + torch.stack(rates) * products
            products = torch.where(flags, new, old)
            torch._foreach_copy_(kept, list(products.unbind()))
        self.flags = flags
        return torch.where(flags, products, 0.0), torch.where(flags, lengths, 0.0)

    def _first(self, row: Strip, d: Any, weight: Any) -> Tensor:
        (beta1, beta2), ahead = self.group["betas"], self.sign * d
        values = [beta1, (1 - beta1) * ahead, beta2, ahead, 1 - beta2]
        values += [self.memory, self.sign * weight]
        if self.way == "triton":
            p, state = row.tensors[0], row.states[0]
            kept = [state[name] for name in ("exp_avg", "exp_avg_sq", "s")]
            numbers = self._numbers.of([ahead, values[-1]])
            betas, g = (beta1, beta2, self.memory), p.grad
            tensors = p.detach(), g, state["p0"], kept, numbers
            return observe(*tensors, betas=betas, finite=row.flag)  # type: ignore[arg-type]
        grads, start = self._grads(row), row.entry("p0")
        params = row.joined(row.tensors, self.rooms[1])
        averages = {name: row.entry(name) for name in self.names}
        if self.way == "foreach":
            return first_eager(params, grads, start, averages, values)
        numbers, flags = self._numbers.of(values), row.flags()
        run = pass_kernel("first", params, grads, self.kind, self.names, bool(flags))
        sums: Tensor = run(params, grads, start, numbers, *averages.values(), *flags)
        return sums

    def _grads(self, row: Strip) -> Tensor:
        if row.grads is None:
            return row.joined([p.grad for p in row.tensors], self.rooms[0])  # type: ignore[misc]
        grads, row.grads = row.grads, None
        return grads

    def _second(self, row: Strip, d: Any, size: Any, least: Any) -> None:
        decay, there = self.group["weight_decay"], self.group["betas"][0] > 0
        if self.way == "triton":
            numbers, p = self._numbers.of([size, least]), row.tensors[0].detach()
            kept = [row.states[0][name] for name in ("exp_avg", "exp_avg_sq")]
            move(p, kept, numbers, decay=decay, finite=row.flag)
            return
        unit, keep = 1.0 if there else self.sign * d, 1 - decay * size
        params, v = row.joined(row.tensors, self.rooms[1]), row.entry("exp_avg_sq")
        m = row.entry("exp_avg") if there else self._grads(row)
        if self.way == "foreach":
            second_eager(params, v, m, keep, size * unit, least)
        else:
            numbers, flags = self._numbers.of([keep, size, unit, least]), row.flags()
            run = pass_kernel("second", params, m, self.kind, (), bool(flags))
            run(*(x.view(-1) for x in (params, v, m)), numbers, *flags)
        row.write(self.rooms[1])


def two_passes(optimizer: Any, batches: list[Batch]) -> list[Any]:
    """What of the batches goes in two passes, and the rest as it is."""
    parts: list[Any] = []
    found: dict[Any, TwoPasses] = {}
    for batch in batches:
        group, first = batch.group, batch.tensors[0]
        key = id(group["params"]), first.device, first.dtype, batch.counts
        if not all(type(p) in (Tensor, Parameter) for p in batch.tensors):
            parts.append(batch)
            continue
        if key not in found:
            way = dispatch.way_of(optimizer, batch)
            if not _served(optimizer, batch, way):
                parts.append(batch)
                continue
            found[key] = TwoPasses(optimizer, group, first, way, batch.counts)
            parts.append(found[key])
        left = [p for p in batch.tensors if not found[key].takes(p)]
        batch.tensors = left
        if left:
            parts.append(batch)
    for key in set(optimizer.shelves).difference(x.key for x in found.values()):
        if not optimizer.shelves[key].tidy():
            del optimizer.shelves[key]
    return [part for part in parts if part.tensors]


def _served(optimizer: Any, batch: Batch, way: str) -> bool:
    """Whether the passes do what a group asks for."""
    group, p = batch.group, batch.tensors[0]
    if batch.agreed is not None or rounding_of(p, group) != "nearest":
        return False
    if apart(group) or way == "loop" or group["slice_p"] > 1 or group["differentiable"]:
        return False
    if way == "foreach":
        real = torch.float32, torch.float64
        return batching.reads_flags_for_free(p.device) and p.dtype in real
    averages = group["betas"][0] > 0 and memory(group) > 0
    kinds = torch.float32, torch.bfloat16, torch.float16
    return way == "compile" or (averages and p.dtype in kinds)
