"""How a rule for one tensor becomes compiled code for flat tensors of any length.

The eager twin is ``Rule.single`` itself. The rate, what depends on the step
count and the hyper-parameters that a class lists as its `numbers` are read from a
tensor, so that none compiles anew. The same pass keeps the old values of entries whose
gradient is not finite.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..batch import reads_flags_for_free
from ..state import Coefficient, State, real, state_dtype

# The length compiled for: long enough that the code is made for many threads.
EXAMPLE = 2**18

Kernel = Callable[..., Any]


def missing_compiler(device: torch.device) -> str:
    """What `torch.compile` lacks here; nothing if it is all there."""
    if device.type == "cpu":
        named, path = os.environ.get("CXX", ""), os.environ.get("PATH", "")
        return "" if _compiler(named, path) else "a C++ compiler (g++ or clang++)"
    return "" if _triton() else "triton"


@cache
def _compiler(named: str, path: str) -> bool:
    names = (named, "g++", "clang++", "c++", "cl")
    return any(name and shutil.which(name, path=path) for name in names)


@cache
def _triton() -> bool:
    return find_spec("triton") is not None


# What stands first among the numbers that compiled code reads: the rate, the largest
# entry of a gradient that counts as finite, and the step count.
LR, LIMIT, STEP = HEAD = range(3)
# How many of the numbers of a `Coefficient` do not depend on the step count.
OWN = 3


def as_coefficients(names: Sequence[str], numbers: Tensor) -> dict[str, Any]:
    """Hyper-parameters by name, out of the numbers that compiled code reads."""
    found: dict[str, Any] = {}
    at = len(HEAD)
    last = at + OWN * (len(names) + ("betas" in names))
    for name in names:
        pair = []
        for i in range(2 if name == "betas" else 1):
            places = [at + k for k in range(OWN)]
            if name == "betas":
                places += [last + 3 * i + k for k in range(3)]
            pair.append(Coefficient(*(numbers[k] for k in places)))
            at += OWN
        found[name] = tuple(pair) if name == "betas" else pair[0]
    return found


# Hyper-parameters that change from step to step, or not what is computed.
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


def at_most(limit: float, kind: torch.dtype) -> float:
    """The largest number of a dtype that is not above a limit."""
    if kind == torch.float64:
        return limit
    near = ctypes.c_float(limit).value  # no tensor, of which one would have to read
    return near - math.ldexp(1, math.frexp(near)[1] - 24) if near > limit else near


def plain_step(
    rule: Any,
    plain: Mapping[str, Any],
    names: list[str],
    kind: Any,
    varying: Sequence[str] = (),
) -> Kernel:
    """``rule.single`` as a function of flat tensors."""
    maximize, single = plain["maximize"], rule.single

    def step(xs: list[Tensor]) -> None:
        p, g, numbers, *entries = xs
        g = g.to(kind)
        g = -g if maximize else g
        group = {**plain, "lr": numbers[LR], **as_coefficients(varying, numbers)}
        state = dict(zip(names, entries, strict=True))
        new = p.to(kind)
        single(new, g, state, numbers[STEP], group)
        p.copy_(new)

    return step


def flat_step(pure: Kernel, kind: Any, resting: bool) -> Kernel:
    """The same, but for bad entries; not at all if `resting` and all is zero.

    Returns how many were left alone, about: 0 if none, -1 if the tensor rests.
    """

    def step(xs: list[Tensor]) -> Tensor:
        p, g, numbers, *entries = xs
        size = g.to(kind).abs()
        fine = size <= numbers[LIMIT]
        moved = size.amax() != 0 if resting else None
        take = fine if moved is None else fine & moved
        new = [x.clone() for x in (p, *entries)]
        pure([new[0], g, numbers, *new[1:]])
        for old, x in zip((p, *entries), new, strict=True):
            flag = take if x.dim() else moved
            old.copy_(x if flag is None else torch.where(flag, x, old))
        # with the parameter in it, the sum is taken in the loop that writes that
        bad = torch.where(fine, 0.0, 1 + new[0].to(kind).abs()).sum()
        return bad if moved is None else torch.where(moved, bad, -1.0)

    return step
