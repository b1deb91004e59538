"""What every matrix or vector function here does before it computes.

Input of any floating or complex type is computed in at least single precision;
a point with a non-finite entry is answered with NaN and never raises; sizes are
divided out by the largest entry, so that nothing over- or underflows between
1e-30 and 1e30. Nothing here waits for the device.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

Axes = int | tuple[int, ...]


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


def require_positive_integer(value: object, name: str, more: str = "") -> None:
    """Raise ValueError unless it is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer{more}, got {value!r}")


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
