"""Products with a symmetric result; see `anthology.kernels.symmetric`."""

import triton
import triton.language as tl


@triton.jit
def product(
    x_ptr,
    out_ptr,
    b,
    c,
    m,
    n,
    x_batch,
    x_row,
    x_col,
    out_batch,
    out_row,
    out_col,
    ADD: tl.constexpr,
    EVEN: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    TILE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    # tile (i, j) with i <= j, counted along columns of the upper triangle
    number = tl.program_id(0)
    j = ((tl.sqrt(8.0 * number.to(tl.float32) + 1.0) - 1.0) / 2.0).to(tl.int32)
    j = tl.where(j * (j + 1) // 2 > number, j - 1, j)
    j = tl.where((j + 1) * (j + 2) // 2 <= number, j + 1, j)
    i = number - j * (j + 1) // 2
    batch = tl.program_id(1).to(tl.int64)
    x_ptr += batch * x_batch
    out_ptr += batch * out_batch
    rows = (i * TILE + tl.arange(0, TILE)).to(tl.int64)
    cols = (j * TILE + tl.arange(0, TILE)).to(tl.int64)
    inner = tl.arange(0, DEPTH).to(tl.int64)
    left = x_ptr + rows[:, None] * x_row + inner[None, :] * x_col
    right = x_ptr + cols[None, :] * x_row + inner[:, None] * x_col
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, n, DEPTH):
        if EVEN:  # whole tiles only: nothing to compare in the inner loop
            a, d = tl.load(left), tl.load(right)
        else:
            there = inner + start < n
            a = tl.load(left, mask=(rows < m)[:, None] & there[None, :], other=0.0)
            d = tl.load(right, mask=(cols < m)[None, :] & there[:, None], other=0.0)
        if WIDEN:  # the interpreter multiplies bfloat16 as if it were integers
            a, d = a.to(tl.float32), d.to(tl.float32)
        total = tl.dot(a, d, total, input_precision=PRECISION)
        left += DEPTH * x_col
        right += DEPTH * x_col
    total *= c
    inside = (rows < m)[:, None] & (cols < m)[None, :]
    if ADD:
        same = x_ptr + rows[:, None] * x_row + cols[None, :] * x_col
        total += b * tl.load(same, mask=inside, other=0.0).to(tl.float32)
    result = total.to(out_ptr.dtype.element_ty)
    here = out_ptr + rows[:, None] * out_row + cols[None, :] * out_col
    mirror = out_ptr + cols[None, :] * out_row + rows[:, None] * out_col
    if i != j:  # whole lines, so that both are written in wide words
        if EVEN:
            tl.store(here, result)
            tl.store(mirror, result)
        else:
            tl.store(here, result, mask=inside)
            tl.store(mirror, result, mask=inside)
    else:  # both halves of a tile on the diagonal from its upper one
        order = rows[:, None] - cols[None, :]
        tl.store(here, result, mask=inside & (order <= 0))
        tl.store(mirror, result, mask=inside & (order < 0))
