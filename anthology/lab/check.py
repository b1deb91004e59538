"""The checker of the book: one printed line per statement that holds.

What is printed is the same on every machine: it names tolerances, never the digits
that were measured; those appear only in the message of a failed check.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor


def check(statement: str, passed: bool | Tensor, detail: str = "") -> None:
    """Print ``ok  statement (detail)``, or raise an AssertionError if it is false.

    Of a tensor every element must be true. What is no truth value raises a TypeError:
    a number that happens to be non-zero is not a proof. ``detail`` says how it was
    checked ("200 gradients, gap < 1e-12").
    """
    line = f"{statement} ({detail})" if detail else statement
    if not _truth(passed):
        raise AssertionError(f"FAILED  {line}")
    print(f"ok  {line}")


def check_close(
    statement: str, actual: Tensor | float, expected: Tensor | float, tol: float
) -> None:
    """Check that the :func:`gap` of two results is below a tolerance, which it prints.

    They have the same shape (a float goes with any). An AssertionError if the gap is
    not below ``tol``; NaN never is.
    """
    error = gap(actual, expected)
    fine, allowed = error < tol, f"error {error:.3g}, allowed {tol:g}"
    check(statement, fine, f"error < {tol:g}" if fine else allowed)


def gap(actual: Tensor | float, expected: Tensor | float) -> float:
    """Largest difference between two results, relative above one.

    ``max|actual - expected| / max(1, max|expected|)``, in float64. Two empty
    tensors have gap 0; a non-finite entry on either side gives NaN. Tensors of
    different shapes, which would broadcast, raise a ValueError.
    """
    # a Python float keeps its digits only if float64 is asked for at once
    exact = partial(torch.as_tensor, dtype=torch.float64, device="cpu")
    a, b = exact(actual).detach(), exact(expected).detach()
    if a.ndim and b.ndim and a.shape != b.shape:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"shapes differ: {shapes}; compare tensors of the same shape")
    difference = (a - b).abs()
    if difference.numel() == 0:
        return 0.0
    return float(difference.max() / b.abs().max().clamp(min=1.0))


def _truth(passed: object) -> bool:
    if isinstance(passed, Tensor):
        if passed.dtype != torch.bool:
            found = f"hold truth values, got {passed.dtype}"
            raise TypeError(f"passed must {found}; compare first")
        return passed.numel() > 0 and bool(passed.all())
    # numpy's own bool has the method `item`, python's has not
    value = passed.item() if hasattr(passed, "item") else passed
    if not isinstance(value, bool):
        found = f"be True or False, got {type(passed).__name__}"
        raise TypeError(f"passed must {found}; compare first")
    return value
