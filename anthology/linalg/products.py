"""Products of matrices, and lengths by which they are divided at any scale.

Of XXᵀ, bA + cA² and VΛVᵀ, which are symmetric, one kernel computes the upper tiles on
CUDA, and four products of rows on a CPU, 5/8 of the multiplications; the rest is copied.
Small, thin and complex matrices, double ones on CUDA, and what is recorded or transformed
go through plain products.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import forward_ad

from anthology.kernels import symmetric as kernels

Axes = int | tuple[int, ...]

ROWS = 4
"""How many products of rows a CPU needs for one of the symmetric ones."""

# Sides from which that pays, found on a Zen 4 processor: for XXᵀ, and for the square
# of a matrix. Half precision is twice as fast there, and cutting it costs as much.
SIDES = {
    torch.float64: (256, 384),
    torch.float32: (256, 384),
    torch.bfloat16: (384, 512),
    torch.float16: (384, 512),
}
DEPTH = 256
"""With less to sum the copying costs more than it saves."""
# On CUDA: what is in single precision keeps all of its digits in PyTorch's products.
KERNELS = (torch.bfloat16, torch.float16)
TILE = 128
MULTIPROCESSORS = 132
"""Of an H100: with fewer tiles than that it does not matter how many there are."""


def untraced(x: Tensor) -> bool:
    """Whether nothing records or transforms what is computed from ``x``."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and forward_ad._current_level < 0
    )


def or_one(x: Tensor) -> Tensor:
    """1 in place of what is not positive."""
    return torch.where(x > 0, x, torch.ones_like(x))


def tame(x: Tensor) -> Tensor:
    """0 in place of what is not finite: LAPACK raises on it, or never returns."""
    return torch.where(torch.isfinite(x), x, torch.zeros_like(x))


def eye_like(A: Tensor) -> Tensor:
    """The identity of the size, type and device of a matrix."""
    return torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)


def hermitian(A: Tensor) -> Tensor:
    """(A + Aᴴ)/2."""
    return (A + A.mH) / 2


def frobenius(A: Tensor) -> Tensor:
    """‖A‖_F, shape (..., 1, 1); 1 for a zero matrix; nothing is recorded."""
    return or_one(torch.linalg.matrix_norm(A.detach(), keepdim=True))


def peak(x: Tensor, dim: Axes) -> Tensor:
    """Largest modulus along ``dim`` (kept as size-1 axes), 1 where that is zero."""
    return or_one(x.detach().abs().amax(dim, keepdim=True))


def unit(x: Tensor) -> Tensor:
    """x/‖x‖_F, whatever the scale; zero stays zero."""
    if x.dtype == torch.float32 and x.is_cuda:
        return unit_by_double(x)
    if x.dtype == torch.float32 and x.is_cpu and untraced(x):
        # A norm within these bounds is right: one pass tells, and reading it is free.
        x = x if x.is_contiguous() or x.mT.is_contiguous() else x.clone()
        size = torch.linalg.vector_norm(x, 2, (-2, -1), keepdim=True)
        if bool(((size > 1e-15) & (size < torch.inf)).all()):
            out: Tensor = x / size
            return out
    top = peak(x, (-2, -1))
    x = x / (top / (2 * torch.frexp(top).mantissa))  # a power of two rounds nothing
    return x / or_one(torch.linalg.matrix_norm(x, keepdim=True))


def unit_by_double(x: Tensor) -> Tensor:
    """The same for single precision in two passes; double holds all of its squares."""
    size = torch.linalg.vector_norm(x, 2, (-2, -1), keepdim=True, dtype=torch.float64)
    share = or_one(size).reciprocal()
    return x * share.clamp(max=torch.finfo(x.dtype).max).to(x.dtype)


def gram(x: Tensor) -> Tensor:
    """XXᴴ."""
    if by_kernel(x):
        return kernels.gram(x)
    if by_rows(x):
        return _rows(x, x.mT)
    return torch.bmm(x, x.mH)  # the operator @ may copy what is transposed


def quadratic(a: Tensor, b: float, c: float) -> Tensor:
    """bA + cA²."""
    if c == 0:
        return b * a
    if by_kernel(a):
        return kernels.quadratic(a, b, c)
    if by_rows(a):
        return _rows(a, a, a, b, c)
    # sums formed within the product: two passes over the memory less
    return torch.baddbmm(a, a, a, beta=b, alpha=c)


def commuting(a: Tensor, b: Tensor) -> Tensor:
    """AB of two polynomials of one symmetric matrix, which is symmetric itself."""
    if by_rows(a) and untraced(b):
        out = _rows(a, b)
        for start, end in pairwise(_ends(a.shape[-2])):
            block = out[:, start:end, start:end]
            block.copy_((block + block.mT) / 2)
        return out
    product = torch.bmm(a, b)
    return (product + product.mH) / 2


def symmetric(a: Tensor, b: Tensor) -> Tensor:
    """AB of (..., m, n) and (..., n, m), known to be symmetric, such as VΛVᵀ."""
    if not (by_rows(a) and untraced(b)):
        return a @ b
    m, n = a.shape[-2:]
    found = _rows(a.reshape(-1, m, n), b.reshape(-1, n, m))
    return found.view(*a.shape[:-1], m)


def add_gram_(total: Tensor, x: Tensor, old: float, new: float) -> Tensor:
    """old·total + new·XXᵀ in place of total, without a copy of either."""
    if not by_rows(x):
        return total.baddbmm_(x, x.mT, beta=old, alpha=new)
    return _rows(x, x.mT, total, old, new, out=total)


def by_kernel(x: Tensor) -> bool:
    """Whether the kernel of this package is faster than a product."""
    if not (x.is_cuda and x.dtype in KERNELS and x.shape[-2] >= 2 * TILE):
        return False
    rows = -(-x.shape[-2] // TILE)
    enough = x.shape[0] * rows * (rows + 1) // 2 >= MULTIPROCESSORS
    return enough and untraced(x) and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def by_rows(x: Tensor) -> bool:
    """Whether a CPU is faster with products of rows."""
    m, n = x.shape[-2:]
    long, square = SIDES.get(x.dtype, (m + 1, m + 1))
    enough = n >= DEPTH and m >= (square if n < 2 * m else long)
    return x.is_cpu and enough and untraced(x)


def _rows(
    left: Tensor,
    right: Tensor,
    onto: Tensor | None = None,
    beta: float = 1.0,
    alpha: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """beta·onto + alpha·left·right, from the upper triangle of it."""
    m = left.shape[-2]
    out = left.new_empty(len(left), m, m) if out is None else out
    for i, (x, y, z) in enumerate(zip(left, right, out, strict=True)):
        for start, end in pairwise(_ends(m)):
            rows, columns, target = x[start:end], y[:, start:], z[start:end, start:]
            if onto is None:
                torch.mm(rows, columns, out=target)
            else:
                same = onto[i, start:end, start:]
                torch.addmm(same, rows, columns, beta=beta, alpha=alpha, out=target)
            z[end:, start:end] = z[start:end, end:].mT
    return out


def _ends(m: int) -> list[int]:
    """Where the rows of each product begin, and where the last ones end."""
    return [m * k // ROWS for k in range(ROWS + 1)]
