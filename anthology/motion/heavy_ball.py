"""Equation of motion of heavy ball and of Nesterov's method.

>>> w = torch.tensor([1.0], dtype=torch.float64)
>>> heavy_ball_terms(lambda w: w, w, 2, momentum=0.5)   # −g/(1−β), −6·Hg
[tensor([-2.], dtype=torch.float64), tensor([-6.], dtype=torch.float64)]
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anthology.motion._arguments import Field, evaluated, require
from anthology.motion.counter_term import Table, along_motion, derivative

__all__ = ["heavy_ball_terms", "slow_start"]

_POINTS = ("lookahead", "iterate")


def heavy_ball_terms(
    gradient: Field,
    w: Tensor,
    count: int,
    momentum: float,
    nesterov: bool = False,
    *,
    point: str = "lookahead",
) -> list[Tensor]:
    r"""First terms of the slow motion of heavy ball or of Nesterov's method.

    Their steps depend on two points, but after a short while the iterates move on a
    motion in w alone. For :math:`w_{n+1} = w_n + \beta(w_n - w_{n-1}) - \eta g(w_n)` it
    is :math:`\dot w = \sum_k \eta^k F_k(w)` with

    .. math:: F_0 = -\frac{g}{1-\beta}, \qquad F_k = -\frac{1}{1-\beta}
        \Bigl[\sum_{m=2}^{k+1} \frac{c_m}{m!} D_{m,\,k+1-m} + G_k\Bigr], \qquad
        c_m = 1 + (-1)^m \beta,

    with the :math:`D_{m,r}` of :func:`motion_terms` and G = 0. Nesterov's method,
    :math:`w_{n+1} = y_n - \eta g(y_n)` with :math:`y_n = w_n + \beta(w_n -
    w_{n-1})`, adds :math:`G_k`: for the motion of the look-ahead points y
    :math:`G_k = -\beta \sum_{m=1}^{k} \frac{(-1)^m}{m!} E_{m,\,k-m}` with the
    time derivatives E of g along the motion; for that of w the coefficient of
    :math:`\eta^k` in :math:`g(w + \beta\sum_m \frac{(-1)^{m+1}}{m!} \eta^m
    \frac{d^m w}{dt^m})`.

    Parameters
    ----------
    gradient, w
        As for :func:`counter_terms`.
    count : int
        How many terms, at least 0. The gradient is called ``2**(count - 1)`` times
        (for ``point="iterate"`` about ``3**(count - 1)``).
    momentum : float
        β in [0, 1), as in ``torch.optim.SGD``: velocities are sums of gradients,
        not averages.
    nesterov : bool
        Nesterov's method. Default False.
    point : {"lookahead", "iterate"}
        Whose motion, for Nesterov: y (default), which is what
        ``torch.optim.SGD(nesterov=True)`` stores, or w.

    Returns
    -------
    list of Tensor
        :math:`F_0, …, F_{count-1}`. Shape, errors and what is not finite as for
        :func:`counter_terms`.

    Notes
    -----
    :math:`F_1 = -\frac{1+\beta}{2(1-\beta)^3} Hg` for heavy ball and
    :math:`-\frac{1-\beta+2\beta^2}{2(1-\beta)^3} Hg` for Nesterov, whose
    two motions part at :math:`F_2`, by :math:`\frac{\beta(1+\beta)}
    {2(1-\beta)^3} T[g, g]`. The small parameter is about
    :math:`\eta/(1-\beta)^2`. Iterates that start at rest join the motion beside their
    start: :func:`slow_start`. Derived here; the first two terms of heavy ball agree
    with Kovachki & Stuart 2021 and Ghosh et al. 2023.
    """
    require(gradient=gradient, w=w, count=count, momentum=momentum)
    if point not in _POINTS:
        raise ValueError(f"point must be one of {_POINTS}, got {point!r}")
    if count == 0:
        return []
    beta, ahead = float(momentum), point if nesterov else ""

    def start(v: Tensor) -> Table:
        g = evaluated("gradient", gradient, v)
        table: Table = {("w", 1, 0): -g / (1 - beta)}
        return {**table, ("g", 0, 0): g} if ahead == "lookahead" else table

    def following(table: Table, v: Tensor, k: int) -> Tensor:
        total = torch.zeros_like(v)
        if ahead == "lookahead":
            total = _earlier(table, "g", k, -beta)
        elif ahead == "iterate":
            shifts = [_earlier(table, "w", i, -beta) for i in range(1, k + 1)]
            total = _on_curve(gradient, v, shifts) / math.factorial(k)
        for m in range(2, k + 2):
            weight = (1 + (-1) ** m * beta) / math.factorial(m)
            total = torch.add(total, table["w", m, k + 1 - m], alpha=weight)
        return -total / (1 - beta)

    table = along_motion(start, following, w, count)
    return [table["w", 1, k] for k in range(count)]


def _earlier(table: Table, kind: str, k: int, factor: float) -> Tensor:
    """factor·Σ_m (−1)^m/m! of the m-th derivatives at total order k."""
    total = torch.zeros_like(table["w", 1, 0])
    for m in range(1, k + 1):
        weight = factor * (-1) ** m / math.factorial(m)
        total = torch.add(total, table[kind, m, k - m], alpha=weight)
    return total


def _on_curve(gradient: Field, w: Tensor, shifts: list[Tensor]) -> Tensor:
    """k-th derivative at s = 0 of g(w + Σ s^i shifts_i), k = len(shifts)."""

    def on_curve(s: Tensor) -> Tensor:
        curve, power = w, s
        for direction in shifts:
            curve = curve + power * direction
            power = power * s
        return gradient(curve)

    along: Field = on_curve
    for _ in shifts:
        along = _slope_of(along)
    return along(torch.zeros((), dtype=w.dtype, device=w.device))


def _slope_of(curve: Field) -> Field:
    return lambda s: derivative(curve, s, torch.ones_like(s))


def slow_start(
    gradient: Field, w: Tensor, lr: float, momentum: float, nesterov: bool = False
) -> Tensor:
    r"""Where the slow motion of a heavy ball that starts at rest begins.

    The first steps are too short, so the iterates from ``w`` soon follow the
    slow motion that starts behind it, at :math:`w + \eta\frac{\beta}{(1-\beta)^2}
    g(w)`, up to :math:`O(\eta^2)` (derived here). For Nesterov's look-ahead
    points, which ``torch.optim.SGD(nesterov=True)`` stores, β² replaces β in the
    numerator. Followed from ``w`` itself, the motion is :math:`O(\eta)` off
    however many terms it has.

    Parameters
    ----------
    gradient, w
        As for :func:`counter_terms`; ``w`` is the first iterate.
    lr : float
        The step size η, positive, as in ``torch.optim.SGD``. For an average
        m ← βm + (1−β)g without bias correction pass η(1−β).
    momentum, nesterov
        As for :func:`heavy_ball_terms`.

    Returns
    -------
    Tensor
        The shifted point, of the shape and dtype of ``w``. Errors as of
        :func:`counter_terms`.
    """
    require(gradient=gradient, w=w, lr=lr, momentum=momentum)
    behind = lr * momentum / (1 - momentum) ** 2
    shift = behind * (momentum if nesterov else 1)
    return w + shift * evaluated("gradient", gradient, w)
