"""One pass over the memory a tensor; see `anthology.kernels.entrywise`."""

import triton
import triton.language as tl

from .rounding import put


@triton.jit
def advanced(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    rest_ptr,
    seed_ptr,
    numbers,
    at,
    mask,
    beta1,
    rest1,
    beta2,
    rest2,
    share2,
    eps,
    decay,
    limit,
    refused_ptr,
    RULE: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """One block of one tensor."""
    lr = tl.load(numbers)
    old = tl.load(p_ptr + at, mask=mask, other=0.0)
    p, rest = old.to(tl.float32), 0.0
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
    fine = tl.abs(g) <= limit
    refused = tl.max(tl.where(fine, 0, 1), 0)
    tl.store(refused_ptr, 1.0, mask=refused > 0)
    if ROUNDING == "compensated":
        rest = tl.load(rest_ptr + at, mask=mask, other=0.0)
        p += rest.to(tl.float32)
    if RULE == "descent":
        p -= lr * (g + decay * p)
    else:
        m = tl.load(m_ptr + at, mask=mask, other=0.0)
        old_m = m
        if RULE == "sgd":
            g += decay * p
            m = beta1 * m + g
            p -= lr * (g + beta1 * m if NESTEROV else m)
        elif RULE == "signum":
            m += rest1 * (g - m)
            ahead = g + beta1 * (m - g) if NESTEROV else m
            sign = tl.where(ahead > 0, 1.0, 0.0) - tl.where(ahead < 0, 1.0, 0.0)
            p = p * (1 - lr * decay) - lr * sign
        elif RULE == "lion":
            ahead = m + rest1 * (g - m)
            sign = tl.where(ahead > 0, 1.0, 0.0) - tl.where(ahead < 0, 1.0, 0.0)
            p = p * (1 - lr * decay) - lr * sign
            m += rest2 * (g - m)
        else:
            v = tl.load(v_ptr + at, mask=mask, other=1.0)
            old_v = v
            v = beta2 * v + share2 * g * g
            if RULE == "rmsprop":
                m = beta1 * m + (g / (v + eps) + decay * p)
                p -= lr * m
            else:
                rate = tl.load(numbers + 1)
                weight = tl.load(numbers + 2)
                m += rest1 * (g - m)
                if RULE == "adamw":
                    below = tl.sqrt_rn(v) / weight
                else:
                    below = v / weight
                p = p * (1 - lr * decay) - rate * m / (below + eps)
            tl.store(v_ptr + at, tl.where(fine, v, old_v), mask=mask)
        tl.store(m_ptr + at, tl.where(fine, m, old_m), mask=mask)
    put(p_ptr, rest_ptr, seed_ptr, at, mask, p, fine, old, rest, ROUNDING)


# Rows of numbers, flags and seeds lie anywhere: one compilation serves all.
@triton.jit(
    do_not_specialize_on_alignment=["numbers", "finite_ptr", "seed_ptr", "refused_ptr"]
)
def entrywise(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    rest_ptr,
    seed_ptr,
    numbers,
    finite_ptr,
    n,
    beta1,
    rest1,
    beta2,
    rest2,
    share2,
    eps,
    decay,
    limit,
    refused_ptr,
    RULE: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDING: tl.constexpr,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A tensor, a program a block."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if CHECKED:  # a tensor to be left alone is neither read nor written
        n = n * tl.load(finite_ptr).to(tl.int64)
    advanced(
        p_ptr,
        g_ptr,
        m_ptr,
        v_ptr,
        rest_ptr,
        seed_ptr,
        numbers,
        at,
        at < n,
        beta1,
        rest1,
        beta2,
        rest2,
        share2,
        eps,
        decay,
        limit,
        refused_ptr,
        RULE,
        NESTEROV,
        ROUNDING,
    )


@triton.jit
def entrywise_many(
    table,
    owners,
    p_like,
    g_like,
    rest_like,
    seed_ptr,
    numbers,
    finite_ptr,
    beta1,
    rest1,
    beta2,
    rest2,
    share2,
    eps,
    decay,
    limit,
    refused_ptr,
    RULE: tl.constexpr,
    NESTEROV: tl.constexpr,
    ROUNDING: tl.constexpr,
    CHECKED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Many tensors, a program a block of any of them."""
    number = tl.load(owners + 2 * tl.program_id(0))
    block = tl.load(owners + 2 * tl.program_id(0) + 1)
    row = table + 7 * number
    p_kind: tl.constexpr = p_like.dtype
    g_kind: tl.constexpr = g_like.dtype
    wide: tl.constexpr = numbers.dtype
    rest_kind: tl.constexpr = rest_like.dtype
    p_ptr = tl.load(row).to(p_kind)
    g_ptr = tl.load(row + 1).to(g_kind)
    m_ptr = tl.load(row + 2).to(wide)
    v_ptr = tl.load(row + 3).to(wide)
    rest_ptr = tl.load(row + 4).to(rest_kind)
    tensor = tl.load(row + 5)
    n = tl.load(row + 6)
    if ALIGNED:  # which lets the compiler move 16 bytes at once
        p_ptr = tl.multiple_of(p_ptr, 16)
        g_ptr = tl.multiple_of(g_ptr, 16)
        m_ptr = tl.multiple_of(m_ptr, 16)
        v_ptr = tl.multiple_of(v_ptr, 16)
        rest_ptr = tl.multiple_of(rest_ptr, 16)
        n = tl.multiple_of(n, 16)
    if CHECKED:
        n = n * tl.load(finite_ptr + tensor).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    advanced(
        p_ptr,
        g_ptr,
        m_ptr,
        v_ptr,
        rest_ptr,
        seed_ptr + tensor,
        numbers + 3 * tensor,
        at,
        at < n,
        beta1,
        rest1,
        beta2,
        rest2,
        share2,
        eps,
        decay,
        limit,
        refused_ptr + tensor,
        RULE,
        NESTEROV,
        ROUNDING,
    )
