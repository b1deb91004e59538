"""One pass over the memory a tensor; see `anthology.kernels.entrywise`."""

import triton
import triton.language as tl

from .rounding import narrowed


@triton.jit
def entrywise(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
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
    RULE: tl.constexpr,
    NESTEROV: tl.constexpr,
    CHECKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if CHECKED:  # a tensor to be left alone is neither read nor written
        n = n * tl.load(finite_ptr).to(tl.int64)
    mask = at < n
    lr = tl.load(numbers)
    p = tl.load(p_ptr + at, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
    m = tl.load(m_ptr + at, mask=mask, other=0.0)
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
        tl.store(v_ptr + at, v, mask=mask)
    tl.store(m_ptr + at, m, mask=mask)
    tl.store(p_ptr + at, narrowed(p, p_ptr.dtype.element_ty), mask=mask)
