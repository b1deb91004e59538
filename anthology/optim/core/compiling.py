"""How a rule for one tensor becomes compiled code for flat tensors of any length.

The eager twin is ``BaseOptimizer.single`` itself. The learning rate and what depends
on the step count come in as tensors, so that neither compiles anew. The same pass
finds out whether the gradient is finite and keeps the old values if it is not.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from types import FunctionType, SimpleNamespace
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

    return _with_own_code(step)


def flat_step(
    rule: Any, plain: Mapping[str, Any], names: list[str], kind: Any, limit: float
) -> Kernel:
    """The same, only where the gradient is finite.

    Parameters
    ----------
    rule, plain, names, kind
        As for `plain_step`.
    limit : float
        The largest entry of a gradient that counts as finite.

    Returns
    -------
    callable
        It returns whether it wrote (0-d, boolean).
    """
    if torch.tensor(limit, dtype=kind).double() > limit:
        limit = float(torch.nextafter(torch.tensor(limit, dtype=kind), -torch.ones(())))
    pure = plain_step(rule, plain, names, kind)

    def step(xs: list[Tensor]) -> Tensor:
        p, g, numbers, *entries = xs
        taken = g.to(kind).abs().amax() <= limit
        new_p, *new = (x.clone() for x in (p, *entries))
        pure([new_p, g, numbers, *new])
        for old, x in zip((p, *entries), (new_p, *new), strict=True):
            old.copy_(torch.where(taken, x, old))
        return taken

    return _with_own_code(step)


def _with_own_code(step: Any) -> Kernel:
    """A copy: the recompilations of one code object are counted and limited."""
    code = step.__code__.replace()
    return FunctionType(code, step.__globals__, closure=step.__closure__)


def compile_flat(pure: Kernel, example: list[Tensor]) -> Kernel:
    """Compile for any length of the flat tensors, and call past the guards.

    What the guards would look at (dtypes, layouts, threads, hyper-parameters) is in
    the key of the kernel. Without them and the wrappers of autograd a call takes 5
    instead of 50 microseconds, the time of a pass over 20,000 numbers. Should that
    way in be closed in another version of PyTorch, or lead elsewhere than the eager
    twin, the public one is taken.

    Parameters
    ----------
    pure : callable
        From `flat_step`.
    example : list of Tensor
        What it takes; those of length `EXAMPLE` may have any other.

    Returns
    -------
    callable
        Like `pure`, but of the tensors one by one.
    """
    try:
        direct = _direct(*captured(pure, example))
        if agree(direct, pure, example):
            return direct
    except (ImportError, AttributeError, TypeError, LookupError):
        pass
    public = torch.compile(pure, fullgraph=True)

    def kernel(*xs: Tensor) -> Tensor:
        out: Tensor = public(list(xs))
        return out

    return kernel


def captured(pure: Kernel, example: list[Tensor]) -> tuple[Any, list[int | None]]:
    """The code that the compiler made of a function, and what that code takes.

    Parameters
    ----------
    pure, example
        As for `compile_flat`.

    Returns
    -------
    tuple
        A callable of one list of arguments, and of each argument which tensor of
        `example` it is, or None for their length.

    Raises
    ------
    ImportError, AttributeError, TypeError or LookupError
        If this version of PyTorch compiles in another way.
    """
    made: dict[str, Any] = {}

    def backend(graph: Any, inputs: Any) -> Any:
        from torch import _functorch as functorch
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def inner(*args: Any, **kwargs: Any) -> Any:
            made["call"] = compile_fx_inner(*args, **kwargs)
            return made["call"]

        made["names"] = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
        with functorch.config.patch(enable_autograd_cache=False):  # it skips `inner`
            return compile_fx(graph, inputs, inner_compile=inner)

    for x in example:
        if x.numel() == EXAMPLE:
            torch._dynamo.mark_dynamic(x, 0)
    torch.compile(pure, backend=backend, fullgraph=True)(example)
    # ``l_xs_2_`` is tensor 2, other names are the length
    places = [
        int(name[5:-1]) if name.startswith("l_xs_") else None for name in made["names"]
    ]
    return made["call"], places


def _direct(call: Any, places: list[int | None]) -> Kernel:
    def kernel(*xs: Tensor) -> Tensor:
        length = xs[0].numel()
        out: Tensor = call([length if i is None else xs[i] for i in places])[0]
        return out

    return kernel


def agree(kernel: Kernel, pure: Kernel, example: list[Tensor]) -> bool:
    """Whether compiled code does on a short tensor what its eager twin does.

    Parameters
    ----------
    kernel, pure : callable
        The code, of tensors one by one, and its twin, of a list of them.
    example : list of Tensor
        As for `compile_flat`.

    Returns
    -------
    bool
        Both write the same, up to rounding, and neither returns False.
    """
    ours = [_numbers_like(x, i) for i, x in enumerate(example)]
    theirs = [x.clone() for x in ours]
    returned = kernel(*ours), pure(theirs)
    if any(x is not None and not x for x in returned):
        return False
    return all(
        torch.allclose(a, b, rtol=1e-2) for a, b in zip(ours, theirs, strict=True)
    )


def _numbers_like(x: Tensor, shift: int) -> Tensor:
    size = (37,) if x.numel() == EXAMPLE else tuple(x.shape)
    numel = math.prod(size)
    line = torch.arange(1.0, numel + 1) / (numel + shift + 1)
    return line.reshape(size).to(x.device, x.dtype)
