"""The checker of the book: one printed line per statement that holds.

What is printed must be the same on every machine, so it names tolerances and
orders of magnitude, never the digits that were measured; those appear only in
the message of a failed check.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check", "check_close", "gap"]


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
    if not error < tol:
        raise AssertionError(
            f"FAILED  {statement} (error {error:.3g}, allowed {tol:g})"
        )
    print(f"ok  {statement} (error < {tol:g})")


def gap(actual: Tensor | float, expected: Tensor | float) -> float:
    """Largest difference between two results, relative above one.

    ``max|actual - expected| / max(1, max|expected|)``, in float64. Two empty
    tensors have gap 0; a non-finite entry on either side gives NaN. Tensors of
    different shapes, which would broadcast, raise a ValueError.
    """
    # a Python float keeps its digits only if float64 is asked for at once
    a, b = (
        torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
        for value in (actual, expected)
    )
    if a.ndim and b.ndim and a.shape != b.shape:
        raise ValueError(
            f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}; "
            "compare tensors of the same shape"
        )
    difference = (a - b).abs()
    if difference.numel() == 0:
        return 0.0
    return float(difference.max() / b.abs().max().clamp(min=1.0))


def _truth(passed: object) -> bool:
    if isinstance(passed, Tensor):
        if passed.dtype != torch.bool:
            raise TypeError(
                f"passed must hold truth values, got {passed.dtype}; compare first"
            )
        return passed.numel() > 0 and bool(passed.all())
    # numpy's own bool has the method `item`, python's has not
    value = passed.item() if hasattr(passed, "item") else passed
    if not isinstance(value, bool):
        raise TypeError(
            f"passed must be True or False, got {type(passed).__name__}; compare first"
        )
    return value
