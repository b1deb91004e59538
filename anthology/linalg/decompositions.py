"""Decompositions, repeated more carefully where LAPACK, cuSOLVER or MAGMA fails.

That is with a ``LinAlgError``, with any other ``RuntimeError``, or with NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.products import eye_like, untraced
from anthology.linalg.safe import real_dtype

Parts = tuple[Tensor, ...]

# Shares of the largest entry that are added to a diagonal, one after another.
JITTER = (1e-15, 1e-12, 1e-9, 1e-6)
_LINALG: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]
# Errors that say nothing of the matrix: another try would only hide them.
_HOPELESS: tuple[type[Exception], ...] = (
    NotImplementedError,
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", NotImplementedError),  # from PyTorch 2.8
)


# of the parts, for matrices m × n and k = min(m, n)
_SHAPES = {
    "eigh": ("n", "nn"),
    "svd": ("mk", "k", "kn"),
    "svdvals": ("k",),
    "qr": ("mk", "kn"),
}


def robust_eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, also where ``torch.linalg.eigh`` fails.

    Members of a batch that fails are tried one by one: as they are, in double precision,
    with jitter of 1e-15 to 1e-6 of the largest entry on the diagonal, and on the CPU.

    ``A`` is (..., n, n), Hermitian and finite, of entries about 1. Gives λ, ascending,
    (..., n), and V, (..., n, n), in its precision; NaN for a matrix of which the library
    says until the end that it cannot be decomposed (``LinAlgError``, or NaN).
    RuntimeError where the last try ends in any other error, and at once where memory,
    the device or the operation lacks.
    """
    values, vectors = _persistent("eigh", A, JITTER)
    return values, vectors


def robust_svd(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ and Vᴴ of finite matrices (..., m, n), reduced; tried as `robust_eigh`."""
    u, s, vh = _persistent("svd", A, full_matrices=False)
    return u, s, vh


def robust_svdvals(A: Tensor) -> Tensor:
    """Singular values of finite matrices (..., m, n); tried as `robust_eigh`."""
    return _persistent("svdvals", A)[0]


def robust_qr(A: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of finite matrices (..., m, n), reduced; tried as `robust_eigh`."""
    q, r = _persistent("qr", A)
    return q, r


def _persistent(
    name: str, A: Tensor, jitter: tuple[float, ...] = (), **options: Any
) -> Parts:
    """The decomposition of this name, for the batch or else one by one."""
    found = _attempt(name, A, options)
    if isinstance(found, tuple):
        return found
    *lead, m, n = A.shape
    each = [_stubborn(name, x, jitter, options) for x in A.reshape(-1, m, n).unbind()]
    stacks = [torch.stack(parts) for parts in zip(*each, strict=True)]
    return tuple(x.reshape(*lead, *x.shape[1:]) for x in stacks)


def _attempt(name: str, A: Tensor, options: dict[str, Any]) -> Parts | Exception:
    """The parts, or the error in their place."""
    try:
        found = getattr(torch.linalg, name)(A, **options)
    except _HOPELESS:
        raise
    except RuntimeError as error:
        return error
    parts = (found,) if isinstance(found, Tensor) else tuple(found)
    if A.is_meta or not A.numel() or not untraced(A):
        return parts
    # Some libraries answer a failure with NaN. Reading is free: it has waited already.
    if torch.stack([torch.isfinite(x).all() for x in parts]).all():
        return parts
    return _LINALG(f"{name} gave numbers that are not finite")


def _stubborn(
    name: str, A: Tensor, jitter: tuple[float, ...], options: dict[str, Any]
) -> Parts:
    """One matrix, by all means."""
    found: Parts | Exception = ()
    for x in _variants(A, jitter):
        found = _attempt(name, x, options)
        if isinstance(found, tuple):
            break
    else:
        if isinstance(found, Exception) and not isinstance(found, _LINALG):
            raise found
        sides = {"m": A.shape[0], "n": A.shape[1], "k": min(A.shape)}
        shapes = ([sides[side] for side in part] for part in _SHAPES[name])
        found = tuple(torch.full(shape, torch.nan) for shape in shapes)
    real = real_dtype(A.dtype)
    return tuple(x.to(A.device, real if x.ndim == 1 else A.dtype) for x in found)


def _variants(A: Tensor, jitter: tuple[float, ...]) -> Iterator[Tensor]:
    """What is tried for one matrix, one after another."""
    yield A
    double = torch.promote_types(A.dtype, torch.float64)
    if A.device.type != "mps":  # which has no double precision
        wide = A.to(double)
        yield wide
        size = wide.detach().abs().amax().clamp_min(torch.finfo(wide.dtype).tiny)
        for share in jitter:
            yield wide + share * size * eye_like(wide)
    if not A.is_cpu:
        yield A.cpu().to(double)
