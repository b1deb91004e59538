"""How far a step reaches on the scale of the curvature: ηλ_max."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad

from anthology.linalg import robust_eigh
from anthology.motion._arguments import Field, demand, require_count
from anthology.motion.counter_term import derivative

# up to this size the whole Hessian costs no more than Lanczos' first round
_DENSE = 32


@dataclass(frozen=True)
class Radius:
    r"""Where a step size stands at a point: ``value`` is :math:`\eta\lambda_{\max}` of the
    Hessian, ``lowest`` :math:`\eta\lambda_{\min}`, negative where the loss curves down.
    """

    value: float
    lowest: float

    @property
    def motion(self) -> bool:
        """Whether the linear part of the step has a real motion (value < 1)."""
        return self.value < 1

    @property
    def series(self) -> bool:
        """Whether its counter terms converge (value and lowest within ±1)."""
        return self.motion and self.lowest > -1

    @property
    def stable(self) -> bool:
        """Whether gradient descent contracts what curves up (value < 2)."""
        return self.value < 2


def radius(f: Field, w: Tensor, lr: float) -> Radius:
    r""":math:`\eta\lambda_{\max}` at a point, and what it allows.

    ``f``, ``w`` and errors as for :func:`sharpness`; η = ``lr`` is the positive step size of
    gradient descent. The numbers are NaN, and every answer False, where the Hessian is not
    finite; they are 0 for an empty point.

    Notes
    -----
    On a quadratic a step multiplies the direction of curvature h by :math:`1 - \eta h`.
    It has the motion :math:`\eta^{-1}\log(1 - \eta h)` while :math:`\eta h < 1`, which
    the series of counter terms reaches while :math:`|\eta h| < 1`; descent does not
    diverge while :math:`\eta h \le 2`. Elsewhere this speaks of the step linearised at
    ``w``: at a minimum with value > 1 there is no real motion near it (the derivative
    of a flow has a positive determinant), and with value > 2 descent leaves it.

    >>> at = radius(lambda w: 30 * (w * w).sum(), torch.ones(2), lr=0.02)  # λ = 60
    >>> round(at.value, 6), at.motion, at.stable
    (1.2, False, True)
    """
    demand(lr=lr)
    product = _hessian(f, w)
    if w.numel() == 0:
        return Radius(0.0, 0.0)
    ends = _eigenvalues(product, w, min(2, w.numel()), "BE")
    return Radius(lr * float(ends[0]), lr * float(ends[-1]))


def sharpness(f: Field, w: Tensor, count: int = 1) -> Tensor:
    """The largest eigenvalues of the Hessian, by products with it alone.

    Lanczos' method (``scipy.sparse.linalg.eigsh``); up to 32 numbers a dense solution.

    Parameters
    ----------
    f : callable
        The loss, from a tensor to a scalar; made of torch operations, twice
        differentiable.
    w : Tensor
        The point, float32 or float64, any shape, of n numbers.
    count : int
        How many, 1 (default) to n.

    Returns
    -------
    Tensor
        Shape (count,), float64, decreasing in value, on the device of ``w``. To within
        1e-7 of the largest modulus in float64 and 1e-4 in float32, mostly far better. NaN
        where the Hessian is not finite.

    Raises
    ------
    TypeError, ValueError, ImportError, RuntimeError
        For an argument of the wrong kind or range, an ``f`` that returns no scalar, a
        large problem without scipy, or if Lanczos' method does not converge.

    Notes
    -----
    Equal calls give equal results. A multiple eigenvalue may be given fewer times than
    it occurs; the value of the largest is not affected.
    """
    product = _hessian(f, w)
    require_count("count", count, 1)
    if count > w.numel():
        raise ValueError(f"count must be at most {w.numel()}, the size of w")
    return _eigenvalues(product, w, count, "LA")


def _hessian(f: Field, w: Tensor) -> Field:
    """v ↦ Hv, from and to float64 vectors."""
    demand(f=f, w=w)
    if w.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"w must be float32 or float64, got {w.dtype}")
    w = w.detach()
    value = f(w)
    if not isinstance(value, Tensor):
        raise TypeError(f"f must return a Tensor, got {type(value).__name__}")
    if value.shape != ():
        raise ValueError(f"f must return a scalar, got shape {tuple(value.shape)}")
    gradient = grad(f)

    def product(v: Tensor) -> Tensor:
        along = derivative(gradient, w, v.to(w).reshape(w.shape))
        return along.detach().reshape(-1).to(v)

    return product


def _eigenvalues(product: Field, w: Tensor, count: int, which: str) -> Tensor:
    """``count`` of them, decreasing: the largest (LA), or from both ends (BE)."""
    n = w.numel()
    if n <= _DENSE or count >= n:
        basis = torch.eye(n, dtype=torch.float64, device=w.device)
        H = torch.stack([product(v) for v in basis])
        if not H.isfinite().all():
            return H.new_full((count,), torch.nan)
        values = robust_eigh((H + H.mT) / 2)[0].flip(0)
        return values[:count] if which == "LA" else values[[0, -1]][:count]
    seeded = torch.Generator().manual_seed(0)
    start = torch.randn(n, dtype=torch.float64, generator=seeded)
    image = product(start.to(w.device))
    # a random vector shows, with certainty, that H is not finite or zero
    if not image.isfinite().all():
        return image.new_full((count,), torch.nan)
    if not image.any():
        return image.new_zeros(count)
    # ARPACK's tolerance has an absolute part, so it must see numbers near 1
    scale = float(image.abs().max())
    return scale * _lanczos(lambda v: product(v) / scale, w, count, which, start)


def _lanczos(
    product: Field, w: Tensor, count: int, which: str, start: Tensor
) -> Tensor:
    try:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
    except ImportError as error:
        what = "sharpness uses scipy, which is not installed: pip install scipy"
        raise ImportError(what) from error

    def matvec(v: Any) -> Any:
        vector = torch.as_tensor(v, dtype=torch.float64, device=w.device)
        return product(vector.reshape(-1)).cpu().numpy()

    operator = LinearOperator((w.numel(),) * 2, matvec=matvec, dtype="float64")
    # several are sought more finely: the second copy of a multiple one shows late
    tolerance = 1e-5
    if w.dtype == torch.float64:
        tolerance = 1e-9 if which == "LA" and count > 1 else 1e-7
    options = {"v0": start.numpy(), "tol": tolerance, "return_eigenvectors": False}
    try:
        values = eigsh(operator, count, which=which, **options)
    except ArpackNoConvergence as error:
        raise RuntimeError(
            f"Lanczos' method found {len(error.eigenvalues)} of {count} eigenvalues; "
            "ask for more of them, or fewer, so that the last is not in a cluster"
        ) from error
    found = torch.as_tensor(values, dtype=torch.float64, device=w.device)
    return found.sort(descending=True).values
