"""How a rule for one tensor becomes compiled code for flat tensors of any length.

The eager twin is ``BaseOptimizer.single`` itself. The learning rate and what depends
on the step count come in as tensors, so that neither compiles anew. The same pass
finds out whether the gradient is finite and keeps the old values if it is not.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .state import Counted

# The length compiled for: long enough that the code is made for many threads.
EXAMPLE = 2**18

Kernel = Callable[..., Any]


def missing_compiler(device: torch.device) -> str:
    """What `torch.compile` lacks here; nothing if it is all there.

    Parameters
    ----------
    device : torch.device
        Where the parameters are.

    Returns
    -------
    str
        ``a C++ compiler (g++ or clang++)``, ``triton``, or the empty string.
    """
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


def plain_step(
    rule: Any, plain: Mapping[str, Any], names: list[str], kind: Any
) -> Kernel:
    """``rule.single`` as a function of flat tensors.

    Parameters
    ----------
    rule : type
        An optimizer that works entry by entry.
    plain : mapping
        Its hyper-parameters but lr.
    names : list of str
        The entries of the state.
    kind : torch.dtype
        In which to compute.

    Returns
    -------
    callable
        Of a list: parameter, gradient, the numbers η and for each β those of
        `Counted`, and the state. It writes all but the gradient and the numbers.
    """
    constants = {
        name: getattr(rule, name)
        for name in dir(rule)
        if isinstance(getattr(rule, name), bool | int | float | str)
    }
    own = SimpleNamespace(**constants)  # what a rule may ask of its own object
    betas, maximize = plain.get("betas", ()), plain["maximize"]
    single = rule.single

    def step(xs: list[Tensor]) -> None:
        p, g, numbers, *entries = xs
        g = g.to(kind)
        g = -g if maximize else g
        rates = {b: numbers[1 + 3 * i : 4 + 3 * i] for i, b in enumerate(betas)}
        group = {**plain, "lr": numbers[0]}
        state = dict(zip(names, entries, strict=True))
        new = p.to(kind)
        single(own, new, g, state, Counted(rates), group)
        p.copy_(new)

    return step


def flat_step(
    rule: Any, plain: Mapping[str, Any], names: list[str], kind: Any, limit: float
) -> Kernel:
    """The same, only where the gradient is finite, and none of zeros if told so.

    Parameters
    ----------
    rule, plain, names, kind
        As for `plain_step`.
    limit : float
        The largest entry of a gradient that counts as finite.

    Returns
    -------
    callable
        It returns, 0-d, 1 where it wrote, 0 where the gradient is not finite, and 2
        where it is zero and ``rule.zero_is_none``.
    """
    if torch.tensor(limit, dtype=kind).double() > limit:
        limit = float(torch.nextafter(torch.tensor(limit, dtype=kind), -torch.ones(())))
    pure, silent = plain_step(rule, plain, names, kind), rule.zero_is_none

    def step(xs: list[Tensor]) -> Tensor:
        p, g, numbers, *entries = xs
        top = g.to(kind).abs().amax()
        code = (top <= limit).to(kind)
        if silent:
            code = torch.where(top == 0, 2.0, code)
        taken = code == 1
        new_p, *new = (x.clone() for x in (p, *entries))
        pure([new_p, g, numbers, *new])
        for old, x in zip((p, *entries), (new_p, *new), strict=True):
            old.copy_(torch.where(taken, x, old))
        return code

    return step
