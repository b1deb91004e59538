"""Products with a symmetric result: one triangle is computed, the other mirrored.

The two products of every quintic polar iteration, A = XXᵀ and bA + cA², are
symmetric. Tiles below the diagonal are not computed: each tile above it is written
twice, once transposed, which halves the multiplications.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import interpreted, must_launch


def gram_eager(x: Tensor) -> Tensor:
    """XXᵀ of (..., m, n), the definition."""
    return x @ x.mT


def quadratic_eager(a: Tensor, b: float, c: float) -> Tensor:
    """bA + cA² of a symmetric A, (..., m, m), the definition."""
    return b * a + c * (a @ a)


def gram(x: Tensor) -> Tensor:
    """XXᵀ by a kernel that multiplies half as much.

    Parameters
    ----------
    x : Tensor
        (..., m, n) in float32, bfloat16 or float16, else a ValueError; any strides.
        Without Triton or a CUDA device a RuntimeError.

    Returns
    -------
    Tensor
        (..., m, m), exactly symmetric, in the dtype of `x`; sums are in float32.

    Examples
    --------
    >>> import torch
    >>> from anthology.kernels.launch import missing
    >>> from anthology.kernels.symmetric import gram, gram_eager
    >>> x = torch.ones(2, 3)
    >>> (gram_eager if missing(x) else gram)(x)
    tensor([[3., 3.],
            [3., 3.]])
    """
    return _product(x, 0.0, 1.0, add=False)


def quadratic(a: Tensor, b: float, c: float) -> Tensor:
    """bA + cA² by the same kernel, under its conditions.

    `a` is (..., m, m) and symmetric, as only AAᵀ is computed (a ValueError if it is
    not square); the result is exactly symmetric if `a` is.
    """
    if a.dim() >= 2 and a.shape[-1] != a.shape[-2]:
        raise ValueError(f"A is {tuple(a.shape)}; it must be square and symmetric")
    return _product(a, b, c, add=True)


def _product(x: Tensor, b: float, c: float, add: bool) -> Tensor:
    if x.dim() < 2 or x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"got {x.dtype} of shape {tuple(x.shape)}; it must be matrices in "
            "float32, bfloat16 or float16"
        )
    must_launch(x)
    if not x.numel():
        return x @ x.mT
    m, n = x.shape[-2:]
    stack = x.reshape(-1, m, n)
    out = x.new_empty(len(stack), m, m)
    tile, depth = (16, 16) if interpreted() else (128, 128 // x.itemsize)
    rows = -(-m // tile)
    grid = (rows * (rows + 1) // 2, len(stack))
    # tf32 would keep ten bits of a float32
    precision = "ieee" if x.dtype == torch.float32 else "tf32"
    sizes = (m, n, *stack.stride(), *out.stride())
    even = m % tile == 0 and n % depth == 0
    flags = (add, even, interpreted(), precision, tile, depth)
    from .device.symmetric import product

    with torch.no_grad(), torch.cuda.device_of(x):  # which need not be the current one
        product[grid](stack, out, b, c, *sizes, *flags, num_warps=8, num_stages=3)
    return out.reshape(*x.shape[:-1], m)
