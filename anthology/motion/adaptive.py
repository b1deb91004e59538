r"""Equation of motion of RMSProp and Adam.

With long-running averages of g and g² the step follows, entry by entry,

.. math:: \dot w = -d - \tfrac{\eta}{2}\, \frac{\{\dots\}}{s}\, H d,

with d = g/s and s = √(g² + ε) (ε inside the root) or |g| + ε (outside, as
``torch.optim``). Hd is the gradient of a smoothed ‖∇f‖₁, so the sign of the
factor {…} says whether Adam lowers or raises it: :func:`adam_braces`.

>>> import torch
>>> from anthology.motion import adam_braces, adam_sign_change
>>> adam_braces(torch.tensor([0.0, 1.0])).round()       # tiny and usual entries
tensor([   19., -1980.])
>>> f"{adam_sign_change(eps=1e-8):.2g}"                   # between the two
'9.6e-11'
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from anthology.motion._arguments import (
    Field,
    evaluated,
    require_callable,
    require_fraction,
    require_nonnegative,
    require_point,
)
from anthology.motion.averages import average_factor, derivative

__all__ = ["adam_braces", "adam_sign_change", "adam_terms"]


def adam_terms(
    gradient: Field,
    w: Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> list[Tensor]:
    r"""Two terms of the motion of Adam: :math:`F_0 = -d` and
    :math:`F_1 = -\frac{\{\dots\}}{2s} H d`, all products entry by entry.

    Parameters
    ----------
    gradient : callable
        The gradient g = ∇f as a function of a tensor, returning its shape and
        dtype; made of torch operations.
    w : Tensor
        The point, real floating point, any shape.
    betas : tuple of float
        β₁ and β₂, both in [0, 1). Default (0.9, 0.999), as ``torch.optim.Adam``;
        β₁ = 0 is RMSProp.
    eps : float
        ε ≥ 0. Default 1e-8.
    eps_inside : bool
        Whether the step is m/√(v + ε) instead of m/(√v + ε). Default False.

    Returns
    -------
    list of Tensor
        :math:`[F_0, F_1]`, of the shape and dtype of ``w``, in units of one
        step: F₀ is about ∓1 where \|g\| ≫ ε. NaN where g and ε are both zero;
        non-finite input gives non-finite terms.

    Raises
    ------
    TypeError
        If ``gradient`` is not callable or returns no tensor, ``w`` is not a real
        floating-point tensor, or a number is none.
    ValueError
        If ``betas`` are not two numbers in [0, 1), ``eps`` is negative or not
        finite, or the gradient changes shape or dtype.

    Notes
    -----
    Averages that start at zero are in place once their bias is corrected, up to
    O(η²); g² must change little in 1/(1−β₂) steps, which at β₂ = 0.999 asks for
    very small η. Weight decay is not included.

    Source: derived here; with ε inside it is the bias term that Cattaneo,
    Klusowski & Shigida 2023 found.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    _require(betas, eps)
    g = evaluated("gradient", gradient, w)
    scale = _scale(g, eps, eps_inside)
    velocity = -g / scale
    braces = _braces(g, betas, eps, eps_inside)
    return [velocity, braces / scale * derivative(gradient, w, velocity) / 2]


def adam_braces(
    g: Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> Tensor:
    r"""The factor {…} of Adam's second term, entry by entry.

    .. math:: \frac{1+\beta_1}{1-\beta_1} - \frac{1+\beta_2}{1-\beta_2}\,(1 - q),
        \qquad q = \frac{\varepsilon}{g^2 + \varepsilon} \ \text{(inside)}, \quad
        q = \frac{\varepsilon}{|g| + \varepsilon} \ \text{(outside)}.

    Positive: the smoothed ‖∇f‖₁ is penalised in this entry, negative: rewarded.

    Parameters
    ----------
    g : Tensor
        The gradient, real floating point, any shape.
    betas, eps, eps_inside
        As for :func:`adam_terms`.

    Returns
    -------
    Tensor
        Shape and dtype of ``g``; NaN where g and ε are both zero.

    Raises
    ------
    TypeError, ValueError
        As for :func:`adam_terms`.
    """
    require_point("g", g)
    _require(betas, eps)
    return _braces(g, betas, eps, eps_inside)


def adam_sign_change(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> float:
    r"""The size \|g\| of an entry at which :func:`adam_braces` changes sign.

    With :math:`\rho = \frac{1+\beta_1}{1-\beta_1} \cdot
    \frac{1-\beta_2}{1+\beta_2}` it is :math:`\varepsilon\rho/(1-\rho)` for ε
    outside the root and :math:`\sqrt{\varepsilon\rho/(1-\rho)}` for ε inside
    (derived here). Below it the braces are positive, above it negative.

    Parameters
    ----------
    betas, eps, eps_inside
        As for :func:`adam_terms`.

    Returns
    -------
    float
        In units of the gradient; ``math.inf`` if β₁ ≥ β₂, where the braces are
        nowhere negative.

    Raises
    ------
    TypeError, ValueError
        As for :func:`adam_terms`.
    """
    first, second = _require(betas, eps)
    if first >= second:
        return math.inf
    share = eps * first / (second - first)
    return math.sqrt(share) if eps_inside else share


def _scale(g: Tensor, eps: float, eps_inside: bool) -> Tensor:
    if eps_inside:  # hypot does not overflow where g² would
        return torch.hypot(g, torch.full_like(g, math.sqrt(eps)))
    return g.abs() + eps


def _braces(
    g: Tensor, betas: tuple[float, float], eps: float, eps_inside: bool
) -> Tensor:
    # 1 − q as a quotient: subtracting would lose its digits where q is near 1
    share = g.abs() / _scale(g, eps, eps_inside)
    if eps_inside:
        share = share * share
    return average_factor(betas[0]) - average_factor(betas[1]) * share


def _require(betas: Any, eps: Any) -> tuple[float, float]:
    """The factors (1+β)/(1−β) of checked arguments."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be two floats, got {betas!r}")
    for beta in betas:
        require_fraction("each of betas", beta)
    require_nonnegative("eps", eps)
    return average_factor(betas[0]), average_factor(betas[1])
