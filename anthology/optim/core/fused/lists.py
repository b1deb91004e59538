"""Compiled code over a whole list of tensors in one call, on a CPU.

Called from Python, compiled code takes 5 microseconds before it starts, the time of a
step over 20,000 numbers. Here a few lines of C++ call it instead, tensor after tensor,
by a table of addresses. They also look whether a gradient is finite, just before its
tensor is stepped: the compiled code then finds it in the cache and need not choose,
entry by entry, between old and new.
"""

from __future__ import annotations

import ctypes
from array import array
from itertools import chain
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor

from .direct import UNKNOWN, Kernel, agree, captured

# Tensors of fewer numbers are stepped whole by one thread, several at a time.
LARGE = 2**15
# What goes wrong where PyTorch is built otherwise, or the compiler of C++ refuses.
REFUSED: tuple[type[Exception], ...] = (*UNKNOWN, OSError, RuntimeError)
# Whole numbers as wide as a gradient's entries.
BITS = {
    torch.float64: (torch.int64, "uint64_t"),
    torch.float32: (torch.int32, "uint32_t"),
    torch.bfloat16: (torch.int16, "uint16_t"),
    torch.float16: (torch.int16, "uint16_t"),
}

SOURCE = r"""
#include <cstdint>
#include <cstring>
#include <omp.h>

typedef void (*Step)({types}, int64_t);
typedef {bits} Bits;
typedef Bits Wide __attribute__((vector_size(64)));

// The bits of |x|, read as a whole number, grow with |x|; NaN is above infinity.
static const Bits SIGN = (Bits)1 << (8 * sizeof(Bits) - 1);

static Bits largest(const Bits* g, int64_t n) {{
  const int64_t wide = sizeof(Wide) / sizeof(Bits), part = n / 4 / wide * wide;
  Wide tops[4] = {{}};
  for (int64_t j = 0; j < part; j += wide)
    for (int k = 0; k < 4; ++k) {{  // a core reads four streams faster than one
      Wide x;
      std::memcpy(&x, g + k * part + j, sizeof(Wide));
      x &= (Bits)~SIGN;
      tops[k] = x > tops[k] ? x : tops[k];
    }}
  Bits top = 0;
  for (int k = 0; k < 4; ++k)
    for (int64_t i = 0; i < wide; ++i) top = tops[k][i] > top ? tops[k][i] : top;
  for (int64_t j = 4 * part; j < n; ++j) {{
    Bits x = g[j] & (Bits)~SIGN;
    top = x > top ? x : top;
  }}
  return top;
}}

static Bits largest_of_all(const Bits* g, int64_t n, int threads) {{
  Bits top = 0;
  #pragma omp parallel num_threads(threads) reduction(max : top)
  {{
    int64_t own = omp_get_thread_num(), all = omp_get_num_threads();
    int64_t from = n * own / all, to = n * (own + 1) / all;
    top = largest(g + from, to - from);
  }}
  return top;
}}

// 0 for a gradient beyond the limit, 2 for a zero that counts as none, else 1.
static char verdict(Bits top, Bits limit, bool zero_is_none) {{
  return top > limit ? 0 : zero_is_none && top == 0 ? 2 : 1;
}}

// Row i of the table has the addresses of tensor i, its gradient in place 1.
extern "C" void run(
    Step step, void** table, const int64_t* lengths, int64_t count,
    uint64_t limit, bool zero_is_none, int threads, int64_t large, char* taken) {{
  #pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) {{
    void** row = table + i * {width};
    if (lengths[i] >= large) continue;
    Bits top = largest((const Bits*)row[1], lengths[i]);
    taken[i] = verdict(top, (Bits)limit, zero_is_none);
    if (taken[i] == 1) step({row}, lengths[i]);
  }}
  for (int64_t i = 0; i < count; ++i) {{
    void** row = table + i * {width};
    if (lengths[i] < large) continue;
    Bits top = largest_of_all((const Bits*)row[1], lengths[i], threads);
    taken[i] = verdict(top, (Bits)limit, zero_is_none);
    if (taken[i] == 1) step({row}, lengths[i]);  // which uses all threads itself
  }}
}}
"""


class Lists:
    """A compiled function of flat tensors, for lists of them."""

    def __init__(self, step: Any, order: list[int], example: list[Tensor]) -> None:
        from torch._inductor.codecache import CppCodeCache

        self._dtype = example[1].dtype
        source = SOURCE.format(
            bits=BITS[self._dtype][1],
            width=len(example),
            types=", ".join("void*" for _ in order),
            row=", ".join(f"row[{i}]" for i in order),
        )
        self._step = ctypes.cast(step, ctypes.c_void_p)
        self._library = CppCodeCache.load(source)
        self._run = self._library.run
        self._run.restype = None

    def __call__(
        self,
        columns: list[list[int]],
        lengths: list[int],
        limit: float,
        zero_is_none: bool = False,
    ) -> list[int]:
        """Step the tensors whose gradients are within a limit."""
        table = array("q", chain.from_iterable(zip(*columns, strict=True)))
        sizes, taken = array("q", lengths), array("b", bytes(len(lengths)))
        self._run(
            self._step,
            ctypes.c_void_p(table.buffer_info()[0]),
            ctypes.c_void_p(sizes.buffer_info()[0]),
            ctypes.c_int64(len(lengths)),
            ctypes.c_uint64(largest_bits(limit, self._dtype)),
            ctypes.c_bool(zero_is_none),
            ctypes.c_int(torch.get_num_threads()),
            ctypes.c_int64(LARGE),
            ctypes.c_void_p(taken.buffer_info()[0]),
        )
        return list(taken)


def largest_bits(limit: float, dtype: torch.dtype) -> int:
    """The largest number of a dtype within a limit, its bits as a whole number."""
    near = torch.tensor(limit, dtype=torch.float64).to(dtype)
    return int(near.view(BITS[dtype][0])) - int(near.double() > limit)


def compile_lists(pure: Kernel, example: list[Tensor]) -> Lists | None:
    """Compile a function of flat tensors for lists of tensors."""
    if example[1].dtype not in BITS:
        return None
    try:
        found = Lists(*_single_function(pure, example), example)
        return found if agree(_of_one(found), pure, example) else None
    except REFUSED:
        return None


def _of_one(lists: Lists) -> Kernel:
    def kernel(*xs: Tensor) -> None:
        lists([[x.data_ptr()] for x in xs], [xs[0].numel()], 1e4)

    return kernel


def _single_function(pure: Kernel, example: list[Tensor]) -> tuple[Any, list[int]]:
    """The C function in the compiled code, and which tensors are its arguments."""
    call, places = captured(pure, example)
    inner = call.current_callable
    space = getattr(inner, "__func__", inner).__globals__
    (name,) = (
        name
        for name, value in space.items()
        if name.startswith("cpp_fused") and isinstance(value, BuiltinFunctionType)
    )
    function, seen = space[name], list[Any]()
    length = example[0].numel()
    space[name] = lambda *args: seen.append(args)
    try:
        call(
            [
                example[i] if axis is None else example[i].shape[axis]
                for i, axis in places
            ]
        )
    finally:
        space[name] = function
    ((*tensors, last),) = seen
    known = {id(x): i for i, x in enumerate(example)}
    order = [known[id(x)] for x in tensors]
    if last != length:
        raise LookupError("the last argument is not the length")
    return ctypes.CDLL(function.__self__.__file__).kernel, order
