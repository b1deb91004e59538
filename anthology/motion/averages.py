r"""Equations of motion of steps that average gradients, and their squares.

An average of earlier gradients is a gradient that comes too late. Any
direction of it (Signum, Muon, with or without decoupled weight decay) follows
the motion of the plain step, with the second term multiplied by
:func:`average_factor`, 1 + 2·(mean age of the gradients in the average).

With a long-running average of g² too (RMSProp, Adam) the step follows

.. math:: \dot w = -d - \tfrac{\eta}{2}\, \frac{\{\dots\}}{s}\, H d,

entry by entry, with d = g/s and s = √(g² + ε) (ε inside the root) or |g| + ε
(outside, as ``torch.optim``). Hd is the gradient of a smoothed ‖∇f‖₁, so the sign
of the factor {…} says whether Adam lowers or raises it: :func:`adam_braces`.

>>> average_factor(0.5)
3.0
>>> w = torch.tensor([1.0], dtype=torch.float64)
>>> averaged_terms(lambda w: w, lambda g: g, w, momentum=0.5)     # −g, −3/2·Hg
[tensor([-1.], dtype=torch.float64), tensor([-1.5000], dtype=torch.float64)]
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

from anthology.motion._arguments import Field, evaluated, require, require_fraction
from anthology.motion.counter_term import derivative

__all__ = [
    "adam_braces",
    "adam_sign_change",
    "adam_terms",
    "average_factor",
    "averaged_terms",
]


def average_factor(momentum: float, nesterov: bool = False) -> float:
    r"""What averaging the gradient does to the second term of the motion.

    :math:`1 + 2a` with a the mean age, in steps, of the gradients in the
    average. m ← βm + (1−β)g has a = β/(1−β), so the factor is
    :math:`\frac{1+\beta}{1-\beta}`; Muon's Nesterov form (1−β)g + βm has
    :math:`1 + \frac{2\beta^2}{1-\beta}`. (The first is the factor of Ghosh et
    al. 2023 for heavy ball; the second and the rule derived here.)

    Parameters
    ----------
    momentum : float
        β, in [0, 1); else TypeError or ValueError.
    nesterov : bool
        Whether the step uses (1−β)g + βm instead of m. Default False.

    Returns
    -------
    float
        At least 1; 1 without momentum.
    """
    require(momentum=momentum)
    age = momentum / (1 - momentum)
    return 1 + 2 * age * (momentum if nesterov else 1)


def averaged_terms(
    gradient: Field,
    direction: Field,
    w: Tensor,
    momentum: float = 0.0,
    nesterov: bool = False,
    *,
    decay: float = 0.0,
) -> list[Tensor]:
    r"""Two terms of the motion of m ← βm + (1−β)g, w ← w − η(d(m) + κw).

    .. math:: F_0 = -(d(g) + \kappa w), \qquad
        F_1 = -\tfrac12 \,(c\,D H + \kappa)\,(d(g) + \kappa w)

    with D the derivative of the direction d at g, H that of g, and c =
    :func:`average_factor`: momentum multiplies what the direction contributes
    and leaves the decay alone. (Derived here.)

    Parameters
    ----------
    gradient, w
        As for :func:`counter_terms`.
    direction : callable
        d, from a gradient to a direction of the same shape and dtype; smooth,
        made of torch operations: the identity, ``smooth_l1(eps).direction``, ….
    momentum : float
        β in [0, 1). Default 0: no average. The average is long-running: its
        start is forgotten or, as with Adam's bias correction, divided out.
    nesterov : bool
        Muon's form d((1−β)g + βm). Default False.
    decay : float
        Decoupled weight decay κ ≥ 0: w ← (1 − ηκ)w − η·d(m). Default 0.

    Returns
    -------
    list of Tensor
        :math:`[F_0, F_1]`, of the shape and dtype of ``w``. Errors and what is
        not finite as for :func:`counter_terms`.
    """
    require(gradient=gradient, direction=direction, w=w, decay=decay)
    factor = average_factor(momentum, nesterov)
    g = evaluated("gradient", gradient, w)
    velocity = -(evaluated("direction", direction, g) + decay * w)
    turned = derivative(direction, g, derivative(gradient, w, velocity))
    return [velocity, (factor * turned + decay * velocity) / 2]


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
    gradient, w
        As for :func:`counter_terms`.
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
        step: F₀ is about ∓1 where \|g\| ≫ ε. NaN where g and ε are both zero.
        Errors and what is not finite as for :func:`counter_terms`.

    Notes
    -----
    Averages that start at zero are in place once their bias is corrected, up to
    O(η²); g² must change little in 1/(1−β₂) steps, which at β₂ = 0.999 asks for
    very small η. Weight decay is not included. Derived here; with ε inside it is the
    bias term that Cattaneo, Klusowski & Shigida 2023 found.
    """
    require(gradient=gradient, w=w)
    _factors(betas, eps)
    g = evaluated("gradient", gradient, w)
    scale = _scale(g, eps, eps_inside)
    velocity = -g / scale
    braces = adam_braces(g, betas, eps, eps_inside)
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
        As for :func:`adam_terms`, with its errors.

    Returns
    -------
    Tensor
        Shape and dtype of ``g``; NaN where g and ε are both zero.
    """
    require(g=g)
    first, second = _factors(betas, eps)
    # 1 − q as a quotient: subtracting would lose its digits where q is near 1
    share = g.abs() / _scale(g, eps, eps_inside)
    return first - second * (share * share if eps_inside else share)


def adam_sign_change(
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> float:
    r"""The size \|g\| of an entry at which :func:`adam_braces` changes sign.

    With :math:`\rho = \frac{1+\beta_1}{1-\beta_1} \cdot
    \frac{1-\beta_2}{1+\beta_2}` it is :math:`\varepsilon\rho/(1-\rho)` for ε
    outside the root and :math:`\sqrt{\varepsilon\rho/(1-\rho)}` for ε inside
    (derived here). Below it the braces are positive, above it negative. Arguments
    and errors as for :func:`adam_terms`.

    Returns
    -------
    float
        In units of the gradient; ``math.inf`` if β₁ ≥ β₂, where the braces are
        nowhere negative.
    """
    first, second = _factors(betas, eps)
    if first >= second:
        return math.inf
    share = eps * first / (second - first)
    return math.sqrt(share) if eps_inside else share


def _scale(g: Tensor, eps: float, eps_inside: bool) -> Tensor:
    if eps_inside:  # hypot does not overflow where g² would
        return torch.hypot(g, torch.full_like(g, math.sqrt(eps)))
    return g.abs() + eps


def _factors(betas: Any, eps: Any) -> tuple[float, float]:
    """(1+β)/(1−β) of both, checked."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be two floats, got {betas!r}")
    for beta in betas:
        require_fraction("each of betas", beta)
    require(eps=eps)
    return average_factor(betas[0]), average_factor(betas[1])
