"""What every function here promises, and what it checks before it computes.

Input of any floating or complex type is computed in at least single precision; a point
with a non-finite entry is answered with NaN and never raises. Nothing here waits.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which a tensor of this type is computed: f32 at least."""
    if dtype in (torch.float64, torch.complex128):
        return dtype
    return torch.complex64 if dtype.is_complex else torch.float32


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of a modulus: ``dtype`` itself, or the real half of a complex one."""
    return torch.empty((), dtype=dtype, device="meta").abs().dtype


def require_numeric(x: object, who: str) -> None:
    """Raise TypeError unless ``x`` is a dense floating or complex tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{who} expects a tensor, got {type(x).__name__}")
    if x.layout != torch.strided:
        raise TypeError(f"{who} expects a dense tensor, got layout {x.layout}")
    if not (x.is_floating_point() or x.is_complex()):
        raise TypeError(
            f"{who} expects a floating or complex tensor, got {x.dtype}: "
            "convert it first, for example with .float()"
        )


def require_square(A: Tensor, who: str, method: str, methods: Sequence[str]) -> None:
    """Raise TypeError or ValueError unless these are square matrices, and a method."""
    require_numeric(A, who)
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        raise ValueError(f"{who} needs square matrices, got shape {tuple(A.shape)}")
    if method not in methods:
        names = ", ".join(map(repr, methods))
        raise ValueError(f"no method {method!r}: choose one of {names}")


def require_steps(method: str, steps: object) -> None:
    """Raise ValueError unless ``steps`` is what this method takes."""
    if method in ("svd", "eigh") and steps is not None:
        raise ValueError(
            f"method {method!r} is exact and takes no steps, got {steps!r}"
        )
    if steps is not None:
        require_positive_integer(steps, "steps", " or None")


def require_positive_integer(value: object, name: str, more: str = "") -> None:
    """Raise ValueError unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer{more}, got {value!r}")


def poison(x: Tensor, ndim: int) -> Tensor:
    """0 for each point (over the last ``ndim`` axes) that is finite, NaN otherwise."""
    # The largest modulus is NaN or inf exactly where some entry is.
    top = x.detach().abs().amax(tuple(range(-ndim, 0)))
    return torch.where(torch.isfinite(top), 0.0, torch.nan).to(top.dtype)


def guarded(
    x: Tensor,
    ndim: int,
    compute: Callable[[Tensor], Tensor],
    *,
    per_point: bool,
    rounded: bool = True,
) -> Tensor:
    """Apply ``compute`` to ``x`` with the promises of this module."""
    dtype = real_dtype(x.dtype) if per_point else x.dtype
    work = x.to(working_dtype(x.dtype))
    if x.numel() == 0:
        result = work.abs().sum(tuple(range(-ndim, 0))) if per_point else work
    else:
        spoiled = poison(work, ndim)
        spoiled = spoiled if per_point else spoiled[(...,) + (None,) * ndim]
        result = compute(work) + spoiled
    return result.to(dtype) if rounded else result
