"""Prodigy's two passes; see `anthology.kernels.prodigy`."""

import triton
import triton.language as tl

from .rounding import narrowed


@triton.jit
def observe_kernel(
    p_ptr,
    g_ptr,
    start_ptr,
    m_ptr,
    v_ptr,
    s_ptr,
    numbers,
    sums,
    finite_ptr,
    n,
    blocks,
    beta1,
    rest1,
    beta2,
    rest2,
    beta3,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = tl.program_id(0)
    at = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if CHECKED:  # a tensor to be left alone is neither read nor written
        n = n * tl.load(finite_ptr).to(tl.int64)
    mask = at < n
    d = tl.load(numbers)
    weight = tl.load(numbers + 1)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
    start = tl.load(start_ptr + at, mask=mask, other=0.0)
    m = beta1 * tl.load(m_ptr + at, mask=mask, other=0.0) + d * g * rest1
    v = tl.load(v_ptr + at, mask=mask, other=0.0)
    v = beta2 * v + rest2 * (d * g) * (d * g)
    s = beta3 * tl.load(s_ptr + at, mask=mask, other=0.0) + weight * g
    tl.store(m_ptr + at, m, mask=mask)
    tl.store(v_ptr + at, v, mask=mask)
    tl.store(s_ptr + at, s, mask=mask)
    tl.store(sums + block, tl.sum(g * (start - p), axis=0))
    tl.store(sums + blocks + block, tl.sum(tl.abs(s), axis=0))


@triton.jit
def move_kernel(
    p_ptr,
    m_ptr,
    v_ptr,
    numbers,
    finite_ptr,
    n,
    decay,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if CHECKED:
        n = n * tl.load(finite_ptr).to(tl.int64)
    mask = at < n
    rate = tl.load(numbers)
    least = tl.load(numbers + 1)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + at, mask=mask, other=0.0)
    v = tl.load(v_ptr + at, mask=mask, other=1.0)
    p = p * (1 - decay * rate) - rate * m / (tl.sqrt_rn(v) + least)
    tl.store(p_ptr + at, narrowed(p, p_ptr.dtype.element_ty), mask=mask)
