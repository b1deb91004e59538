"""Compiled code for tensors of any sizes, called past the guards.

What the guards would look at (dtypes, layouts, threads, hyper-parameters) is for the
caller to put into the key under which the code is kept. Without them and the wrappers
of autograd a call takes 5 to 10 instead of 50 microseconds, the time of a pass over
20,000 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

Pure = Callable[[list[Tensor]], Any]
Kernel = Callable[..., Any]

# What goes wrong where PyTorch compiles in another way.
UNKNOWN: tuple[type[Exception], ...] = (
    *(ImportError, AttributeError, TypeError, ValueError, LookupError),
    AssertionError,  # compiled code refuses a length that it was not made for
)


def compile_direct(pure: Pure, example: list[Tensor], *, store: bool = False) -> Kernel:
    """Compile a function that writes into some tensors and returns one or none."""
    try:
        direct = _direct(*captured(pure, example, store=store))
        if agree(direct, pure, example):
            return direct
    except UNKNOWN:
        pass
    public = torch.compile(own_code(pure), fullgraph=True)

    def kernel(*xs: Tensor) -> Any:
        return public(list(xs))

    return kernel


def captured(
    pure: Pure, example: list[Tensor], *, store: bool = False
) -> tuple[Any, list[tuple[int, int | None]]]:
    """The code that the compiler made of a function, and what that code takes."""
    made: dict[str, Any] = {}

    def backend(graph: Any, inputs: Any) -> Any:
        from torch import _functorch as functorch
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def inner(*args: Any, **kwargs: Any) -> Any:
            made["call"] = compile_fx_inner(*args, **kwargs)
            return made["call"]

        names = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
        made["arguments"] = list(zip(names, map(_size, inputs), strict=True))
        # by default what is cheap to compute is computed once more in a second loop
        settings = {"realize_reads_threshold": 0} if store else {}
        functions = functorch.config.patch(enable_autograd_cache=False)  # skips `inner`
        with functions, config.patch(settings):
            return compile_fx(graph, inputs, inner_compile=inner)

    for x in example:
        for axis, size in enumerate(x.shape):
            if size > FIXED:
                torch._dynamo.mark_dynamic(x, axis)
    # a number or size that differed in an earlier function must not become an argument
    fixed = {"specialize_float": True, "automatic_dynamic_shapes": False}
    with torch._dynamo.config.patch(fixed):
        run: Pure = torch.compile(own_code(pure), backend=backend, fullgraph=True)
        run(example)
    return made["call"], _places(made["arguments"], example)


def own_code(pure: Any) -> Pure:
    """A copy: the recompilations of one code object are counted and limited."""
    code = pure.__code__.replace()
    return FunctionType(code, pure.__globals__, closure=pure.__closure__)


# Sizes up to this are part of the code.
FIXED = 16


def _size(x: Any) -> int | None:
    """Of an argument of compiled code: the size it stands for; None for a tensor."""
    if isinstance(x, Tensor):
        return None
    return int(x if isinstance(x, int) else x.node.hint)


def _places(
    arguments: list[tuple[str, int | None]], example: list[Tensor]
) -> list[tuple[int, int | None]]:
    """Of each argument: which tensor it is, or which axis of which gives the size."""
    sizes = {
        size: (index, axis)
        for index, x in enumerate(example)
        for axis, size in enumerate(x.shape)
    }
    found: list[tuple[int, int | None]] = []
    for name, size in arguments:
        if size is not None:
            found.append(sizes[size])
        elif name.startswith("l_xs_"):  # ``l_xs_2_`` is tensor 2
            found.append((int(name.removeprefix("l_xs_")[:-1]), None))
        else:
            raise LookupError(f"{name} is none of the tensors")
    return found


def _direct(call: Any, places: list[tuple[int, int | None]]) -> Kernel:
    def kernel(*xs: Tensor) -> Any:
        args = [xs[i] if axis is None else xs[i].shape[axis] for i, axis in places]
        found = call(args)
        return found[0] if found else None

    return kernel


def agree(kernel: Kernel, pure: Pure, example: list[Tensor]) -> bool:
    """Whether compiled code does on small tensors what its eager twin does."""
    sizes = {n for x in example for n in x.shape if n > FIXED}
    small = {n: 35 + 2 * rank for rank, n in enumerate(sorted(sizes))}
    ours = [_numbers_like(x, i, small) for i, x in enumerate(example)]
    theirs = [x.clone() for x in ours]
    returned = kernel(*ours), pure(theirs)
    if isinstance(returned[1], Tensor):
        ours.append(returned[0])
        theirs.append(returned[1])
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-2)
        for a, b in zip(ours, theirs, strict=True)
    )


def _numbers_like(x: Tensor, shift: int, small: dict[int, int]) -> Tensor:
    if x.dtype == torch.bool:
        return torch.ones_like(x)
    shape = [small.get(n, n) for n in x.shape]
    numel = math.prod(shape)
    line = torch.arange(1.0, numel + 1) / (numel + shift + 1)
    return line.reshape(shape).to(x.device, x.dtype)
