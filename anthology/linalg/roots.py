"""Roots of symmetric positive (semi-)definite matrices, and of Lyapunov's equation."""

from math import comb
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.decompositions import robust_eigh
from anthology.linalg.products import (
    eye_like,
    frobenius,
    hermitian,
    or_one,
    peak,
    symmetric,
    tame,
    untraced,
)
from anthology.linalg.safe import (
    guarded,
    require_positive_integer,
    require_square,
    require_steps,
)

ROOT_METHODS = ("eigh", "newton", "newton-schulz")
"""Every method of ``inverse_root``."""
SQUARE_ROOT_METHODS = ("pade", "taylor", "mpa", "mtp")
"""Every method of ``square_root``."""
_STEPS = 40
_TAYLOR, _PUBLISHED = ("taylor", "mtp"), ("mpa", "mtp")


def inverse_root(
    A: Tensor,
    p: int = 2,
    method: str = "eigh",
    *,
    epsilon: float = 0.0,
    steps: int | None = None,
) -> Tensor:
    """A^(−1/p) of a symmetric (Hermitian) positive semi-definite matrix.

    Only the symmetric part of A is used. "eigh" takes the root of λ − min(λ_min, 0) + ε:
    eigenvalues that rounding made negative lift the whole spectrum. With ε = 0 it is
    the pseudo-inverse root: eigenvalues up to ``n·eps·λ_max`` stay zero.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), any strides; leading axes are a batch.
    p : int
        The root, at least 1. Default 2.
    method : str
        "eigh" (default): exact; on CUDA it waits for the device.
        "newton" (Guo & Higham 2006): X ← XT, M ← TᵖM with T = ((p+1)I − M)/p, started
        from M = A/‖A‖·(p+1)/2. "newton-schulz": Y ← YT, Z ← TZ with T = (3I − ZY)/2,
        which ends at A^(1/2) and A^(−1/2) together; once for each factor 2 of p, and
        "newton" for the odd rest. The iterations never wait, and run in double
        precision (but on MPS, which has none). Where the smallest eigenvalue is not
        above half an eps of the largest entry of A they add the first of 1, 16, 16², …
        eps (in double precision 16·n·eps) that lifts it there: a negative one diverges.
    epsilon : float
        ε ≥ 0, in the units of A. Default 0.
    steps : int, optional
        Of an iteration; None is 40, enough for condition numbers up to 1e12. Its error
        is about the condition number times 1e-16, or the precision of A.

    Returns
    -------
    Tensor
        Shape and type of ``A``, Hermitian. A zero matrix with ε = 0 gives zero; one
        with a non-finite entry, or that `robust_eigh` cannot decompose, NaN.
        ValueError for other than square matrices and for ``steps`` with "eigh" too,
        TypeError for what is no dense floating or complex tensor.

    Differentiable; "eigh" by divided differences of λ^(−1/p), finite where eigenvalues
    coincide. Source: Higham 2008, chapter 7; the perturbation is that of Distributed
    Shampoo (Shi et al. 2023).

    Examples
    --------
    >>> import torch
    >>> from anthology.linalg import inverse_root
    >>> A = torch.diag(torch.tensor([16.0, 1.0, 0.0], dtype=torch.float64))
    >>> [round(float(x), 6) for x in inverse_root(A, p=4).diagonal()]
    [0.5, 1.0, 0.0]
    """
    require_square(A, "inverse_root", method, ROOT_METHODS)
    require_positive_integer(p, "p")
    if not 0.0 <= epsilon < float("inf"):
        raise ValueError(f"epsilon must be finite and at least 0, got {epsilon!r}")
    require_steps(method, steps)

    def compute(x: Tensor) -> Tensor:
        dtype = x.dtype
        if method != "eigh" and x.device.type != "mps":
            x = x.to(torch.promote_types(dtype, torch.float64))
        x = tame(hermitian(x))
        top = peak(x, (-2, -1)).clamp_min(epsilon)
        shift = epsilon / top
        x = x / top
        if method == "eigh":
            root = _InverseRoot.apply(x, float(p), shift)  # type: ignore[no-untyped-call]
        else:
            y = x + shift * eye_like(x)
            y = y + _least_shift(y.detach(), torch.finfo(dtype).eps) * eye_like(y)
            root = _iterate(y, p, method, steps or _STEPS)
            if not epsilon:
                alive = (x.detach().abs().amax((-2, -1), keepdim=True) > 0).to(x.dtype)
                root = root * alive
        out: Tensor = root * top ** (-1 / p)
        return out.to(dtype)

    return guarded(A, 2, compute, per_point=False)


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
        return hermitian(symmetric(scaled, vectors.mH))

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
    slope = -(or_one(middle) ** (-1 / p - 1)) / p
    slope = torch.where((a > 0) & (b > 0), slope, torch.zeros_like(slope))
    rise = root[..., :, None] - root[..., None, :]
    return torch.where(close, slope, rise / torch.where(close, 1, gap))


def _least_shift(A: Tensor, eps: float) -> Tensor:
    """What makes matrices of entries up to one safely definite: 0 if they are."""
    n, eye = A.shape[-1], eye_like(A)
    own = 16 * n * torch.finfo(A.dtype).eps  # what the products may round away
    unit = max(eps, own)
    shifts = [0.0] + [unit * 16.0**k for k in range(32) if unit * 16.0**k < n]
    # by Gershgorin's theorem no eigenvalue is below −n
    found = torch.full_like(A[..., :1, :1].real, 2 * n)
    left = torch.ones_like(found, dtype=torch.bool)
    for shift in shifts:
        spare = max(shift, unit) / 2
        info = torch.linalg.cholesky_ex(A + (shift - spare) * eye)[1]
        fine = (info == 0)[..., None, None]
        found = torch.where(left & fine, shift, found)
        left = left & ~fine
        if left.is_cpu and untraced(left) and not bool(left.any()):
            break
    return found


def _iterate(A: Tensor, p: int, method: str, steps: int) -> Tensor:
    """The iterations, for matrices whose entries are about 1."""
    eye = eye_like(A)
    while method == "newton-schulz" and p % 2 == 0:
        size = frobenius(A)
        Y, Z = A / size, eye.expand_as(A)
        for _ in range(steps):
            M = Z @ Y
            T = (3 * eye - M) / 2
            Y, Z = Y @ T, T @ Z
            if _is_last(M, eye):
                break
        p //= 2
        if p == 1:
            return hermitian(Z / size**0.5)
        A = hermitian(Y * size**0.5)
    z = (p + 1) / (2 * frobenius(A))
    M, X = z * A, z ** (1 / p) * eye
    for _ in range(steps):
        T = ((p + 1) * eye - M) / p
        last = _is_last(M, eye)
        M, X = torch.linalg.matrix_power(T, p) @ M, X @ T
        if last:
            break
    return hermitian(X)


def _is_last(M: Tensor, eye: Tensor) -> bool:
    """Whether a step from M converges, where reading that makes nobody wait."""
    near = torch.finfo(M.dtype).eps ** 0.5  # the error is squared by a step
    return M.is_cpu and untraced(M) and bool((M - eye).abs().max() < near)


def square_root(
    A: Tensor,
    method: str = "pade",
    *,
    inverse: bool = False,
    degree: int | None = None,
    lyapunov_steps: int = 16,
) -> Tensor:
    r"""A^(1/2) or A^(−1/2) by matrix products, differentiable without eigenvectors.

    The root is √s times that of B = A/s, a polynomial in I − B (Taylor) or a rational
    function of B (Padé); s is a bound on the largest eigenvalue, see
    `eigenvalue_bound`. Only the symmetric part of A is used.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), symmetric (Hermitian) positive definite; leading axes are
        a batch, of which each matrix has its own scale.
    method : str
        "pade" (default): the [m/m] approximant, one linear solve. "taylor": products
        only, and one solve for the inverse. "mpa" and "mtp": the same as published,
        with s = ‖A‖_F, also in the backward pass, so that the error grows with n: for
        the identity of size 1000 it is 4e-2 and 0.3, where the first two are exact.
    inverse : bool
        Return A^(−1/2). Default False.
    degree : int, optional
        m. None is the published choice: 5 for Padé, 10 for Taylor. Rounding
        costs Padé a factor 4^m/(2m+1) at most, so beyond 8 little is gained.
    lyapunov_steps : int
        Steps of the backward pass. Published 8 (1e-5 where A has condition number
        20, and useless from 1e3 on); default 16 (1e-12 up to 1e3).

    Returns
    -------
    Tensor
        Shape and type of ``A``; zero for a zero matrix, NaN for one with a non-finite
        entry. Errors as for `inverse_root`.

    Notes
    -----
    With N = 2m+1, b an eigenvalue of B and ρ = (1−√b)/(1+√b), the Padé approximant
    is :math:`\sum_k \binom{N}{2k} b^k / \sum_k \binom{N}{2k+1} b^k`: no term cancels,
    and its relative error is 2ρᴺ/(1−ρᴺ). At condition number 1e3 the defaults err by
    several per cent: regularise A first.

    The gradient X = ∂ℓ/∂A is that of the exact root at the S that was computed: it
    solves SX + XS = ∂ℓ/∂S for S = A^(1/2), and S⁻¹X + XS⁻¹ = −A⁻¹(∂ℓ/∂S⁻¹)A⁻¹ for the
    inverse root, by `lyapunov`.

    Source: Song, Sebe & Wang 2022 (ICLR), MTP, MPA and the Lyapunov solver; the
    approximant in closed form follows from Higham 2008, section 5.4. The bound in
    place of the Frobenius norm is ours.

    Examples
    --------
    >>> import torch
    >>> from anthology.linalg import square_root
    >>> A = torch.tensor([[5.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    >>> S = square_root(A, degree=8)
    >>> bool((S @ S - A).abs().max() < 1e-8)
    True
    """
    require_square(A, "square_root", method, SQUARE_ROOT_METHODS)
    terms = degree if degree is not None else (10 if method in _TAYLOR else 5)
    require_positive_integer(terms, "degree")
    require_positive_integer(lyapunov_steps, "lyapunov_steps")

    def compute(x: Tensor) -> Tensor:
        x = tame(hermitian(x))
        top = peak(x, (-2, -1))
        how = method, inverse, terms, lyapunov_steps
        root: Tensor = _SquareRoot.apply(x / top, *how)  # type: ignore[no-untyped-call]
        return root / top.sqrt() if inverse else root * top.sqrt()

    return guarded(A, 2, compute, per_point=False)


def eigenvalue_bound(A: Tensor) -> Tensor:
    """A bound on the largest eigenvalue by three products."""
    A = A.detach()
    top = peak(A, (-2, -1))
    x, size, share = A / top, torch.ones_like(top), 1.0
    rows = x.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
    for _ in range(4):
        now = frobenius(x)
        size, x, share = size * now**share, x / now, share / 2
        x = x @ x if share > 1 / 16 else x
    return torch.where(rows > 0, torch.minimum(rows, size), 1.0) * top


def lyapunov(
    S: Tensor, C: Tensor, steps: int = 16, size: Tensor | None = None
) -> Tensor:
    """X with SX + XS = C, by the iteration of the matrix sign of S/size.

    c ← ½(c(3I−b²) − b²c + bcb), b ← ½b(3I−b²) from b = S/size, c = C/size. The worst
    direction improves by 1.5 a step until it converges quadratically: with condition
    number κ of S it takes about log κ/log 1.5 ``steps``, and five more (default 16);
    on CPUs it stops where it has converged.

    S and C are (..., n, n), S Hermitian positive definite; X is zero where S is.
    ``size``, (..., 1, 1), is above a 1.7th of the largest eigenvalue of each S; None
    (default) is `eigenvalue_bound`.

    Source: Roberts 1980; as a backward pass, Song, Sebe & Wang 2022, where the size
    is the Frobenius norm.
    """
    size = eigenvalue_bound(S) if size is None else size
    eye = eye_like(S)
    b, c = S / size, C / size
    for _ in range(steps):
        square = b @ b
        rest = 3 * eye - square
        c = (c @ rest - square @ c + b @ c @ b) / 2
        # more steps would only fill b with underflows, which CPUs multiply slowly
        if _is_last(square, eye):
            break
        b = b @ rest / 2
    return c / 2


def _scale_of(A: Tensor, method: str) -> Tensor:
    """What a matrix is divided by."""
    return frobenius(A) if method in _PUBLISHED else eigenvalue_bound(A)


def taylor(degree: int) -> tuple[float, ...]:
    """Coefficients of √(1−z) = 1 − z/2 − z²/8 − …, up to z^degree."""
    found = [1.0]
    for k in range(degree):
        found.append(found[-1] * (k - 0.5) / (k + 1))
    return tuple(found)


def pade(degree: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Numerator and denominator of √b ≈ P(b)/Q(b), exact to (1−b)^(2·degree)."""
    order, size = 2 * degree + 1, 4.0**degree
    above = [comb(order, 2 * k) / size for k in range(degree + 1)]
    below = [comb(order, 2 * k + 1) / size for k in range(degree + 1)]
    return tuple(above), tuple(below)


def _polynomials(x: Tensor, eye: Tensor, *many: tuple[float, ...]) -> list[Tensor]:
    """Polynomials of one degree, at least 1, of a matrix; they share its powers."""
    values, power = [c[0] * eye + c[1] * x for c in many], x
    for k in range(2, len(many[0])):
        power = power @ x
        values = [value + c[k] * power for value, c in zip(values, many, strict=True)]
    return values


class _SquareRoot(torch.autograd.Function):
    """The root, or its inverse, of a matrix of entries up to 1."""

    @staticmethod
    def forward(
        ctx: Any, A: Tensor, method: str, inverse: bool, degree: int, steps: int
    ) -> Tensor:
        # A^(1/2) ≈ √s·Q⁻¹P; s is 0 for a zero matrix
        size, eye = _scale_of(A, method), eye_like(A).expand_as(A)
        if method in _TAYLOR:
            P, Q = *_polynomials(eye - A / size, eye, taylor(degree)), eye
        else:
            P, Q = _polynomials(A / size, eye, *pade(degree))
        s = torch.where(A.abs().amax((-2, -1), keepdim=True) > 0, size.sqrt(), 0.0)
        if inverse:
            P, Q, s = Q, P, torch.where(s > 0, 1 / or_one(s), 0)
        if inverse or method not in _TAYLOR:
            # these commute and are Hermitian; not finite, no error, if Q is singular
            P = hermitian(torch.linalg.solve_ex(Q, P)[0])
        root = s * P
        ctx.save_for_backward(root)
        ctx.how = method, inverse, steps
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (root,) = ctx.saved_tensors
        method, inverse, steps = ctx.how
        right = grads[0]
        if inverse:
            square = root @ root
            right = -square @ right @ square
        found = lyapunov(root, right, steps, _scale_of(root, method))
        return found, None, None, None, None
