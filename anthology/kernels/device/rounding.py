"""Rounding to the nearest that does not depend on who runs the kernel."""

import triton
import triton.language as tl


@triton.jit
def narrowed(x, kind: tl.constexpr):
    """A float32 in a narrower type; the interpreter would cut bfloat16 off."""
    if kind == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        even = (bits >> 16) & 1  # half way between two numbers the even one is taken
        near = ((bits + 0x7FFF + even) >> 16) << 16
        is_nan = x != x  # noqa: PLR0124
        x = tl.where(is_nan, x, near.to(tl.float32, bitcast=True))
    return x.to(kind)
