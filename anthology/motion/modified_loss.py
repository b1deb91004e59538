r"""The loss that a step really descends, to second order.

Take a smooth convex φ and the step :math:`w' = w - \eta\nabla\varphi(\nabla f)`.
Up to :math:`O(\eta^2)` its iterates follow the flow of the *same* map on another
loss,

.. math:: \dot w = -\nabla\varphi(\nabla\tilde f), \qquad
    \tilde f = f + \tfrac{\eta}{2}\, c\, \varphi(\nabla f),

with c = 1 for a plain step and :func:`average_factor` under momentum. For
φ = ½‖·‖² this is gradient descent and the penalty of Barrett & Dherin 2021;
for a dual norm it is steepest descent, whatever the norm (derived here).

>>> import torch
>>> from anthology.motion import modified_loss
>>> from anthology.norms import LInf
>>> f = lambda w: w.square().sum() / 2                     # its gradient is w
>>> modified_loss(f, LInf(), lr=0.1)(torch.tensor([3.0, -4.0]))   # 12.5 + 0.05·7
tensor(12.8500)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad_and_value

from anthology.motion._arguments import (
    require_callable,
    require_learning_rate,
    require_nonnegative,
    require_point,
)
from anthology.motion.averages import average_factor
from anthology.motion.penalties import dual_norm
from anthology.norms import Norm

__all__ = ["modified_loss", "reshuffled_loss"]

Loss: TypeAlias = Callable[[Tensor], Tensor]


def modified_loss(
    f: Loss,
    penalty: Norm | Callable[[Tensor], Tensor],
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    decay: float = 0.0,
) -> Loss:
    r"""The loss :math:`\tilde f = f + \tfrac{\eta}{2} c\,\varphi(\nabla f)`.

    Parameters
    ----------
    f : callable
        The loss, from a tensor to a tensor with one element; made of torch
        operations.
    penalty : Norm or callable
        φ, a function of the gradient such as :func:`smooth_l1`, or the norm of
        the step, which stands for its dual norm: φ = ‖·‖_*. Vector norms see all
        entries as one vector; for matrix norms leading axes are a stack, over
        which the dual norm sums. ``half_square()`` is gradient descent.
    lr : float
        The step size η, positive. For heavy ball, whose velocity is a sum of
        gradients and not their average, pass η/(1−β).
    momentum : float
        β in [0, 1) of an average m ← βm + (1−β)g before the map. Default 0.
    nesterov : bool
        Muon's form (1−β)g + βm. Default False.
    decay : float
        Decoupled weight decay κ ≥ 0. Default 0. See the notes.

    Returns
    -------
    callable
        :math:`\tilde f`, from a tensor to a tensor without axes; as
        differentiable as f, with one derivative less.

    Raises
    ------
    TypeError
        If ``f`` or ``penalty`` is not callable or does not return one number,
        or a number is none.
    ValueError
        If ``lr`` is not positive and finite, ``momentum`` outside [0, 1), or
        ``decay`` negative.

    Notes
    -----
    With decay, w' = (1 − ηκ)w − η∇φ(m), the loss is

    .. math:: \tilde f = f + \tfrac{\eta}{2} c\,
        [\varphi(\nabla f) + \kappa\,(\langle\nabla f, w\rangle - f)]

    and the clock runs faster: :math:`\dot w = -(1 + \tfrac{\eta\kappa}{2})
    (\nabla\varphi(\nabla\tilde f) + \kappa w)` (derived here).

    Where φ has a kink on the way (an entry of g changes sign under sign
    descent) the expansion does not hold.
    """
    require_callable("f", f, "a loss, a function of a Tensor")
    phi = _function(penalty)
    require_learning_rate(lr)
    require_nonnegative("decay", decay)
    weight = lr / 2 * average_factor(momentum, nesterov)

    def loss(w: Tensor) -> Tensor:
        require_point("w", w)
        g, value = grad_and_value(_scalar(f))(w)
        extra = _number("penalty", phi(g))
        if decay:
            extra = extra + decay * ((g * w).sum() - value)
        return torch.add(value, extra, alpha=weight)

    return loss


def reshuffled_loss(losses: Sequence[Loss], lr: float) -> Loss:
    r"""The loss that gradient descent over reshuffled batches descends.

    For m batches with losses :math:`f_i`, visited once per epoch in random
    order, the mean iterate follows, to :math:`O(\eta^2)`, the gradient flow of

    .. math:: \tilde f = f + \frac{\eta}{4m} \sum_i \|\nabla f_i\|^2
        = f + \frac{\eta}{4}\|\nabla f\|^2
        + \frac{\eta}{4m}\sum_i \|\nabla f_i - \nabla f\|^2,
        \qquad f = \frac1m \sum_i f_i

    for a time mη per epoch (Smith, Dherin, Barrett & De 2021).

    Parameters
    ----------
    losses : sequence of callable
        The :math:`f_i`, each from a tensor to a tensor with one element; at
        least one.
    lr : float
        The step size η of one batch, positive.

    Returns
    -------
    callable
        :math:`\tilde f`, from a tensor to a tensor without axes.

    Raises
    ------
    TypeError
        If ``losses`` are not callables that return one number, or ``lr`` is no
        number.
    ValueError
        If there is no loss, or ``lr`` is not positive and finite.
    """
    if not isinstance(losses, Sequence):
        raise TypeError(
            f"losses must be a sequence of functions, got {type(losses).__name__}"
        )
    batches = list(losses)
    if not batches:
        raise ValueError("losses must have at least one loss, got none")
    for batch in batches:
        require_callable("each of losses", batch, "a function of a Tensor")
    require_learning_rate(lr)

    def loss(w: Tensor) -> Tensor:
        require_point("w", w)
        terms = []
        for batch in batches:
            g, value = grad_and_value(_scalar(batch))(w)
            terms.append(torch.add(value, g.square().sum(), alpha=lr / 4))
        return torch.stack(terms).mean()

    return loss


def _function(penalty: Any) -> Callable[[Tensor], Tensor]:
    if isinstance(penalty, Norm):
        return dual_norm(penalty)
    if isinstance(penalty, type) and issubclass(penalty, Norm):
        raise TypeError(
            f"penalty must be a Norm, not its class: write {penalty.__name__}(...)"
        )
    require_callable("penalty", penalty, "a Norm or a function of the gradient")
    function: Callable[[Tensor], Tensor] = penalty
    return function


def _scalar(f: Loss) -> Loss:
    return lambda w: _number("f", f(w))


def _number(name: str, value: Any) -> Tensor:
    """A value with one element, without axes; refused if it is anything else."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must return a tensor with one element, got {got}")
    return value.reshape(())
