r"""Functions φ of the gradient, and the steps that descend by them.

A smooth convex φ makes a step :math:`w' = w - \eta\,\nabla\varphi(\nabla f(w))`,
and the step silently penalises φ(∇f). For the dual norm φ = ‖·‖_* it is
steepest descent; where that has kinks (ℓ1, nuclear) the smoothed φ here have
none, and return to it as ε → 0.

>>> import torch
>>> from anthology.motion import smooth_l1
>>> phi, g = smooth_l1(eps=1e-12), torch.tensor([3.0, -4.0])
>>> phi(g), phi.direction(g)
(tensor(7.), tensor([ 1., -1.]))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.decompositions import robust_qr
from anthology.motion._arguments import Field, require_number, require_point
from anthology.norms import Norm

__all__ = ["Penalty", "half_square", "smooth_l1", "smooth_l2", "smooth_nuclear"]

# The least √ε, in units of the largest entry, that the precision allows
_FLOORS = {torch.float32: 1e-4, torch.float64: 1e-10}

# Newton's iteration halves the distance of the extreme singular values from 1
# and then converges quadratically: 17 + 6 steps from _FLOORS
_NEWTON_STEPS = 24


@dataclass(frozen=True)
class Penalty:
    """A function of the gradient with its own gradient map.

    Attributes
    ----------
    name : str
        What it is, for tables.
    value : callable
        φ, from a gradient (any shape it accepts) to a tensor without axes.
        Calling the penalty calls this.
    direction : callable
        ∇φ, from a gradient to a direction of its shape and dtype.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    direction: Field

    def __call__(self, g: Tensor) -> Tensor:
        """φ(g), without axes."""
        require_point("g", g)
        return self.value(g)

    def __repr__(self) -> str:
        return self.name


def half_square(norm: Norm | None = None) -> Penalty:
    r"""φ = ½‖g‖_*², whose step is :math:`-\eta\|g\|_*\operatorname{dualize}(g)`.

    Parameters
    ----------
    norm : Norm, optional
        The norm of the step. Default None: Euclidean, φ = ½‖g‖² of all entries,
        whose step is gradient descent.

    Returns
    -------
    Penalty
        Smooth where the dual norm is.

    Raises
    ------
    TypeError
        If ``norm`` is neither a norm nor None.
    """
    if norm is None:
        return Penalty("half_square()", lambda g: g.square().sum() / 2, lambda g: g)
    if not isinstance(norm, Norm):
        raise TypeError(f"norm must be an anthology Norm, got {type(norm).__name__}")
    dual = dual_norm(norm)
    shaped = _viewed(norm, norm.dualize)
    return Penalty(
        f"half_square({norm!r})",
        lambda g: dual(g).square() / 2,
        lambda g: dual(g) * shaped(g),
    )


def dual_norm(norm: Norm) -> Callable[[Tensor], Tensor]:
    """‖·‖_* of a whole tensor: flat for vector norms, summed over a stack."""
    return lambda g: norm.dual(g.reshape(-1) if norm.ndim == 1 else g).sum()


def smooth_l1(eps: float) -> Penalty:
    r"""φ = :math:`\sum_i \sqrt{g_i^2 + \varepsilon}`, direction g/√(g² + ε).

    The smoothed sign: a step of size at most one in each entry.

    Parameters
    ----------
    eps : float
        ε > 0, in units of g².

    Returns
    -------
    Penalty
        For gradients of any shape.

    Raises
    ------
    TypeError, ValueError
        If ``eps`` is not a positive finite number.
    """
    root = _root(eps)

    def length(g: Tensor) -> Tensor:
        return torch.hypot(g, torch.full_like(g, root))

    return Penalty(
        f"smooth_l1({eps!r})", lambda g: length(g).sum(), lambda g: g / length(g)
    )


def smooth_l2(eps: float) -> Penalty:
    r"""φ = :math:`\sqrt{\|g\|^2 + \varepsilon}`, direction g/φ: smoothed
    normalised gradient descent.

    Arguments, result and errors as for :func:`smooth_l1`.
    """
    root = _root(eps)

    def length(g: Tensor) -> Tensor:
        largest = g.detach().abs().amax() if g.numel() else g.detach().sum()
        unit = torch.maximum(largest, torch.full_like(largest, root))
        return unit * ((g / unit).square().sum() + (root / unit).square()).sqrt()

    return Penalty(f"smooth_l2({eps!r})", length, lambda g: g / length(g))


def smooth_nuclear(eps: float) -> Penalty:
    r"""φ = :math:`\sum_i \sqrt{\sigma_i^2 + \varepsilon}` over the singular values,
    direction :math:`G(G^\top G + \varepsilon I)^{-1/2}`: the smoothed polar factor.

    Made of one QR decomposition and inverses, not of singular vectors, so it
    can be differentiated any number of times also where singular values
    coincide.

    Parameters
    ----------
    eps : float
        ε > 0, in units of G². Where √ε is below 1e-10 (float64) or 1e-4
        (float32) of the largest entry of a matrix, this much is used instead.

    Returns
    -------
    Penalty
        For gradients with at least two axes; leading axes are a stack, over
        which φ sums.

    Raises
    ------
    TypeError, ValueError
        If ``eps`` is not a positive finite number, or a gradient has fewer
        than two axes.
    """
    root = _root(eps)

    def value(g: Tensor) -> Tensor:
        # ⟨polar factor of R, R⟩ is the sum of R's singular values
        G, scale, floor = _scaled(g, root)
        _, R = _with_floor(G, floor)
        total: Tensor = (_newton_polar(R, floor) * R * scale).sum()
        return total.to(g.dtype)

    def direction(g: Tensor) -> Tensor:
        # the polar factor of the stack is Q times that of R; its upper block
        # is what we want
        G, _, floor = _scaled(g, root)
        Q, R = _with_floor(G, floor)
        result: Tensor = Q[..., : G.shape[-2], :] @ _newton_polar(R, floor)
        return (result if G.shape == g.shape else result.mT).to(g.dtype)

    return Penalty(f"smooth_nuclear({eps!r})", value, direction)


def _scaled(g: Tensor, root: float) -> tuple[Tensor, Tensor, Tensor]:
    """Tall matrices of size at most about one, their scale, and √ε in its units."""
    if g.ndim < 2:
        raise ValueError(
            f"smooth_nuclear measures matrices (at least 2 axes), got shape "
            f"{tuple(g.shape)}"
        )
    G = g.to(torch.promote_types(g.dtype, torch.float32))
    if G.shape[-2] < G.shape[-1]:
        G = G.mT
    size = G.detach().abs()
    peak = size.amax((-2, -1), keepdim=True) if G.numel() else size.sum((-2, -1), True)
    scale = peak.clamp(min=root)
    floor = (root / scale).clamp(min=_FLOORS[G.dtype])
    return G / scale, scale, floor


def _with_floor(G: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of [G; floor·I], whose singular values are √(σ² + floor²)."""
    identity = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    return robust_qr(torch.cat([G, floor * identity], dim=-2))


def _newton_polar(R: Tensor, floor: Tensor) -> Tensor:
    """Polar factor of an invertible R: X ← ½(X + X⁻ᵀ), from R scaled."""
    X: Tensor = R / floor.sqrt()
    for _ in range(_NEWTON_STEPS):
        X = (X + torch.linalg.inv_ex(X).inverse.mT) / 2
    return X


def _viewed(norm: Norm, function: Field) -> Field:
    """A map of vectors, applied to a tensor of any shape."""
    if norm.ndim > 1:
        return function
    return lambda g: function(g.reshape(-1)).reshape(g.shape)


def _root(eps: Any) -> float:
    require_number("eps", eps)
    if not (0 < eps < math.inf):
        raise ValueError(f"eps must be positive and finite, got {eps}")
    return math.sqrt(eps)
