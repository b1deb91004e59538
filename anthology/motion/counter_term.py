r"""Counter terms: what gradient flow needs to pass through the steps.

Gradient descent :math:`w' = w - \eta g(w)` is not followed by the gradient
flow :math:`\dot w = -g(w)`, but (as a power series in :math:`\eta`) by

.. math:: \dot w = -g - \eta\,(\xi_0 + \eta\,\xi_1 + \eta^2 \xi_2 + \dots)

with the *counter terms* :math:`\xi_0 = \tfrac12 Hg`,
:math:`\xi_1 = \tfrac13 H^2 g + \tfrac1{12} T[g, g]`, … (Miyagawa 2022 calls the
sum the counter term and the equation the equation of motion; numerical
analysis calls it the modified equation, Hairer, Lubich & Wanner, chapter IX.1;
Barrett & Dherin 2021 found :math:`\xi_0` in deep learning.)

:func:`motion_terms` expands any smooth step map :math:`w' = w + \eta\Phi(w)`;
:func:`counter_terms` is the case :math:`\Phi = -g`. Both differentiate with
``torch.func.jvp``, so the functions they are given must be made of torch
operations; make a gradient with ``torch.func.grad(loss)``.

>>> import torch
>>> from anthology.motion import counter_terms
>>> w = torch.tensor([1.0], dtype=torch.float64)
>>> counter_terms(lambda w: 3 * w, w, 2)     # quadratic: ξ_k = h^(k+2) w/(k+2)
[tensor([4.5000], dtype=torch.float64), tensor([9.], dtype=torch.float64)]
"""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import jvp

from anthology.motion._arguments import (
    Field,
    evaluated,
    require_callable,
    require_count,
    require_learning_rate,
    require_point,
)

__all__ = [
    "counter_field",
    "counter_terms",
    "first_counter_term",
    "motion_terms",
    "second_counter_term",
]

# (m, r) -> D[m, r], the coefficient of η^r in the m-th time derivative of the
# motion; D[1, r] = F_r
_Table: TypeAlias = dict[tuple[int, int], Tensor]


def motion_terms(displacement: Field, w: Tensor, count: int) -> list[Tensor]:
    r"""First terms of the exact equation of motion of a step map.

    For :math:`w' = w + \eta\Phi(w)` the motion :math:`\dot w = \sum_k \eta^k
    F_k(w)` that passes through the iterates at :math:`t = 0, \eta, 2\eta, …` has

    .. math:: F_0 = \Phi, \qquad
        F_k = -\sum_{m=2}^{k+1} \frac{1}{m!} D_{m,\,k+1-m}, \qquad
        D_{1,r} = F_r, \quad
        D_{m,r} = \sum_{j=0}^{r} (F_j \cdot \nabla) D_{m-1,\,r-j}

    (Hairer, Lubich & Wanner, Geometric Numerical Integration, IX.1).

    Parameters
    ----------
    displacement : callable
        Φ, from a tensor of the shape of ``w`` to one of the same shape and
        dtype; smooth, and made of torch operations. It must not depend on η.
    w : Tensor
        The point, real floating point, any shape.
    count : int
        How many terms, at least 0. Φ is called ``2**(count - 1)`` times, each
        call inside up to ``count - 1`` nested forward derivatives.

    Returns
    -------
    list of Tensor
        :math:`F_0, …, F_{count-1}`, each of the shape and dtype of ``w``. A
        non-finite entry met on the way makes the terms non-finite; nothing
        is raised.

    Raises
    ------
    TypeError
        If ``displacement`` is not callable, ``w`` not a real floating-point
        tensor, ``count`` not an int, or Φ returns something else than a tensor.
    ValueError
        If ``count`` is negative or Φ changes shape or dtype.
    """
    require_callable("displacement", displacement, "a function of a Tensor")
    require_point("w", w)
    require_count("count", count, 0)
    return _terms("displacement", displacement, w, count)


def counter_terms(gradient: Field, w: Tensor, count: int) -> list[Tensor]:
    r"""The counter terms :math:`\xi_0, …, \xi_{count-1}` of gradient descent.

    Parameters
    ----------
    gradient : callable
        The gradient g = ∇f as a function of a tensor (not the loss; take
        ``torch.func.grad(loss)``), returning the shape and dtype of its
        argument.
    w : Tensor
        The point, real floating point, any shape.
    count : int
        How many counter terms, at least 0. The gradient is called
        ``2**count`` times, the deepest call inside ``count`` nested forward
        derivatives.

    Returns
    -------
    list of Tensor
        ``count`` tensors of the shape and dtype of ``w``, in units of
        gradient/time, gradient/time², … They are minus the later terms of
        :func:`motion_terms` for Φ = −g. Non-finite input gives non-finite
        terms.

    Raises
    ------
    TypeError
        If ``gradient`` is not callable, ``w`` not a real floating-point
        tensor, ``count`` not an int, or the gradient returns no tensor.
    ValueError
        If ``count`` is negative or the gradient changes shape or dtype.

    Notes
    -----
    Exact up to rounding: unlike :func:`anthology.motion.generator` nothing
    cancels, so float32 gives float32 accuracy. Piecewise linear functions
    (ReLU) have no counter terms at their kinks, and the formula does not see
    the kinks that a step crosses. Source: Miyagawa 2022; the recursion is
    that of :func:`motion_terms`.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    require_count("count", count, 0)
    if count == 0:
        return []
    terms = _terms("gradient", gradient, w, count + 1, sign=-1)
    return [-term for term in terms[1:]]


def counter_field(gradient: Field, w: Tensor, order: int, lr: float) -> Tensor:
    r"""The truncated equation of motion of gradient descent, at one point.

    :math:`-g - \eta\,(\xi_0 + \dots + \eta^{order-2}\,\xi_{order-2})`: the
    gradient and ``order - 1`` counter terms. Followed for a fixed time it
    stays within :math:`O(\eta^{order})` of gradient descent; order 1 is
    gradient flow.

    Parameters
    ----------
    gradient : callable
        The gradient ∇f as a function of a tensor, as in :func:`counter_terms`.
    w : Tensor
        The point, real floating point, any shape.
    order : int
        How many terms, the gradient counted; at least 1.
    lr : float
        The step size η, positive.

    Returns
    -------
    Tensor
        The velocity dw/dt, of the shape and dtype of ``w``.

    Raises
    ------
    TypeError, ValueError
        As :func:`counter_terms`; also if ``lr`` is not a positive finite
        float.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    require_count("order", order, 1)
    require_learning_rate(lr)
    terms = _terms("gradient", gradient, w, order, sign=-1)
    velocity = terms[-1]
    for term in reversed(terms[:-1]):
        velocity = term + lr * velocity
    return velocity


def first_counter_term(gradient: Field, w: Tensor) -> Tensor:
    r""":math:`\xi_0 = \tfrac12 H g = \tfrac14 \nabla \|g\|^2`, in closed form.

    Two calls of the gradient; arguments, result and errors as in
    :func:`counter_terms` (Barrett & Dherin 2021; Miyagawa 2022).
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    g = evaluated("gradient", gradient, w)
    return _along(gradient, w, g) / 2


def second_counter_term(gradient: Field, w: Tensor) -> Tensor:
    r""":math:`\xi_1 = \tfrac13 H^2 g + \tfrac1{12} T[g, g]`, in closed form.

    T is the third derivative of the loss. Three calls of the gradient;
    arguments, result and errors as in :func:`counter_terms`. In contrast to
    ξ₀ it is not the gradient of any function in general: that would need
    the ratio 2 : 1 between the two coefficients, and it is 4 : 1.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    g = evaluated("gradient", gradient, w)
    # g is held fixed, so that only the Hessian is differentiated
    once, third = _value_and_along(lambda v: _along(gradient, v, g), w, g)
    hessian_twice = _along(gradient, w, once)
    return hessian_twice / 3 + third / 12


def _along(field: Field, w: Tensor, direction: Tensor) -> Tensor:
    """Derivative of ``field`` at ``w`` along ``direction``."""
    return _value_and_along(field, w, direction)[1]


def _value_and_along(
    field: Field, w: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    value, derivative = jvp(field, (w,), (direction,))[:2]
    return value, derivative.to(w.dtype)  # see _table


def _terms(
    name: str, function: Field, w: Tensor, count: int, sign: int = 1
) -> list[Tensor]:
    if count == 0:
        return []

    def displacement(v: Tensor) -> Tensor:
        value = evaluated(name, function, v)
        return value if sign > 0 else -value

    table = _table(displacement, w, count)
    return [table[1, k] for k in range(count)]


def _table(displacement: Field, w: Tensor, level: int) -> _Table:
    """All D[m, r] with m + r ≤ level, at one point."""
    table: _Table = {(1, 0): displacement(w)}
    for j in range(level - 1):
        inner = level - 1 - j
        along: _Table = jvp(
            lambda v, inner=inner: _table(displacement, v, inner),
            (w,),
            (table[1, j],),
        )[1]
        for (m, r), derivative in along.items():
            key = (m + 1, r + j)
            # torch lets the tangent of a zero-dimensional float32 tensor times
            # a Python number become float64 (pytorch issue 160513)
            derivative = derivative.to(w.dtype)
            table[key] = table[key] + derivative if key in table else derivative
        table[1, j + 1] = _next_term([table[m, j + 2 - m] for m in range(2, j + 3)])
    return table


def _next_term(derivatives: list[Tensor]) -> Tensor:
    """−Σ D_m/m! over D_2, D_3, …"""
    total = derivatives[0]
    for m, derivative in enumerate(derivatives[1:], start=3):
        total = torch.add(total, derivative, alpha=2 / math.factorial(m))
    return torch.add(total, total, alpha=-1.5)
