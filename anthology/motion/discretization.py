r"""How far gradient descent is from its equation of motion.

:func:`equation_of_motion` gives the motion truncated after any number of
terms, by either way; :func:`discretization_error` follows it and subtracts
the iterates.

>>> import torch
>>> from anthology.motion import discretization_error
>>> w = torch.ones(1, dtype=torch.float64)
>>> e = discretization_error(lambda w: w, w, lr=0.1, steps=1, order=1)
>>> e       # exp(-0.1) - 0.9, close to lr² ξ₀ = 0.005
tensor([0.0048], dtype=torch.float64)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anthology.motion._arguments import (
    Field,
    evaluated,
    require_callable,
    require_count,
    require_float64,
    require_learning_rate,
)
from anthology.motion.counter_term import counter_field
from anthology.motion.flow import flow
from anthology.motion.generator import velocity_from_displacements

__all__ = ["discretization_error", "equation_of_motion"]

_METHODS = ("series", "differences")


def equation_of_motion(
    gradient: Field, order: int, lr: float, method: str = "series"
) -> Field:
    r"""The truncated equation of motion of gradient descent, as a function.

    Parameters
    ----------
    gradient : callable
        The gradient ∇f as a function of a tensor, returning its shape and
        dtype.
    order : int
        How many terms, at least 1; the distance to gradient descent after a
        fixed time is :math:`O(\eta^{order})`. Order 1 is gradient flow.
    lr : float
        The step size η of the gradient descent to be followed, positive.
    method : {"series", "differences"}
        ``"series"``: the gradient and ``order - 1`` counter terms
        (:func:`counter_field`, ``2**(order - 1)`` calls of the gradient, the
        deepest in ``order - 1`` nested derivatives). ``"differences"``: forward
        differences of ``order`` iterates (``order`` plain calls). The two
        differ by :math:`O(\eta^{order})`.

    Returns
    -------
    callable
        w ↦ dw/dt, from a tensor to one of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, or an unknown ``method``.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_count("order", order, 1)
    require_learning_rate(lr)
    if method not in _METHODS:
        raise ValueError(f"method must be one of {_METHODS}, got {method!r}")
    if method == "series":
        return lambda w: counter_field(gradient, w, order, lr)

    def velocity(w: Tensor) -> Tensor:
        # the gradients are the displacements: differencing them instead of
        # the iterates saves the rounding of w and a division by η
        displacements = []
        for _ in range(order):
            displacements.append(-evaluated("gradient", gradient, w))
            w = w + lr * displacements[-1]
        return velocity_from_displacements(displacements)

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

    w(t) follows the equation of motion truncated at ``order`` terms,
    :math:`w_{k+1} = w_k - \eta g(w_k)`, and both start at ``w0``. With
    ``order`` = N, :math:`e_1 = \eta^{N+1}\xi_{N-1} + O(\eta^{N+2})` for the
    series, and :math:`e_k = O(\eta^N)` at a fixed time :math:`k\eta`.

    Parameters
    ----------
    gradient : callable
        The gradient ∇f as a function of a tensor.
    w0 : Tensor
        The start, float64, any shape.
    lr : float
        The step size η, positive.
    steps : int or sequence of int
        After how many steps: one number, or increasing numbers ≥ 0.
    order : int
        How many terms of the motion, at least 1 (1 is gradient flow).
    method : {"series", "differences"}
        How the motion is computed, see :func:`equation_of_motion`.
    **integrator
        ``solver``, ``rtol``, ``atol`` and ``max_evaluations`` of :func:`flow`.

    Returns
    -------
    Tensor
        The error in the shape of ``w0``, or for a sequence of steps in shape
        ``(len(steps), *w0.shape)``; NaN or infinite where the motion or the
        descent is.

    Raises
    ------
    ImportError, TypeError, ValueError, RuntimeError
        As :func:`equation_of_motion` and :func:`flow`.
    """
    require_float64("w0", w0, "float32 would hide differences below 1e-6")
    single = not isinstance(steps, Sequence)
    counts = list(steps) if isinstance(steps, Sequence) else [steps]
    for count in counts:
        require_count("steps", count, 0)
    velocity = equation_of_motion(gradient, order, lr, method)
    motion = flow(velocity, w0, [lr * count for count in counts], **integrator)
    error = motion - _iterates(gradient, w0.detach(), lr, counts)
    return error[0] if single else error


def _iterates(gradient: Field, w: Tensor, lr: float, counts: list[int]) -> Tensor:
    done, points = 0, []
    for count in counts:
        for _ in range(count - done):
            w = w - lr * evaluated("gradient", gradient, w)
        done = count
        points.append(w)
    return torch.stack(points) if points else w.new_empty(0, *w.shape)
