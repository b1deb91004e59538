r"""Equation of motion of heavy ball and of Nesterov's method.

Their steps depend on two points. After a short while the iterates nevertheless
move on a *slow motion* :math:`\dot w = F_0 + \eta F_1 + \dots` in w alone, which
is found by inserting a motion into the two-step rule. :func:`heavy_ball_terms`
does so to any order, :func:`slow_start` tells where the motion starts.

>>> import torch
>>> from anthology.motion import heavy_ball_terms
>>> w = torch.tensor([1.0], dtype=torch.float64)
>>> heavy_ball_terms(lambda w: w, w, 2, momentum=0.5)   # −g/(1−β), −6·Hg
[tensor([-2.], dtype=torch.float64), tensor([-6.], dtype=torch.float64)]
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
    require_fraction,
    require_learning_rate,
    require_point,
)
from anthology.motion.averages import derivative

__all__ = ["heavy_ball_terms", "slow_start"]

# (0, m, r) -> coefficient of η^r in the m-th time derivative of the point,
# (1, m, r) -> the same of the gradient
_Table: TypeAlias = dict[tuple[int, int, int], Tensor]

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

    For :math:`w_{n+1} = w_n + \beta(w_n - w_{n-1}) - \eta g(w_n)` the motion
    :math:`\dot w = \sum_k \eta^k F_k(w)` has

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
    gradient : callable
        The gradient g = ∇f as a function of a tensor, returning its shape and
        dtype; made of torch operations.
    w : Tensor
        The point, real floating point, any shape.
    count : int
        How many terms, at least 0. The gradient is called ``2**(count - 1)``
        times, the deepest call inside ``count - 1`` nested forward derivatives
        (for ``point="iterate"`` about ``3**(count - 1)`` times).
    momentum : float
        β in [0, 1), as in ``torch.optim.SGD``: the velocity is the sum of the
        gradients, not their average. 0 is gradient descent.
    nesterov : bool
        Nesterov's method. Default False.
    point : {"lookahead", "iterate"}
        Whose motion, for Nesterov: ``"lookahead"`` (default) is y, which is
        what ``torch.optim.SGD(nesterov=True)`` stores as the parameters,
        ``"iterate"`` is w. :math:`F_0` and :math:`F_1` are the same for both.

    Returns
    -------
    list of Tensor
        :math:`F_0, …, F_{count-1}`, of the shape and dtype of ``w``, in units
        of gradient, gradient/time, …. Non-finite input gives non-finite terms.

    Raises
    ------
    TypeError
        If ``gradient`` is not callable or returns no tensor, ``w`` is not a real
        floating-point tensor, ``count`` not an int or ``momentum`` no number.
    ValueError
        If ``count`` is negative, ``momentum`` outside [0, 1), ``point`` unknown,
        or the gradient changes shape or dtype.

    Notes
    -----
    :math:`F_1 = -\frac{1+\beta}{2(1-\beta)^3} Hg` for heavy ball and
    :math:`-\frac{1-\beta+2\beta^2}{2(1-\beta)^3} Hg` for Nesterov, whose
    two motions part at :math:`F_2`, by :math:`\frac{\beta(1+\beta)}
    {2(1-\beta)^3} T[g, g]`. The small parameter is about
    :math:`\eta/(1-\beta)^2`. Iterates that start at rest join the slow motion
    beside their start, see :func:`slow_start`.

    Source: derived here; the first two terms of heavy ball agree with Kovachki &
    Stuart 2021 and Ghosh et al. 2023.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    require_count("count", count, 0)
    require_fraction("momentum", momentum)
    if point not in _POINTS:
        raise ValueError(f"point must be one of {_POINTS}, got {point!r}")
    if count == 0:
        return []
    motion = _SlowMotion(gradient, float(momentum), point if nesterov else "")
    table = motion.table(w, count)
    return [table[0, 1, k] for k in range(count)]


class _SlowMotion:
    """The recursion; like that of motion_terms, one jvp per smaller table."""

    def __init__(self, gradient: Field, momentum: float, nesterov: str) -> None:
        self.gradient = gradient
        self.beta = momentum
        self.nesterov = nesterov  # "", "lookahead" or "iterate"

    def table(self, w: Tensor, level: int) -> _Table:
        g = evaluated("gradient", self.gradient, w)
        table: _Table = {(0, 1, 0): -g / (1 - self.beta)}
        if self.nesterov == "lookahead":
            table[1, 0, 0] = g
        for j in range(level - 1):
            inner = level - 1 - j
            along: _Table = jvp(
                lambda v, inner=inner: self.table(v, inner), (w,), (table[0, 1, j],)
            )[1]
            for (kind, m, r), part in along.items():
                key = (kind, m + 1, r + j)
                part = part.to(w.dtype)  # see counter_term._table
                table[key] = table[key] + part if key in table else part
            table[0, 1, j + 1] = self._next(table, w, j + 1)
        return table

    def _next(self, table: _Table, w: Tensor, k: int) -> Tensor:
        total = self._forcing(table, w, k)
        for m in range(2, k + 2):
            weight = (1 + (-1) ** m * self.beta) / math.factorial(m)
            total = torch.add(total, table[0, m, k + 1 - m], alpha=weight)
        return -total / (1 - self.beta)

    def _forcing(self, table: _Table, w: Tensor, k: int) -> Tensor:
        """G_k: what evaluating the gradient elsewhere adds at order k."""
        if self.nesterov == "lookahead":
            return self._series(table, 1, k, -self.beta)
        if self.nesterov == "iterate":
            ahead = [self._series(table, 0, i, -self.beta) for i in range(1, k + 1)]
            return _taylor(self.gradient, w, ahead) / math.factorial(k)
        return torch.zeros_like(w)

    def _series(self, table: _Table, kind: int, k: int, factor: float) -> Tensor:
        """factor·Σ_m (−1)^m/m! of the m-th derivatives at total order k."""
        total = torch.zeros_like(table[0, 1, 0])
        for m in range(1, k + 1):
            weight = factor * (-1) ** m / math.factorial(m)
            total = torch.add(total, table[kind, m, k - m], alpha=weight)
        return total


def _taylor(gradient: Field, w: Tensor, ahead: list[Tensor]) -> Tensor:
    """k-th derivative at s = 0 of g(w + Σ s^i ahead_i), k = len(ahead)."""

    def on_curve(s: Tensor) -> Tensor:
        curve = w
        power = s
        for direction in ahead:
            curve = curve + power * direction
            power = power * s
        return gradient(curve)

    along: Field = on_curve
    for _ in ahead:
        along = _differentiated(along)
    return along(torch.zeros((), dtype=w.dtype, device=w.device))


def _differentiated(curve: Field) -> Field:
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
    gradient : callable
        The gradient g = ∇f as a function of a tensor.
    w : Tensor
        The first iterate, real floating point, any shape.
    lr : float
        The step size η, positive, as in ``torch.optim.SGD``. For an average
        m ← βm + (1−β)g without bias correction pass η(1−β).
    momentum : float
        β in [0, 1).
    nesterov : bool
        The start of the look-ahead points. Default False.

    Returns
    -------
    Tensor
        The shifted point, of the shape and dtype of ``w``.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind.
    """
    require_callable("gradient", gradient, "a function of a Tensor")
    require_point("w", w)
    require_learning_rate(lr)
    require_fraction("momentum", momentum)
    behind = lr * momentum / (1 - momentum) ** 2
    shift = behind * (momentum if nesterov else 1)
    return w + shift * evaluated("gradient", gradient, w)
