r"""What the motion does to weights along a symmetry of the loss.

Gradient descent with weight decay κ, :math:`w' = (1 - \eta\kappa)w - \eta g`,
can be solved along a symmetry without knowing the loss.

*Scale*, :math:`f(cw) = f(w)` for c > 0 (weights in front of a normalisation
layer). Then :math:`\langle w, g\rangle = 0`, :math:`Hw = -g`,
:math:`T[w, \cdot\,] = -2H`, so the length of w has an equation of its own. Gradient
flow lets it decay to zero; the first counter term makes it grow with the steps,
and the two balance (:mod:`anthology.motion.symmetry.scale_invariance` has the length, this
module the angle).

*Translation*, :math:`f(w + c\mathbf 1) = f(w)` (logits of a softmax). Then
:math:`\langle\mathbf 1, g\rangle = 0` and :math:`\langle\mathbf 1, w\rangle` only
decays.

In all functions `order` counts the terms of the motion as in
:func:`anthology.motion.equation_of_motion`: 1 is gradient flow, 2 has
:math:`\xi_0`, 3 has :math:`\xi_1`; None is gradient descent itself. Which weights
of a model are meant, :func:`anthology.motion.find_symmetries` says. Source:
derived here (Miyagawa 2022 treats both kinds of layer).

>>> from anthology.motion import equilibrium_angle
>>> round(equilibrium_angle(lr=0.1, decay=0.5), 4)         # radians a step
0.3176
"""

from __future__ import annotations

import math

from torch import Tensor

from anthology.motion._arguments import require_count, require_learning_rate
from anthology.motion.symmetry.arguments import (
    Number,
    positive_decay,
    require_below,
    require_numbers,
    step_decay,
)

__all__ = ["effective_rate", "equilibrium_angle", "translation_rate"]


def equilibrium_angle(lr: float, decay: float) -> float:
    r"""Angle by which scale-invariant weights turn in one step, at equilibrium.

    Exactly :math:`\arccos(1 - \eta\kappa) \approx \sqrt{2\eta\kappa}`, whatever the
    loss, for gradient descent on weights whose length no longer changes.

    Parameters
    ----------
    lr, decay : float
        η > 0 and κ > 0 with ηκ < 2.

    Returns
    -------
    float
        In radians.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or ηκ ≥ 2.

    Notes
    -----
    In each step the cosine is :math:`(1-\eta\kappa)\lVert w\rVert/\lVert
    w'\rVert`, settled or not. So wherever the length stays between two bounds, the
    geometric mean of the cosines is 1 − ηκ, for a loss that changes from batch to
    batch too. On one fixed loss the weights often do not settle: about a minimum
    they shrink until the steps of their direction become unstable.
    """
    product = positive_decay(lr, decay)
    require_below(product, 2.0, "beyond it the weights grow without bound")
    # arccos(1 − x) = 2 arcsin(√(x/2)), which keeps its digits for small x
    return 2 * math.asin(math.sqrt(product / 2))


def effective_rate(square: Number, lr: float) -> Number:
    r"""Step size of the direction of scale-invariant weights, η/‖w‖².

    The direction u = w/‖w‖ moves by :math:`\dot u = -\lVert w\rVert^{-2}\,\nabla
    f(u)` under gradient flow, with decay or without.

    Parameters
    ----------
    square : float or Tensor
        ‖w‖².
    lr : float
        η > 0.

    Returns
    -------
    float or Tensor
        In the shape of `square`; infinite at 0.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind or sign.
    """
    require_numbers(square=square)
    require_learning_rate(lr)
    if not isinstance(square, Tensor) and square == 0:
        return math.inf
    return lr / square


def translation_rate(lr: float, decay: float, *, order: int | None = None) -> float:
    r"""Rate at which ⟨1, w⟩ decays on translation-invariant weights.

    Gradient descent: :math:`\langle\mathbf 1, w_k\rangle = (1-\eta\kappa)^k
    \langle\mathbf 1, w_0\rangle = e^{-rt}\langle\mathbf 1, w_0\rangle` with r =
    :math:`-\log(1-\eta\kappa)/\eta`. The motion of N terms has its first N terms,
    :math:`\kappa\sum_{j<N}(\eta\kappa)^j/(j+1)`.

    Parameters
    ----------
    lr, decay : float
        η > 0 and κ ≥ 0.
    order : int, optional
        N ≥ 1; None for gradient descent, which needs ηκ < 1.

    Returns
    -------
    float
        Per unit of time η·steps.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or ηκ ≥ 1 and no `order`: no real
        motion changes a sign.
    """
    product = step_decay(lr, decay)
    if order is None:
        require_below(product, 1.0, "no real motion passes through a change of sign")
        return -math.log1p(-product) / lr
    require_count("order", order, 1)
    return decay * math.fsum(product**j / (j + 1) for j in range(order))
