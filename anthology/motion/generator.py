"""The equation of motion of any step map, by forward differences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anthology.motion._arguments import Field, demand, evaluated, require_float64


def generator(step: Field, w: Tensor, order: int, lr: float) -> Tensor:
    r"""Velocity at ``w`` of the motion that follows a step map.

    If a motion passes through the iterates at :math:`t = 0, \eta, 2\eta, …`, one step
    is the shift :math:`S = e^{\eta L}` of its generator L, and :math:`\eta L =
    \log(1 + \Delta)` with :math:`\Delta = S - 1`. Here :math:`\eta^{-1}
    \sum_{n=1}^{N} (-1)^{n-1} \Delta^n w / n` with N = ``order``, the velocity of a
    polynomial through N + 1 iterates: followed for a fixed time it stays within
    :math:`O(\eta^N)` of them (classical; the interpolating vector field).

    Parameters
    ----------
    step : callable
        One step, w ↦ w', deterministic, called ``order`` times at consecutive
        iterates with a copy of the point; returns its shape and dtype. Of a step
        with a state let the point hold the state too.
    w : Tensor
        The point, float64, any shape. A non-finite iterate makes the velocity so.
    order : int
        How many differences, at least 1, which is −g for gradient descent.
    lr : float
        The step size η, positive: the time that one step takes.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or range, or a step that returns no tensor like
        w. float32 is refused: the rounding error is up to about :math:`2^N \epsilon \|w\|
        / (N \eta)`, with ε = 2e-16 in float64.

    Examples
    --------
    >>> w = torch.tensor([1.0], dtype=torch.float64)
    >>> generator(lambda w: w - 0.1 * w, w, order=8, lr=0.1)   # log(0.9)/0.1
    tensor([-1.0536], dtype=torch.float64)
    """
    demand(step=step)
    require_float64("w", w, "forward differences cancel most of its digits")
    demand(order=order, lr=lr)
    velocity = torch.zeros_like(w)
    for weight in weights(order):
        # copies, because a step may work in place or return the same tensor each time
        following = evaluated("step", step, w.clone())
        velocity = torch.add(velocity, following - w, alpha=weight)
        w = following.clone()
    return velocity / lr


def weights(order: int) -> list[float]:
    r"""c of :math:`\sum_{n=1}^{N} (-1)^{n-1} \Delta^{n-1} / n = \sum_j c_j S^j`."""
    return [
        (-1) ** j * math.fsum(math.comb(n - 1, j) / n for n in range(j + 1, order + 1))
        for j in range(order)
    ]
