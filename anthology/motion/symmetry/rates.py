r"""What the motion does to weights along a symmetry of the loss.

Of gradient descent with weight decay, :math:`w' = (1 - \eta\kappa)w - \eta g`. *Scale*,
:math:`f(cw) = f(w)` for c > 0: then :math:`\langle w, g\rangle = 0`, :math:`Hw = -g`,
:math:`T[w, \cdot\,] = -2H`, so the length of w has an equation of its own. *Translation*,
:math:`f(w + c\mathbf 1) = f(w)`: then :math:`\langle\mathbf 1, g\rangle = 0`.

In all functions `lr` is η > 0 and `decay` κ ≥ 0; arguments of the wrong kind or
range raise TypeError or ValueError; Tensors broadcast, and the result has their
shape. `order` counts the terms of the motion as in
:func:`anthology.motion.equation_of_motion`; None is gradient descent itself. Source:
derived here (Miyagawa 2022 treats both kinds of layer).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from anthology.motion._arguments import demand

Number: TypeAlias = float | Tensor


def equilibrium_angle(lr: float, decay: float) -> float:
    r"""Angle by which scale-invariant weights turn in one step, at equilibrium.

    Exactly :math:`\arccos(1 - \eta\kappa) \approx \sqrt{2\eta\kappa}` radians, whatever
    the loss, for gradient descent on weights whose length no longer changes; ηκ < 2, else
    ValueError.

    Notes
    -----
    In each step the cosine is :math:`(1-\eta\kappa)\lVert w\rVert/\lVert
    w'\rVert`, settled or not. So wherever the length stays between two bounds, the
    geometric mean of the cosines is 1 − ηκ, for a loss that changes from batch to
    batch too. On one fixed loss the weights often do not settle: about a minimum
    they shrink until the steps of their direction become unstable.

    >>> round(equilibrium_angle(lr=0.1, decay=0.5), 4)
    0.3176
    """
    product = _positive_product(lr, decay)
    _require_below(product, 2.0, "beyond it the weights grow without bound")
    # arccos(1 − x) = 2 arcsin(√(x/2)), which keeps its digits for small x
    return 2 * math.asin(math.sqrt(product / 2))


def effective_rate(square: Number, lr: float) -> Number:
    r"""Step size of the direction of scale-invariant weights, η/‖w‖².

    Gradient flow, with decay or without, moves the direction u = w/‖w‖ by :math:`\dot u =
    -\lVert w\rVert^{-2}\,\nabla f(u)`. `square` is ‖w‖², a float or Tensor; infinite at 0.
    """
    demand(square=square, lr=lr)
    if not isinstance(square, Tensor) and square == 0:
        return math.inf
    return lr / square


def translation_rate(lr: float, decay: float, *, order: int | None = None) -> float:
    r"""Rate at which ⟨1, w⟩ decays on translation-invariant weights.

    Per unit of time η·steps. Gradient descent (`order` None) multiplies it by 1 − ηκ in
    each step, at the rate :math:`-\log(1-\eta\kappa)/\eta`; ηκ < 1, else ValueError: no
    real motion changes a sign. The motion of N = `order` ≥ 1 terms has its first N terms,
    :math:`\kappa\sum_{j<N}(\eta\kappa)^j/(j+1)`.
    """
    demand(lr=lr, decay=decay)
    product = lr * decay
    if order is None:
        _require_below(product, 1.0, "no real motion passes through a change of sign")
        return -math.log1p(-product) / lr
    demand(order=order)
    return decay * math.fsum(product**j / (j + 1) for j in range(order))


def norm_step(
    square: Number, gradient_square: Number, lr: float, decay: float = 0.0
) -> Number:
    r"""‖w‖² after one step of gradient descent on scale-invariant weights.

    Exactly :math:`(1 - \eta\kappa)^2\lVert w\rVert^2 + \eta^2\lVert g\rVert^2`, of
    ‖w‖² and ‖g‖² before the step, floats or Tensors; g without the decay.
    """
    demand(square=square, gradient_square=gradient_square, lr=lr, decay=decay)
    return (1 - lr * decay) ** 2 * square + lr**2 * gradient_square


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

    ``order`` is how many of the three terms, 1 to 3; the third needs ``bend``,
    ⟨g, Hg⟩ with H of the loss without the decay. The rest as for :func:`norm_step`.
    """
    demand(square=square, gradient_square=gradient_square, lr=lr, decay=decay)
    _require_order(order, 3)
    velocity = -2 * decay * square
    if order >= 2:
        velocity = velocity + lr * (gradient_square - decay**2 * square)
    if order >= 3:
        if bend is None:
            raise ValueError("order 3 needs bend, the number ⟨g, Hg⟩")
        demand(bend=bend)
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

    ``slope``, a float or Tensor, is :math:`\hat G = \lVert g\rVert\lVert w\rVert`, the
    length of the gradient on the unit sphere: it depends on the direction of w alone.
    κ > 0, and for gradient descent (``order`` None) ηκ < 2, else ValueError.

    >>> round(norm_equilibrium(1.0, lr=0.1, decay=0.5), 4)
    0.3203
    """
    demand(slope=slope)
    product = _positive_product(lr, decay)
    if order is None:
        _require_below(product, 2.0, "beyond it the weights grow without bound")
        return slope * math.sqrt(lr / decay / (2 - product))
    _require_order(order, 2)
    if order == 1:
        return 0.0 * slope
    return slope * math.sqrt(lr / decay / (2 + product))


def norm_rate(lr: float, decay: float, *, order: int | None = None) -> float:
    r"""Rate at which ‖w‖⁴ relaxes to its equilibrium, for a constant slope.

    Per unit of time η·steps: gradient flow (`order` 1) 4κ; with :math:`\xi_0` (2)
    4κ(1 + ηκ/2), on all of the way. Gradient descent (None), close to the equilibrium,
    multiplies a deviation by :math:`2(1-\eta\kappa)^2 - 1` in each step, at the rate
    :math:`-\log(2(1-\eta\kappa)^2 - 1)/\eta = 4\kappa + 6\eta\kappa^2 + \dots`: here
    too only the leading value of the motion with :math:`\xi_0` is right. ValueError for
    κ = 0, or gradient descent with ηκ ≥ 1 − 1/√2, where the length jumps about.
    """
    product = _positive_product(lr, decay)
    if order is None:
        least = 1 - math.sqrt(0.5)
        _require_below(product, least, "beyond it the length oscillates")
        # 2(1 − x)² − 1 = 1 − 2x(2 − x)
        return -math.log1p(-2 * product * (2 - product)) / lr
    _require_order(order, 2)
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
    rate r of :func:`norm_rate`, and :math:`\sqrt{u_{eq}}` is :func:`norm_equilibrium`.
    ``square`` is ‖w‖² at time 0, ``slope`` ‖g‖‖w‖, ``time`` t = η·steps ≥ 0, floats or
    Tensors; κ > 0, and ``order`` is 1 (gradient flow) or 2.
    """
    demand(square=square, slope=slope, time=time)
    _require_order(order, 2)
    end = norm_equilibrium(slope, lr, decay, order=order) ** 2
    gone = -norm_rate(lr, decay, order=order) * time
    left = torch.exp(gone) if isinstance(gone, Tensor) else math.exp(gone)
    fourth: Number = (end + (square**2 - end) * left) ** 0.5
    return fourth


def _positive_product(lr: float, decay: float) -> float:
    demand(lr=lr, decay=decay)
    if lr * decay == 0:
        raise ValueError(
            f"decay must be positive, got {decay}: without decay nothing balances"
        )
    return lr * decay


def _require_below(product: float, limit: float, why: str) -> None:
    if not product < limit:
        raise ValueError(f"lr·decay must be below {limit:.6g}, got {product}: {why}")


def _require_order(order: Any, most: int) -> None:
    demand(order=order)
    if order > most:
        raise ValueError(f"order must be at most {most}, got {order}")
