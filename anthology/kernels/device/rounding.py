"""Rounding that does not depend on who runs the kernel."""

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


@triton.jit
def jittered(x, seed, at):
    """A float32 as one of the two nearest bfloat16, on average itself."""
    noise = tl.randint(seed, at.to(tl.int32)).to(tl.uint32, bitcast=True) >> 16
    # a float32 cut after 16 bits is a bfloat16; what is added carries into it with
    # the probability that is to be
    bits = ((x.to(tl.uint32, bitcast=True) + noise) >> 16) << 16
    is_finite = tl.abs(x) < float("inf")
    near = tl.where(is_finite, bits.to(tl.float32, bitcast=True), x)
    return near.to(tl.bfloat16)


@triton.jit
def put(
    p_ptr,
    rest_ptr,
    seed_ptr,
    at,
    mask,
    p,
    fine,
    old,
    rest,
    ROUNDING: tl.constexpr,
):
    """Store float32 as parameters, rounded as asked, or what was there."""
    if ROUNDING == "stochastic":
        near = jittered(p, tl.load(seed_ptr), at)
    else:
        near = narrowed(p, p_ptr.dtype.element_ty)
    tl.store(p_ptr + at, tl.where(fine, near, old), mask=mask)
    if ROUNDING == "compensated":
        wide = near.to(tl.float32)
        gone = tl.where(tl.abs(wide) < float("inf"), p - wide, 0.0)
        gone = narrowed(gone, rest_ptr.dtype.element_ty)
        tl.store(rest_ptr + at, tl.where(fine, gone, rest), mask=mask)
