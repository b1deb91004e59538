"""Counter terms: what gradient flow needs to pass through the steps.

Derivatives are ``torch.func.jvp``'s: functions must be made of torch operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import jvp

from anthology.motion._arguments import Field, demand, evaluated

# ("w", m, r) -> D[m, r], the coefficient of η^r in the m-th time derivative of the
# motion, with D[1, r] = F_r; ("g", m, r) -> the same of a gradient along it
Table: TypeAlias = dict[tuple[str, int, int], Tensor]
Start: TypeAlias = Callable[[Tensor], Table]
Following: TypeAlias = Callable[[Table, Tensor, int], Tensor]
Weight: TypeAlias = Callable[[int], float]


def motion_terms(displacement: Field, w: Tensor, count: int) -> list[Tensor]:
    r"""First terms of the exact equation of motion of a step map.

    For :math:`w' = w + \eta\Phi(w)` the motion :math:`\dot w = \sum_k \eta^k
    F_k(w)` that passes through the iterates at :math:`t = 0, \eta, 2\eta, …` has

    .. math:: F_0 = \Phi, \qquad
        F_k = -\sum_{m=2}^{k+1} \frac{1}{m!} D_{m,\,k+1-m}, \qquad
        D_{1,r} = F_r, \quad
        D_{m,r} = \sum_{j=0}^{r} (F_j \cdot \nabla) D_{m-1,\,r-j}

    (the modified equation of Hairer, Lubich & Wanner, Geometric Numerical
    Integration, IX.1).

    Parameters
    ----------
    displacement : callable
        Φ, from a tensor to one of its shape and dtype; smooth, made of torch
        operations, independent of η.
    w : Tensor
        The point, real floating point, any shape.
    count : int
        How many terms, at least 0. Φ is called ``2**(count - 1)`` times, each
        call inside up to ``count - 1`` nested forward derivatives.

    Returns
    -------
    list of Tensor
        :math:`F_0, …, F_{count-1}`, of the shape and dtype of ``w``. What is not finite
        on the way makes them so; arguments of the wrong kind or range, or a Φ that returns
        no tensor like w, raise TypeError or ValueError.
    """
    demand(displacement=displacement, w=w, count=count)
    return _terms(lambda v: evaluated("displacement", displacement, v), w, count)


def counter_terms(gradient: Field, w: Tensor, count: int) -> list[Tensor]:
    r"""The counter terms :math:`\xi_0, …, \xi_{count-1}` of gradient descent.

    The motion of :math:`w' = w - \eta g(w)` is :math:`\dot w = -g - \eta\,(\xi_0 +
    \eta\,\xi_1 + \eta^2 \xi_2 + \dots)` (Miyagawa 2022 calls the sum the counter term;
    Barrett & Dherin 2021 found :math:`\xi_0` in deep learning).

    Parameters
    ----------
    gradient : callable
        The gradient g = ∇f as a function of a tensor (not the loss; take
        ``torch.func.grad(loss)``), returning the shape and dtype of its argument.
    w, count
        As for :func:`motion_terms`; the gradient is called ``2**count`` times.

    Returns
    -------
    list of Tensor
        Of the shape and dtype of ``w``, in units of gradient/time, gradient/time²,
        …: minus the later terms of :func:`motion_terms` for Φ = −g, with its errors.

    Notes
    -----
    Exact up to rounding: unlike :func:`generator` nothing cancels, so float32 gives
    float32 accuracy. Piecewise linear functions (ReLU) have no counter terms at their
    kinks, and the formula does not see the kinks that a step crosses.

    >>> w = torch.tensor([1.0], dtype=torch.float64)
    >>> counter_terms(lambda w: 3 * w, w, 2)     # quadratic: ξ_k = h^(k+2) w/(k+2)
    [tensor([4.5000], dtype=torch.float64), tensor([9.], dtype=torch.float64)]
    """
    demand(gradient=gradient, w=w, count=count)
    terms = _terms(descent(gradient), w, count + 1 if count else 0)
    return [-term for term in terms[1:]]


def counter_field(gradient: Field, w: Tensor, order: int, lr: float) -> Tensor:
    r"""The truncated equation of motion of gradient descent, at one point.

    The velocity :math:`-g - \eta\,(\xi_0 + \dots + \eta^{N-2}\,\xi_{N-2})` of N =
    ``order`` ≥ 1 terms, 1 for gradient flow, with the step size η = ``lr`` > 0; the rest
    as for :func:`counter_terms`. Followed for a fixed time it stays within
    :math:`O(\eta^N)` of gradient descent.
    """
    demand(gradient=gradient, w=w, order=order, lr=lr)
    *terms, velocity = _terms(descent(gradient), w, order)
    for term in reversed(terms):
        velocity = term + lr * velocity
    return velocity


def first_counter_term(gradient: Field, w: Tensor) -> Tensor:
    r""":math:`\xi_0 = \tfrac12 H g = \tfrac14 \nabla \|g\|^2`, in closed form.

    Two calls of the gradient; arguments, result and errors as in :func:`counter_terms`.
    """
    demand(gradient=gradient, w=w)
    return derivative(gradient, w, evaluated("gradient", gradient, w)) / 2


def second_counter_term(gradient: Field, w: Tensor) -> Tensor:
    r""":math:`\xi_1 = \tfrac13 H^2 g + \tfrac1{12} T[g, g]`, in closed form.

    T is the third derivative of the loss. Three calls of the gradient;
    arguments, result and errors as in :func:`counter_terms`. In contrast to
    ξ₀ it is not the gradient of any function in general: that would need
    the ratio 2 : 1 between the two coefficients, and it is 4 : 1.
    """
    demand(gradient=gradient, w=w)
    g = evaluated("gradient", gradient, w)
    # g is held fixed, so that only the Hessian is differentiated
    along = jvp(lambda v: derivative(gradient, v, g), (w,), (g,))
    once, third = (part.to(w.dtype) for part in along[:2])
    total: Tensor = derivative(gradient, w, once) / 3 + third / 12
    return total


def derivative(field: Field, w: Tensor, direction: Tensor) -> Tensor:
    """Derivative of ``field`` at ``w`` along ``direction``."""
    along: Tensor = jvp(field, (w,), (direction,))[1]
    return along.to(w.dtype)  # see along_motion


def descent(gradient: Field) -> Field:
    """The velocity of gradient flow."""
    return lambda v: -evaluated("gradient", gradient, v)


def motion_of(
    start: Start, following: Following, w: Tensor, count: int
) -> list[Tensor]:
    """F_0, …, F_{count−1} from the D[m, 0] with m ≤ 1, and F_k of those before."""
    table = _derivatives(start, following, w, count) if count else {}
    return [table["w", 1, k] for k in range(count)]


def add_derivatives(
    total: Tensor, table: Table, orders: range, weight: Weight, kind: str = "w"
) -> Tensor:
    """``total`` + Σ weight(m)/m! · D[m, n − m] over m in ``orders``, n the last."""
    for m in orders:
        part = table[kind, m, orders[-1] - m]
        total = torch.add(total, part, alpha=weight(m) / math.factorial(m))
    return total


def _terms(displacement: Field, w: Tensor, count: int) -> list[Tensor]:
    def following(table: Table, v: Tensor, k: int) -> Tensor:
        first, later = table["w", 2, k - 1], range(3, k + 2)
        total = add_derivatives(first, table, later, lambda m: 2.0)
        return torch.add(total, total, alpha=-1.5)  # not times −½: see _derivatives

    return motion_of(lambda v: {("w", 1, 0): displacement(v)}, following, w, count)


def _derivatives(start: Start, following: Following, w: Tensor, level: int) -> Table:
    """All D[m, r] with m + r ≤ level."""
    table = start(w)
    for j in range(level - 1):
        inner = level - 1 - j
        along: Table = jvp(
            lambda v, inner=inner: _derivatives(start, following, v, inner),
            (w,),
            (table["w", 1, j],),
        )[1]
        for (kind, m, r), part in along.items():
            key = (kind, m + 1, r + j)
            # torch lets the tangent of a zero-dimensional float32 tensor times
            # a Python number become float64 (pytorch issue 160513)
            part = part.to(w.dtype)
            table[key] = table[key] + part if key in table else part
        table["w", 1, j + 1] = following(table, w, j + 1)
    return table
