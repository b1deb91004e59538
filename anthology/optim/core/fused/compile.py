"""How a rule for one tensor becomes compiled code for flat tensors of any length.

The eager twin is ``Rule.single`` itself. The rate, what depends on the step
count and the hyper-parameters that a class lists as its `numbers` are read from a
tensor, so that none compiles anew. The same pass finds out whether the gradient is
finite and keeps the old values if it is not.
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

from ..state import Coefficient

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


def coefficients(names: Sequence[str], numbers: Tensor) -> dict[str, Any]:
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
        group = {**plain, "lr": numbers[LR], **coefficients(varying, numbers)}
        state = dict(zip(names, entries, strict=True))
        new = p.to(kind)
        single(new, g, state, numbers[STEP], group)
        p.copy_(new)

    return step


def flat_step(pure: Kernel, kind: Any, zero_is_none: bool) -> Kernel:
    """The same, only where the gradient is finite, and none of zeros if told so."""

    def step(xs: list[Tensor]) -> Tensor:
        p, g, numbers, *entries = xs
        top = g.to(kind).abs().amax()
        code = (top <= numbers[LIMIT]).to(kind)
        if zero_is_none:
            code = torch.where(top == 0, 2.0, code)
        taken = code == 1
        new_p, *new = (x.clone() for x in (p, *entries))
        pure([new_p, g, numbers, *new])
        for old, x in zip((p, *entries), (new_p, *new), strict=True):
            old.copy_(torch.where(taken, x, old))
        return code

    return step


def at_most(limit: float, kind: torch.dtype) -> float:
    """The largest number of a dtype that is not above a limit."""
    if kind == torch.float64:
        return limit
    near = ctypes.c_float(limit).value  # no tensor, of which one would have to read
    return near - math.ldexp(1, math.frexp(near)[1] - 24) if near > limit else near
