"""The numbers that compiled code reads, and what is part of the code instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..batch import reads_flags_for_free
from ..state import State, real, state_dtype
from .compile import at_most

# What changes from step to step, or does not change what is computed.
VARYING = ("lr", "foreach", "fused", "capturable", "rounding", "decay", "max_lr")


class Numbers:
    """The hyper-parameters of a group in one step, as compiled code has them."""

    def __init__(self, optimizer: Any, group: Mapping[str, Any]) -> None:
        self.optimizer, self.group = optimizer, group
        self.rule = optimizer.rule_of(group)
        self.varying = _varying(optimizer, group)
        read = {*VARYING, *self.varying}
        known = [name for name in optimizer.defaults if name not in read]
        self.plain = {name: _plain(group[name]) for name in known}
        self.key = (self.varying, *self.plain.items())
        self._known: dict[Any, Tensor] = {}
        self._limits: dict[torch.dtype, float] = {}

    def of(self, state: State, dtype: torch.dtype) -> Tensor:
        """What compiled code reads for a tensor: one vector on its device."""
        step = state["step"]
        if reads_flags_for_free(step.device):
            return self.at(float(step), dtype)
        kind, like = state_dtype(dtype).to_real(), step.double() + 1
        if (dtype, step.device) not in self._known:  # the same for all
            # a number is filled in on the device, for a copy would wait
            lr = self.group["lr"]
            fixed = [lr, at_most(self.limit(dtype), kind), *self._own(lr)]
            self._known[dtype, step.device] = torch.stack(
                [
                    x.to(like) if isinstance(x, Tensor) else like.new_full((), x)
                    for x in fixed
                ]
            )
        found = self._known[dtype, step.device]
        counted = []
        for beta in self._betas():
            weight = 1 - torch.pow(beta, like)
            counted += [weight, weight.rsqrt(), found[0] / weight]
        return torch.cat(
            [found[:2], torch.stack([like]), found[2:], *map(torch.atleast_1d, counted)]
        ).to(kind)

    def at(self, step: float, dtype: torch.dtype) -> Tensor:
        """The same for so many steps taken, on a CPU."""
        if (step, dtype) not in self._known:
            kind, lr = state_dtype(dtype).to_real(), float(self.group["lr"])
            found = [lr, at_most(self.limit(dtype), kind), step + 1, *self._own(lr)]
            for beta in self._betas():
                weight = 1 - beta ** (step + 1)
                found += [weight, 1 / math.sqrt(weight), lr / weight]
            self._known[step, dtype] = torch.tensor(found, dtype=kind)
        return self._known[step, dtype]

    def _betas(self) -> Sequence[float]:
        """Those whose powers compiled code reads."""
        betas: Sequence[float] = self.group["betas"] if "betas" in self.varying else ()
        return betas

    def _own(self, lr: Any) -> list[Any]:
        """What a `Coefficient` holds of each hyper-parameter but for its powers."""
        values: list[Any] = []
        for name in self.varying:
            x = self.group[name]
            values += x if name == "betas" else [x]
        return [y for x in values for y in (x, 1 - x, 1 - lr * x)]

    def limit(self, dtype: torch.dtype) -> float:
        """The largest entry of a gradient that counts as finite."""
        if dtype not in self._limits:
            like = real(torch.empty(0, dtype=state_dtype(dtype), device="meta"))
            self._limits[dtype] = self.rule.gradient_limit(like, self.group)
        return self._limits[dtype]


def _varying(optimizer: Any, group: Mapping[str, Any]) -> tuple[str, ...]:
    """The hyper-parameters that are numbers to be read, and no part of the code."""
    rule, decay = optimizer.rule_of(group), "weight_decay"
    on = optimizer.defaults.get(decay)
    return tuple(x for x in rule.numbers if group[x] or (x == decay and on))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
