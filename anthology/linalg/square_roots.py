"""Square roots of positive definite matrices with a backward pass of their own."""

from math import comb
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.safe import (
    eye_like,
    frobenius,
    guarded,
    hermitian,
    or_one,
    peak,
    require_count,
    require_square,
    tame,
)

SQUARE_ROOT_METHODS = ("pade", "taylor", "mpa", "mtp")
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

    With B = A/s and Z = I − B the root is √s times that of I − Z, for which there is
    a polynomial (Taylor) or a rational function (Padé); s is a bound on the largest
    eigenvalue, see `eigenvalue_bound`. Only the symmetric part of A is used.

    Parameters
    ----------
    A : Tensor
        Shape (..., n, n), symmetric (Hermitian) positive definite; leading axes are
        a batch, of which each matrix has its own scale.
    method : str
        "pade" (default): the [m/m] approximant, one linear solve. "taylor": matrix
        products only for the root; the inverse root solves with it. "mpa" and "mtp":
        the same as published, with s = ‖A‖_F, also in the backward pass, so that the
        error grows with n: for the identity of size 1000 it is 4e-2 and 0.3, where the
        first two are exact.
    inverse : bool
        Return A^(−1/2). Default False.
    degree : int, optional
        m. None is the published choice: 5 for Padé, 10 for Taylor. Rounding
        costs Padé a factor 4^m/(2m+1) at most, so beyond 8 little is gained.
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
    c ← ½(c(3I−b²) − b²c + bcb), b ← ½b(3I−b²) from b = S/s. It is the gradient
    of the exact root at the S that was computed.

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
    terms = degree if degree is not None else (10 if _is_taylor(method) else 5)
    require_count(terms, "degree")
    require_count(lyapunov_steps, "lyapunov_steps")

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
    """X with SX + XS = C, by the sign iteration that the backward passes use.

    Parameters
    ----------
    S, C : Tensor
        Shape (..., n, n), S Hermitian positive definite; X is zero where S is.
    steps : int
        Number of steps; with condition number κ of S about log κ/log 1.5, and five
        more. Default 16.
    size : Tensor, optional
        What each matrix is divided by, shape (..., 1, 1): above a 1.7th of its
        largest eigenvalue. Default None: `eigenvalue_bound`.

    Source: Roberts 1980; as a backward pass, Song, Sebe & Wang 2022, where the size
    is the Frobenius norm.
    """
    size = eigenvalue_bound(S) if size is None else size
    eye = 3 * eye_like(S)
    b, c = S / size, C / size
    for _ in range(steps):
        square = b @ b
        c = (c @ (eye - square) - square @ c + b @ c @ b) / 2
        b = b @ (eye - square) / 2
    return c / 2


def _is_taylor(method: str) -> bool:
    return method in ("taylor", "mtp")


def _size(A: Tensor, method: str) -> Tensor:
    """What a matrix is divided by."""
    return eigenvalue_bound(A) if method in ("pade", "taylor") else frobenius(A)


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


class _SquareRoot(torch.autograd.Function):
    """The root, or its inverse, of a matrix of entries up to 1."""

    @staticmethod
    def forward(
        ctx: Any, A: Tensor, method: str, inverse: bool, degree: int, steps: int
    ) -> Tensor:
        # A^(1/2) ≈ √s·Q⁻¹P; s is 0 for a zero matrix
        size, eye = _size(A, method), eye_like(A).expand_as(A)
        if _is_taylor(method):
            P, Q = _polynomial(eye - A / size, eye, taylor(degree)), eye
        else:
            P, Q = (_polynomial(A / size, eye, terms) for terms in pade(degree))
        s = torch.where(A.abs().amax((-2, -1), keepdim=True) > 0, size.sqrt(), 0.0)
        if inverse:
            P, Q, s = Q, P, torch.where(s > 0, 1 / or_one(s), 0)
        if inverse or not _is_taylor(method):
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
        found = lyapunov(root, right, steps, _size(root, method))
        return found, None, None, None, None
