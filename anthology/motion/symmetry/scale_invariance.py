r"""The length of scale-invariant weights under gradient descent with decay.

For :math:`f(cw) = f(w)` the gradient is orthogonal to w, so steps make the weights
longer and decay κ makes them shorter. `order` counts the terms of the motion: 1 is
gradient flow, 2 has :math:`\xi_0`, 3 has :math:`\xi_1`; None is gradient descent
itself. See :mod:`anthology.motion.symmetry.rates`. Source: derived here (Miyagawa 2022
treats such layers).

>>> from anthology.motion import norm_equilibrium
>>> round(norm_equilibrium(1.0, lr=0.1, decay=0.5), 4)  # ‖w‖² where both balance
0.3203
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anthology.motion.symmetry.arguments import (
    Number,
    positive_decay,
    require_below,
    require_numbers,
    require_order,
    step_decay,
)

__all__ = [
    "norm_equilibrium",
    "norm_rate",
    "norm_relaxation",
    "norm_step",
    "norm_velocity",
]


def norm_step(
    square: Number, gradient_square: Number, lr: float, decay: float = 0.0
) -> Number:
    r"""‖w‖² after one step of gradient descent on scale-invariant weights.

    Exactly :math:`(1 - \eta\kappa)^2\lVert w\rVert^2 + \eta^2\lVert g\rVert^2`.

    Parameters
    ----------
    square, gradient_square : float or Tensor
        ‖w‖² and ‖g‖² before the step; g without the decay.
    lr, decay : float
        η > 0 and κ ≥ 0.

    Returns
    -------
    float or Tensor
        In the shape of the arguments.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or sign.
    """
    require_numbers(square=square, gradient_square=gradient_square)
    shrink = 1 - step_decay(lr, decay)
    return shrink**2 * square + lr**2 * gradient_square


def norm_velocity(
    square: Number,
    gradient_square: Number,
    lr: float,
    decay: float = 0.0,
    *,
    order: int = 2,
    bend: Number | None = None,
) -> Number:
    r"""d‖w‖²/dt on scale-invariant weights, by the motion of gradient descent.

    .. math:: -2\kappa\lVert w\rVert^2
        + \eta\,(\lVert g\rVert^2 - \kappa^2\lVert w\rVert^2)
        + \eta^2\,(\langle g, Hg\rangle - \tfrac23\kappa^3\lVert w\rVert^2)

    Parameters
    ----------
    square, gradient_square : float or Tensor
        ‖w‖² and ‖g‖²; g without the decay.
    lr, decay : float
        η > 0 and κ ≥ 0.
    order : int
        How many of the three terms: 1 to 3.
    bend : float or Tensor, optional
        ⟨g, Hg⟩ with H of the loss without the decay; needed by order 3.

    Returns
    -------
    float or Tensor
        In the shape of the arguments.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or sign, or order 3 without `bend`.
    """
    require_numbers(square=square, gradient_square=gradient_square)
    step_decay(lr, decay)
    require_order(order, 3)
    velocity = -2 * decay * square
    if order >= 2:
        velocity = velocity + lr * (gradient_square - decay**2 * square)
    if order >= 3:
        if bend is None:
            raise ValueError("order 3 needs bend, the number ⟨g, Hg⟩")
        require_numbers(bend=bend)
        velocity = velocity + lr**2 * (bend - 2 / 3 * decay**3 * square)
    return velocity


def norm_equilibrium(
    slope: Number, lr: float, decay: float, *, order: int | None = None
) -> Number:
    r"""‖w‖² at which growth by steps and decay balance, for a constant slope.

    Gradient descent: :math:`\hat G\sqrt{\eta/(2\kappa(1 - \eta\kappa/2))}`. The
    motion with :math:`\xi_0` has 1 + ηκ/2 instead: its leading value
    :math:`\hat G\sqrt{\eta/2\kappa}` is right, its correction has the wrong sign.
    Gradient flow ends at 0.

    Parameters
    ----------
    slope : float or Tensor
        :math:`\hat G = \lVert g\rVert\lVert w\rVert`, the length of the gradient on
        the unit sphere: it depends on the direction of w alone.
    lr, decay : float
        η > 0 and κ > 0, for gradient descent ηκ < 2.
    order : {None, 1, 2}
        None for gradient descent.

    Returns
    -------
    float or Tensor
        In the shape of `slope`.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or where there is no equilibrium.
    """
    require_numbers(slope=slope)
    product = positive_decay(lr, decay)
    if order is None:
        require_below(product, 2.0, "beyond it the weights grow without bound")
        return slope * math.sqrt(lr / decay / (2 - product))
    require_order(order, 2)
    if order == 1:
        return 0.0 * slope
    return slope * math.sqrt(lr / decay / (2 + product))


def norm_rate(lr: float, decay: float, *, order: int | None = None) -> float:
    r"""Rate at which ‖w‖⁴ relaxes to its equilibrium, for a constant slope.

    Gradient flow 4κ; with :math:`\xi_0` 4κ(1 + ηκ/2), on all of the way. Gradient
    descent, close to the equilibrium: a deviation is multiplied by
    :math:`2(1-\eta\kappa)^2 - 1` in each step, so the rate is
    :math:`-\log(2(1-\eta\kappa)^2 - 1)/\eta = 4\kappa + 6\eta\kappa^2 + \dots`: here
    too only the leading value of the motion with :math:`\xi_0` is right.

    Parameters
    ----------
    lr, decay : float
        η > 0 and κ > 0.
    order : {None, 1, 2}
        None for gradient descent.

    Returns
    -------
    float
        Per unit of time η·steps.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or gradient descent with
        ηκ ≥ 1 − 1/√2, where the length jumps about its equilibrium.
    """
    product = positive_decay(lr, decay)
    if order is None:
        least = 1 - math.sqrt(0.5)
        require_below(product, least, "beyond it the length oscillates")
        # 2(1 − x)² − 1 = 1 − 2x(2 − x)
        return -math.log1p(-2 * product * (2 - product)) / lr
    require_order(order, 2)
    return 4 * decay * (1 + (product / 2 if order == 2 else 0.0))


def norm_relaxation(
    square: Number,
    slope: Number,
    time: Number,
    lr: float,
    decay: float,
    *,
    order: int = 2,
) -> Number:
    r"""‖w‖² at a time, on scale-invariant weights with a constant slope.

    :math:`u = \lVert w\rVert^4` obeys :math:`\dot u = -r\,(u - u_{eq})` with the
    rate r of :func:`norm_rate`, and :math:`\sqrt{u_{eq}}` is
    :func:`norm_equilibrium`.

    Parameters
    ----------
    square : float or Tensor
        ‖w‖² at time 0.
    slope : float or Tensor
        ‖g‖‖w‖, constant.
    time : float or Tensor
        t = η·steps ≥ 0; all three must broadcast.
    lr, decay : float
        η > 0 and κ > 0.
    order : {1, 2}
        1 for gradient flow.

    Returns
    -------
    float or Tensor
        In the shape of the arguments.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or sign.
    """
    require_numbers(square=square, slope=slope, time=time)
    require_order(order, 2)
    end = norm_equilibrium(slope, lr, decay, order=order) ** 2
    gone = -norm_rate(lr, decay, order=order) * time
    left = torch.exp(gone) if isinstance(gone, Tensor) else math.exp(gone)
    fourth: Number = (end + (square**2 - end) * left) ** 0.5
    return fourth
