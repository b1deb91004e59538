r"""Equations of motion of steps that average gradients.

An average of earlier gradients is a gradient that comes too late. Any
direction of it (Signum, Muon, with or without decoupled weight decay) follows
the motion of the plain step, with the second term multiplied by
:func:`average_factor`, 1 + 2·(mean age of the gradients in the average).

>>> import torch
>>> from anthology.motion import average_factor, averaged_terms
>>> average_factor(0.5)
3.0
>>> w = torch.tensor([1.0], dtype=torch.float64)
>>> averaged_terms(lambda w: w, lambda g: g, w, momentum=0.5)     # −g, −3/2·Hg
[tensor([-1.], dtype=torch.float64), tensor([-1.5000], dtype=torch.float64)]
"""

from __future__ import annotations

from torch import Tensor
from torch.func import jvp

from anthology.motion._arguments import (
    Field,
    evaluated,
    require_callable,
    require_fraction,
    require_nonnegative,
    require_point,
)

__all__ = ["average_factor", "averaged_terms"]


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
        β, in [0, 1).
    nesterov : bool
        Whether the step uses (1−β)g + βm instead of m. Default False.

    Returns
    -------
    float
        At least 1; 1 without momentum.

    Raises
    ------
    TypeError, ValueError
        If ``momentum`` is not a number in [0, 1).
    """
    require_fraction("momentum", momentum)
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
    gradient : callable
        The gradient g = ∇f as a function of a tensor, returning its shape and
        dtype; made of torch operations.
    direction : callable
        d, from a gradient to a direction of the same shape and dtype; smooth,
        made of torch operations: the identity, ``smooth_l1(eps).direction``, ….
    w : Tensor
        The point, real floating point, any shape.
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
        :math:`[F_0, F_1]`, of the shape and dtype of ``w``. Non-finite input
        gives non-finite terms.

    Raises
    ------
    TypeError
        If a function is not callable or returns no tensor, ``w`` is not a real
        floating-point tensor, or a number is none.
    ValueError
        If ``momentum`` is outside [0, 1), ``decay`` negative or not finite, or
        a function changes shape or dtype.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_callable("direction", direction, "a function of a Tensor")
    require_point("w", w)
    require_nonnegative("decay", decay)
    factor = average_factor(momentum, nesterov)
    g = evaluated("gradient", gradient, w)
    velocity = -(evaluated("direction", direction, g) + decay * w)
    turned = derivative(direction, g, derivative(gradient, w, velocity))
    return [velocity, (factor * turned + decay * velocity) / 2]


def derivative(field: Field, w: Tensor, direction: Tensor) -> Tensor:
    """Derivative of ``field`` at ``w`` along ``direction``."""
    along: Tensor = jvp(field, (w,), (direction,))[1]
    return along.to(w.dtype)  # see counter_term._table
