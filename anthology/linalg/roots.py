"""Inverse p-th roots of symmetric positive semi-definite matrices.

Three ways to A^(−1/p): the eigendecomposition, which may fail and is then repeated
more carefully, and two iterations of matrix products only.
"""

from typing import Any

import torch
from torch import Tensor

from anthology.linalg.products import symmetric
from anthology.linalg.safe import guarded, peak, real_dtype, require_numeric

ROOT_METHODS = ("eigh", "newton", "newton-schulz")
"""Every method of ``inverse_root``."""

_STEPS = 40


def inverse_root(
    A: Tensor,
    p: int = 2,
    method: str = "eigh",
    *,
    epsilon: float = 0.0,
    steps: int | None = None,
) -> Tensor:
    """A^(−1/p) of a symmetric (Hermitian) positive semi-definite matrix.

    Only the symmetric part of A is used. ``epsilon`` is added to every eigenvalue,
    after those that rounding made negative have lifted the whole spectrum to zero:
    λ − min(λ_min, 0) + ε ("eigh"; the iterations only add). With ``epsilon`` 0
    "eigh" gives the pseudo-inverse root: eigenvalues up to ``n·eps·λ_max`` count as
    zero and stay zero.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), any strides; leading axes are a batch.
    p : int
        The root, at least 1. Default 2.
    method : str
        "eigh" (default): exact. On CUDA it waits for the device.
        "newton": the coupled Newton iteration for every p (Guo & Higham 2006),
        X ← XT, M ← TᵖM with T = ((p+1)I − M)/p, started from M = A/‖A‖·(p+1)/2.
        "newton-schulz": Y ← YT, Z ← TZ with T = (3I − ZY)/2, which ends at
        A^(1/2) and A^(−1/2) together; once for each factor 2 of p, and "newton" for
        the odd rest.
        The iterations never wait for the device. They add at least 16·n·eps times
        the largest entry of A: without it rounding makes a null direction negative,
        and a negative one diverges.
    epsilon : float
        ε ≥ 0, in the units of A. Default 0.
    steps : int, optional
        Steps of an iteration; None is 40, enough for condition numbers up to 1e10
        in double precision. Rounding limits what they reach before that: about
        the condition number times the machine epsilon.

    Returns
    -------
    Tensor
        Shape and type of ``A``, Hermitian; about 1/scale^(1/p) for a matrix of that
        scale. A zero matrix with ε = 0 gives zero, a matrix with a non-finite
        entry NaN. Never raises for the values of A: where LAPACK fails, the matrix
        is decomposed again in double precision, then with growing jitter on its
        diagonal, and if nothing helps the root of that matrix is NaN.

    Raises
    ------
    ValueError
        Not square matrices; unknown method; ``p``, ``epsilon`` or ``steps`` out of
        range; ``steps`` with "eigh".
    TypeError
        Not a dense floating or complex tensor.

    Notes
    -----
    Differentiable by each method; "eigh" by divided differences of λ^(−1/p), which
    are finite where eigenvalues coincide.

    Source: Higham 2008, chapter 7; the perturbation is that of Distributed Shampoo
    (Shi et al. 2023).

    Examples
    --------
    >>> import torch
    >>> from anthology.linalg import inverse_root
    >>> A = torch.diag(torch.tensor([16.0, 1.0, 0.0], dtype=torch.float64))
    >>> [round(float(x), 6) for x in inverse_root(A, p=4).diagonal()]
    [0.5, 1.0, 0.0]
    """
    _check(A, p, method, epsilon, steps)

    def compute(x: Tensor) -> Tensor:
        x = (x + x.mH) / 2
        x = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        top = peak(x, (-2, -1)).clamp_min(epsilon)
        shift = epsilon / top
        x = x / top
        if method == "eigh":
            root = _InverseRoot.apply(x, float(p), shift)  # type: ignore[no-untyped-call]
        else:
            eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            floor = 16 * x.shape[-1] * torch.finfo(x.dtype).eps
            y = x + shift.clamp_min(floor) * eye
            root = _iterate(y, p, method, steps or _STEPS)
            if not epsilon:
                alive = (x.detach().abs().amax((-2, -1), keepdim=True) > 0).to(x.dtype)
                root = root * alive
        out: Tensor = root * top ** (-1 / p)
        return out

    return guarded(A, 2, compute, per_point=False)


def _check(A: object, p: object, method: str, epsilon: float, steps: object) -> None:
    require_numeric(A, "inverse_root")
    shape = tuple(A.shape) if isinstance(A, Tensor) else ()
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"inverse_root needs square matrices, got shape {shape}")
    if isinstance(p, bool) or not isinstance(p, int) or p < 1:
        raise ValueError(f"p must be a positive integer, got {p!r}")
    if method not in ROOT_METHODS:
        names = ", ".join(map(repr, ROOT_METHODS))
        raise ValueError(f"no method {method!r}: choose one of {names}")
    if not 0.0 <= epsilon < float("inf"):
        raise ValueError(f"epsilon must be finite and at least 0, got {epsilon!r}")
    if steps is None:
        return
    if method == "eigh":
        raise ValueError(f"method 'eigh' is exact and takes no steps, got {steps!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer or None, got {steps!r}")


def robust_eigh(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, also where ``torch.linalg.eigh`` raises.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), Hermitian and finite, of entries about 1.

    Returns
    -------
    tuple of Tensor
        λ, ascending, shape (..., n), and V, shape (..., n, n), in the precision of
        ``A``. If the batch fails its members are tried one by one: as they are, in
        double precision, and with jitter of 1e-15 to 1e-6 of the largest entry on
        the diagonal; NaN where nothing helps.
    """
    found = _attempt(A)
    if found is not None:
        return found
    n = A.shape[-1]
    pairs = [_stubborn(x) for x in A.reshape(-1, n, n).unbind()]
    values = torch.stack([pair[0] for pair in pairs]).reshape(A.shape[:-1])
    return values, torch.stack([pair[1] for pair in pairs]).reshape(A.shape)


def _attempt(A: Tensor) -> tuple[Tensor, Tensor] | None:
    try:
        values, vectors = torch.linalg.eigh(A)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return None
    if A.is_meta:
        return values, vectors
    # Some libraries answer a failure with NaN instead of an error.
    good = torch.isfinite(values).all() & torch.isfinite(vectors).all()
    return (values, vectors) if bool(good) else None


def _stubborn(A: Tensor) -> tuple[Tensor, Tensor]:
    found = _attempt(A)
    if found is not None:
        return found
    wide = A.to(torch.promote_types(A.dtype, torch.float64))
    size = wide.abs().amax().clamp_min(torch.finfo(wide.dtype).tiny)
    eye = torch.eye(A.shape[-1], dtype=wide.dtype, device=A.device)
    for jitter in (0.0, 1e-15, 1e-12, 1e-9, 1e-6):
        found = _attempt(wide + jitter * size * eye)
        if found is not None:
            return found[0].to(real_dtype(A.dtype)), found[1].to(A.dtype)
    values = torch.full_like(A[..., 0], torch.nan, dtype=real_dtype(A.dtype))
    return values, torch.full_like(A, torch.nan)


class _InverseRoot(torch.autograd.Function):
    """V f(Λ) Vᴴ with f(λ) = (λ + shift)^(−1/p), or its pseudo-inverse for shift 0."""

    @staticmethod
    def forward(ctx: Any, A: Tensor, p: float, shift: Tensor) -> Tensor:
        values, vectors = robust_eigh(A)
        shift = shift[..., 0]
        noise = A.shape[-1] * torch.finfo(values.dtype).eps * values[..., -1:]
        lifted = values - values[..., :1].clamp_max(0) + shift
        kept = torch.where(shift > 0, lifted > 0, values > noise)
        base = torch.where(shift > 0, lifted, values)
        base = torch.where(kept, base, torch.ones_like(base))
        root = torch.where(kept, base ** (-1 / p), torch.zeros_like(base))
        # NaN where the decomposition failed, which a comparison would hide.
        root = root + 0 * values
        ctx.save_for_backward(torch.where(kept, base, 0), vectors, root)
        ctx.p = p
        scaled = vectors * root.to(vectors.dtype)[..., None, :]
        return _hermitian(symmetric(scaled, vectors.mH))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        base, vectors, root = ctx.saved_tensors
        inner = vectors.mH @ grads[0] @ vectors
        slopes = _divided_differences(base, root, ctx.p).to(inner.dtype)
        return vectors @ (slopes * inner) @ vectors.mH, None, None


def _divided_differences(base: Tensor, root: Tensor, p: float) -> Tensor:
    """(f(λ_i) − f(λ_j))/(λ_i − λ_j), or f′ at the middle where they are close."""
    a, b = base[..., :, None], base[..., None, :]
    gap, middle = a - b, (a + b) / 2
    close = gap.abs() <= torch.finfo(base.dtype).eps ** (1 / 3) * middle
    middle = torch.where(middle > 0, middle, torch.ones_like(middle))
    slope = -(middle ** (-1 / p - 1)) / p
    slope = torch.where((a > 0) & (b > 0), slope, torch.zeros_like(slope))
    rise = root[..., :, None] - root[..., None, :]
    return torch.where(close, slope, rise / torch.where(close, 1, gap))


def _iterate(A: Tensor, p: int, method: str, steps: int) -> Tensor:
    """The iterations, for matrices whose entries are about 1."""
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    while method == "newton-schulz" and p % 2 == 0:
        size = _frobenius(A)
        Y, Z = A / size, eye.expand_as(A)
        for _ in range(steps):
            T = (3 * eye - Z @ Y) / 2
            Y, Z = Y @ T, T @ Z
        p //= 2
        if p == 1:
            return _hermitian(Z / size**0.5)
        A = _hermitian(Y * size**0.5)
    z = (p + 1) / (2 * _frobenius(A))
    M, X = z * A, z ** (1 / p) * eye
    for _ in range(steps):
        T = ((p + 1) * eye - M) / p
        M, X = torch.linalg.matrix_power(T, p) @ M, X @ T
    return _hermitian(X)


def _frobenius(A: Tensor) -> Tensor:
    size = torch.linalg.matrix_norm(A.detach(), keepdim=True)
    return torch.where(size > 0, size, torch.ones_like(size))


def _hermitian(A: Tensor) -> Tensor:
    return (A + A.mH) / 2
