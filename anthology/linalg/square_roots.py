"""Square roots of positive definite matrices with a backward pass of their own."""

from math import comb
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.safe import guarded, peak, require_numeric

SQUARE_ROOT_METHODS = ("pade", "taylor")
"""Every method of ``square_root``."""


def square_root(
    A: Tensor,
    method: str = "pade",
    *,
    inverse: bool = False,
    degree: int | None = None,
    lyapunov_steps: int = 16,
) -> Tensor:
    r"""A^(1/2) or A^(−1/2) by matrix products, differentiable without eigenvectors.

    With B = A/‖A‖_F and Z = I − B the root is √‖A‖_F times that of I − Z, for which
    there is a polynomial (Taylor, "MTP") or a rational function (Padé, "MPA"). Only
    the symmetric part of A is used.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), symmetric (Hermitian) positive definite; leading axes are
        a batch, of which each matrix has its own scale.
    method : str
        "pade" (default): the [m/m] approximant, one linear solve. "taylor": matrix
        products only for the root; the inverse root solves with it.
    inverse : bool
        Return A^(−1/2). Default False.
    degree : int, optional
        m. None is the published choice: 5 for "pade", 10 for "taylor". Rounding
        costs "pade" a factor 4^m/(2m+1) at most, so beyond 8 little is gained.
    lyapunov_steps : int
        Steps of the backward pass; each improves the worst direction by 1.5 until
        it converges quadratically. Published 8 (1e-5 where A has condition number
        20, and useless from 1e3 on); default 16 (1e-12 up to 1e3).

    Returns
    -------
    Tensor
        Shape and type of ``A``; zero for a zero matrix, NaN for one with a
        non-finite entry.

    Raises
    ------
    ValueError
        Not square matrices, unknown method, ``degree`` or ``lyapunov_steps`` that is
        not a positive integer.
    TypeError
        Not a dense floating or complex tensor.

    Notes
    -----
    With N = 2m+1, b an eigenvalue of B and ρ = (1−√b)/(1+√b), the Padé approximant
    is :math:`\sum_k \binom{N}{2k} b^k / \sum_k \binom{N}{2k+1} b^k`, which is
    :math:`\sqrt b\,(1+\rho^N)/(1-\rho^N)`: no term cancels, and its relative error
    is 2ρᴺ/(1−ρᴺ), small where b is not. A is to be regularised first if it is ill
    conditioned: at condition number 1e3 the defaults err by several per cent.

    The gradient X = ∂ℓ/∂A solves SX + XS = ∂ℓ/∂S for S = A^(1/2), and
    S⁻¹X + XS⁻¹ = −A⁻¹(∂ℓ/∂S⁻¹)A⁻¹ for the inverse root, by the matrix sign iteration
    c ← ½(c(3I−b²) − b²c + bcb), b ← ½b(3I−b²) from b = S/‖S‖_F. It is the gradient
    of the exact root at the S that was computed.

    Source: Song, Sebe & Wang 2022 (ICLR), MTP, MPA and the Lyapunov solver; the
    approximant in closed form follows from Higham 2008, section 5.4.

    Examples
    --------
    >>> import torch
    >>> from anthology.linalg import square_root
    >>> A = torch.tensor([[5.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
    >>> S = square_root(A, degree=8)
    >>> bool((S @ S - A).abs().max() < 1e-8)
    True
    """
    require_numeric(A, "square_root")
    if A.ndim < 2 or A.shape[-1] != A.shape[-2]:
        shape = tuple(A.shape)
        raise ValueError(f"square_root needs square matrices, got shape {shape}")
    if method not in SQUARE_ROOT_METHODS:
        raise ValueError(f"no method {method!r}: choose 'pade' or 'taylor'")
    terms = degree if degree is not None else (5 if method == "pade" else 10)
    for what, value in (("degree", terms), ("lyapunov_steps", lyapunov_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} must be a positive integer, got {value!r}")

    def compute(x: Tensor) -> Tensor:
        x = (x + x.mH) / 2
        x = torch.where(torch.isfinite(x), x, torch.zeros_like(x))
        top = peak(x, (-2, -1))
        kind = _InverseSquareRoot if inverse else _SquareRoot
        root: Tensor = kind.apply(x / top, method, terms, lyapunov_steps)  # type: ignore[no-untyped-call]
        return root / top.sqrt() if inverse else root * top.sqrt()

    return guarded(A, 2, compute, per_point=False)


def lyapunov(S: Tensor, C: Tensor, steps: int = 16) -> Tensor:
    """X with SX + XS = C, by the sign iteration that the backward passes use.

    Parameters
    ----------
    S : Tensor
        Shape (..., n, n), Hermitian positive definite; each matrix of the batch is
        divided by its own Frobenius norm.
    C : Tensor
        Shape (..., n, n).
    steps : int
        Number of steps; with condition number κ of S about log κ/log 1.5, and five
        more. Default 16.

    Returns
    -------
    Tensor
        Shape of ``C``. Zero where S is zero.

    Notes
    -----
    Source: Roberts 1980; as a backward pass, Song, Sebe & Wang 2022.
    """
    size = torch.linalg.matrix_norm(S, keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    eye = 3 * torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    b, c = S / size, C / size
    for _ in range(steps):
        square = b @ b
        c = (c @ (eye - square) - square @ c + b @ c @ b) / 2
        b = b @ (eye - square) / 2
    return c / 2


def _fraction(A: Tensor, method: str, degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """P, Q and s with A^(1/2) ≈ s·Q⁻¹P."""
    size = torch.linalg.matrix_norm(A, keepdim=True)
    scale = torch.where(size > 0, size, torch.ones_like(size))
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device).expand_as(A)
    B = A / scale
    if method == "taylor":
        return _polynomial(eye - B, eye, taylor(degree)), eye, size.sqrt()
    above, below = pade(degree)
    return _polynomial(B, eye, above), _polynomial(B, eye, below), size.sqrt()


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


def _polynomial(x: Tensor, eye: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Horner's rule with a matrix."""
    value = coefficients[-1] * eye
    for coefficient in reversed(coefficients[:-1]):
        value = value @ x + coefficient * eye
    return value


def _solve(A: Tensor, B: Tensor) -> Tensor:
    """A⁻¹B for commuting Hermitian matrices; not finite, no error, if singular."""
    x = torch.linalg.solve_ex(A, B)[0]
    out: Tensor = (x + x.mH) / 2
    return out


class _SquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, method: str, degree: int, steps: int) -> Tensor:
        P, Q, size = _fraction(A, method, degree)
        root = size * (P if method == "taylor" else _solve(Q, P))
        ctx.save_for_backward(root)
        ctx.steps = steps
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (root,) = ctx.saved_tensors
        return lyapunov(root, grads[0], ctx.steps), None, None, None


class _InverseSquareRoot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, method: str, degree: int, steps: int) -> Tensor:
        P, Q, size = _fraction(A, method, degree)
        inverse = torch.where(size > 0, 1 / torch.where(size > 0, size, 1), 0)
        root = inverse * _solve(P, Q)
        ctx.save_for_backward(root)
        ctx.steps = steps
        return root

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (root,) = ctx.saved_tensors
        inverse = root @ root
        right = -inverse @ grads[0] @ inverse
        return lyapunov(root, right, ctx.steps), None, None, None
