"""How far gradient descent is from its equation of motion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp

from anthology.motion._arguments import Field, demand, evaluated, require_count
from anthology.motion.counter_term import (
    counter_field,
    counter_terms,
    derivative,
    descent,
)
from anthology.motion.flow import flow
from anthology.motion.generator import weights


def equation_of_motion(
    gradient: Field, order: int, lr: float, method: str = "series"
) -> Field:
    r"""The truncated equation of motion of gradient descent, as a function w ↦ dw/dt.

    Parameters
    ----------
    gradient, order, lr
        As for :func:`counter_field`, with its errors.
    method : {"series", "differences"}
        :func:`counter_field`, ``2**(order - 1)`` calls of the gradient, the deepest in
        ``order - 1`` nested derivatives; or forward differences of ``order`` iterates
        (``order`` plain calls). They differ by :math:`O(\eta^{order})`.
    """
    demand(gradient=gradient, order=order, lr=lr, method=method)
    if method == "series":
        return lambda w: counter_field(gradient, w, order, lr)

    first, *others = weights(order)

    def velocity(w: Tensor) -> Tensor:
        # the gradients are the displacements: summing them instead of the
        # iterates saves the rounding of w and a division by η
        g = evaluated("gradient", gradient, w)
        total = g * -first
        for weight in others:
            w = torch.sub(w, g, alpha=lr)
            g = evaluated("gradient", gradient, w)
            total = torch.add(total, g, alpha=-weight)
        return total

    return velocity


def discretization_error(
    gradient: Field,
    w0: Tensor,
    lr: float,
    steps: int | Sequence[int],
    order: int,
    *,
    method: str = "series",
    **integrator: Any,
) -> Tensor:
    r"""Motion minus iterate: :math:`e_k = w(k\eta) - w_k`.

    w(t) follows the equation of motion truncated at N = ``order`` terms,
    :math:`w_{k+1} = w_k - \eta g(w_k)`, and both start at ``w0``:
    :math:`e_1 = \eta^{N+1}\xi_{N-1} + O(\eta^{N+2})` for the
    series, and :math:`e_k = O(\eta^N)` at a fixed time :math:`k\eta`.

    Parameters
    ----------
    gradient, lr, order, method
        As for :func:`equation_of_motion`, with its errors.
    w0 : Tensor
        The start, float64, any shape.
    steps : int or sequence of int
        After how many: one number, or increasing numbers ≥ 0.
    **integrator
        ``solver``, ``rtol``, ``atol`` and ``max_evaluations`` of :func:`flow`, whose
        errors are raised too.

    Returns
    -------
    Tensor
        In the shape of ``w0``, or for a sequence in shape ``(len(steps), *w0.shape)``;
        NaN or infinite where the motion or the descent is.

    Examples
    --------
    >>> w = torch.ones(1, dtype=torch.float64)
    >>> discretization_error(lambda w: w, w, 0.1, 1, order=1)     # exp(-0.1) − 0.9
    tensor([0.0048], dtype=torch.float64)
    """
    demand(w0=w0)

    def errors(counts: list[int]) -> Tensor:
        velocity = equation_of_motion(gradient, order, lr, method)
        motion = flow(velocity, w0, [lr * count for count in counts], **integrator)
        return motion - _iterates(gradient, w0.detach(), lr, counts)

    return _after(steps, errors)


def leading_error(
    gradient: Field,
    w0: Tensor,
    lr: float,
    steps: int | Sequence[int],
    order: int,
    *,
    method: str = "series",
    **integrator: Any,
) -> Tensor:
    r"""The discretization error predicted: :math:`\eta^N \varepsilon(k\eta)`.

    With N = ``order``, :math:`e_k = \eta^N\varepsilon(k\eta) + O(\eta^{N+1})` at a
    fixed time, where

    .. math:: \dot w = -g(w), \qquad
        \dot\varepsilon = -H(w)\,\varepsilon + s(w), \qquad \varepsilon(0) = 0

    and the source s is the first term left out: :math:`\xi_{N-1}` for the
    series, :math:`\frac{(-1)^{N+1}}{N+1} D_{N+1,0}` for differences, with
    :math:`D_{m,0}` the m-th time derivative of gradient flow (:func:`motion_terms`).
    Arguments, result, its sign and errors as of :func:`discretization_error`.

    Notes
    -----
    One evaluation calls the gradient ``2**order + 1`` times for the series
    and ``order + 2`` times for differences. It is small where gradient flow
    contracts and grows like :math:`(e^{Lt}-1)/L` at worst, with L a bound on
    ‖H‖. Source: derived here; Miyagawa 2022 bounds the error.
    """
    demand(gradient=gradient, w0=w0, order=order, lr=lr, method=method)
    flowing = descent(gradient)

    def velocity(both: Tensor) -> Tensor:
        w, error = both[0], both[1]
        motion, curve = jvp(flowing, (w,), (error,))[:2]
        return torch.stack([motion, curve + _source(gradient, w, order, method)])

    def errors(counts: list[int]) -> Tensor:
        both = torch.stack([w0.detach(), torch.zeros_like(w0)])
        path = flow(velocity, both, [lr * count for count in counts], **integrator)
        return lr**order * path[:, 1]

    return _after(steps, errors)


def _source(gradient: Field, w: Tensor, order: int, method: str) -> Tensor:
    if method == "series":
        return counter_terms(gradient, w, order)[-1]
    sign = 1 if order % 2 else -1
    return _time_derivative(gradient, order)(w) * (sign / (order + 1))


def _time_derivative(gradient: Field, times: int) -> Field:
    """ẇ along gradient flow, differentiated so many times more by t."""
    if times == 0:
        return lambda w: -gradient(w)
    inner = _time_derivative(gradient, times - 1)
    return lambda w: derivative(inner, w, -gradient(w))


def _after(steps: int | Sequence[int], errors: Callable[[list[int]], Tensor]) -> Tensor:
    """The errors after these steps, or the one after a single number of them."""
    counts = list(steps) if isinstance(steps, Sequence) else [steps]
    for count in counts:
        require_count("steps", count, 0)
    found = errors(counts)
    return found if isinstance(steps, Sequence) else found[0]


def _iterates(gradient: Field, w: Tensor, lr: float, counts: list[int]) -> Tensor:
    done, points = 0, []
    for count in counts:
        for _ in range(count - done):
            w = w - lr * evaluated("gradient", gradient, w)
        done = count
        points.append(w)
    return torch.stack(points) if points else w.new_empty(0, *w.shape)
