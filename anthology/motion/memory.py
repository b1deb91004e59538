"""Equations of motion of steps with a memory: averages, heavy ball, Adam."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from anthology.motion._arguments import (
    FRACTION,
    Field,
    demand,
    evaluated,
    require_number,
)
from anthology.motion.counter_term import Table, add_derivatives, derivative, motion_of

Betas: TypeAlias = tuple[float, float]


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
        As for :func:`counter_terms`, as are shape, dtype and errors of the result.
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
    demand(gradient=gradient, w=w, count=count, momentum=momentum, point=point)
    beta, ahead = float(momentum), point if nesterov else ""

    def start(v: Tensor) -> Table:
        g = evaluated("gradient", gradient, v)
        table: Table = {("w", 1, 0): -g / (1 - beta)}
        return {**table, ("g", 0, 0): g} if ahead == "lookahead" else table

    def late(table: Table, k: int, kind: str) -> Tensor:
        total, orders = torch.zeros_like(table["w", 1, 0]), range(1, k + 1)
        return add_derivatives(total, table, orders, lambda m: -beta * (-1) ** m, kind)

    def following(table: Table, v: Tensor, k: int) -> Tensor:
        total = torch.zeros_like(v)
        if ahead == "lookahead":
            total = late(table, k, "g")
        elif ahead == "iterate":
            shifts = [late(table, i, "w") for i in range(1, k + 1)]
            total = _on_curve(gradient, v, shifts) / math.factorial(k)
        orders = range(2, k + 2)
        total = add_derivatives(total, table, orders, lambda m: 1 + (-1) ** m * beta)
        return -total / (1 - beta)

    return motion_of(start, following, w, count)


def _on_curve(gradient: Field, w: Tensor, shifts: list[Tensor]) -> Tensor:
    """k-th derivative at s = 0 of g(w + Σ s^i shifts_i), k = len(shifts)."""

    def on_curve(s: Tensor) -> Tensor:
        curve, power = w, s
        for direction in shifts:
            curve = curve + power * direction
            power = power * s
        return gradient(curve)

    def slope_of(curve: Field) -> Field:
        return lambda s: derivative(curve, s, torch.ones_like(s))

    along: Field = on_curve
    for _ in shifts:
        along = slope_of(along)
    return along(torch.zeros((), dtype=w.dtype, device=w.device))


def slow_start(
    gradient: Field, w: Tensor, lr: float, momentum: float, nesterov: bool = False
) -> Tensor:
    r"""Where the slow motion of a heavy ball that starts at rest begins.

    The first steps are too short, so the iterates from ``w`` soon follow the
    slow motion that starts behind it, at :math:`w + \eta\frac{\beta}{(1-\beta)^2}
    g(w)`, up to :math:`O(\eta^2)` (derived here). For Nesterov's look-ahead
    points β² replaces β in the numerator. Followed from ``w`` itself, the motion is
    :math:`O(\eta)` off however many terms it has.

    Arguments and errors are those of :func:`heavy_ball_terms`, and the step size η = ``lr``
    > 0 of ``torch.optim.SGD``; for an average m ← βm + (1−β)g without bias correction
    pass η(1−β).
    """
    demand(gradient=gradient, w=w, lr=lr, momentum=momentum)
    behind = lr * momentum / (1 - momentum) ** 2
    shift = behind * (momentum if nesterov else 1)
    return w + shift * evaluated("gradient", gradient, w)


def average_factor(momentum: float, nesterov: bool = False) -> float:
    r"""What averaging the gradient does to the second term of the motion.

    :math:`1 + 2a` with a the mean age, in steps, of the gradients in the average. m ← βm
    + (1−β)g, β = ``momentum`` in [0, 1), has a = β/(1−β), so the factor is
    :math:`\frac{1+\beta}{1-\beta}`; the form (1−β)g + βm (``nesterov``, Muon's) has
    :math:`1 + \frac{2\beta^2}{1-\beta}`. (The first is the factor of Ghosh et al. 2023
    for heavy ball; the second and the rule derived here.)
    """
    demand(momentum=momentum)
    age = momentum / (1 - momentum)
    return 1 + 2 * age * (momentum if nesterov else 1)


def averaged_terms(
    gradient: Field,
    direction: Field,
    w: Tensor,
    momentum: float = 0.0,
    nesterov: bool = False,
    *,
    decay: float = 0.0,
) -> list[Tensor]:
    r"""Two terms of the motion of m ← βm + (1−β)g, w ← w − η(d(m) + κw).

    .. math:: F_0 = -(d(g) + \kappa w), \qquad
        F_1 = -\tfrac12 \,(c\,D H + \kappa)\,(d(g) + \kappa w)

    with D the derivative of the direction d at g, H that of g, and c =
    :func:`average_factor`: momentum multiplies what the direction contributes
    and leaves the decay alone. (Derived here.)

    Parameters
    ----------
    gradient, w
        As for :func:`counter_terms`, as are shape, dtype and errors of the result.
    direction : callable
        d, from a gradient to one of its shape and dtype; smooth, made of torch
        operations: the identity, ``smooth_l1(eps).direction``, ….
    momentum, nesterov
        As for :func:`average_factor`. The average is long-running: its start is
        forgotten or, as with Adam's bias correction, divided out.
    decay : float
        Decoupled weight decay κ ≥ 0. Default 0.
    """
    demand(gradient=gradient, direction=direction, w=w, decay=decay)
    factor = average_factor(momentum, nesterov)
    g = evaluated("gradient", gradient, w)
    velocity = -(evaluated("direction", direction, g) + decay * w)
    turned = derivative(direction, g, derivative(gradient, w, velocity))
    return [velocity, (factor * turned + decay * velocity) / 2]


def adam_terms(
    gradient: Field,
    w: Tensor,
    betas: Betas = (0.9, 0.999),
    eps: float = 1e-8,
    eps_inside: bool = False,
) -> list[Tensor]:
    r"""Two terms of the motion of Adam: :math:`F_0 = -d` and
    :math:`F_1 = -\frac{\{\dots\}}{2s} H d`, all products entry by entry.

    d = g/s with s = √(g² + ε) (ε inside the root) or \|g\| + ε (outside, as
    ``torch.optim``), and {…} is :func:`adam_braces`.

    Parameters
    ----------
    gradient, w
        As for :func:`counter_terms`, as are shape, dtype and errors of the result.
    betas, eps : tuple of float, float
        β₁ and β₂, both in [0, 1), where β₁ = 0 is RMSProp; ε ≥ 0.
    eps_inside : bool
        Whether the step is m/√(v + ε) instead of m/(√v + ε). Default False.

    Notes
    -----
    In units of one step: F₀ is about ∓1 where \|g\| ≫ ε. NaN where g and ε are both zero.
    Averages that start at zero are in place once their bias is corrected, up to
    O(η²); g² must change little in 1/(1−β₂) steps, which at β₂ = 0.999 asks for
    very small η. Weight decay is not included. Derived here; with ε inside it is the
    bias term that Cattaneo, Klusowski & Shigida 2023 found.
    """
    demand(gradient=gradient, w=w)
    _factors(betas, eps)
    g = evaluated("gradient", gradient, w)
    scale = _scale(g, eps, eps_inside)
    velocity = -g / scale
    braces = adam_braces(g, betas, eps, eps_inside)
    return [velocity, braces / scale * derivative(gradient, w, velocity) / 2]


def adam_braces(
    g: Tensor, betas: Betas = (0.9, 0.999), eps: float = 1e-8, eps_inside: bool = False
) -> Tensor:
    r"""The factor {…} of Adam's second term, entry by entry, of a gradient of any shape.

    .. math:: \frac{1+\beta_1}{1-\beta_1} - \frac{1+\beta_2}{1-\beta_2}\,(1 - q),
        \qquad q = \frac{\varepsilon}{g^2 + \varepsilon} \ \text{(inside)}, \quad
        q = \frac{\varepsilon}{|g| + \varepsilon} \ \text{(outside)}.

    Positive: the smoothed ‖∇f‖₁ is penalised in this entry, negative: rewarded; NaN where
    g and ε are both zero. Settings and errors as for :func:`adam_terms`.

    >>> adam_braces(torch.tensor([0.0, 1.0])).round()       # tiny and usual entries
    tensor([   19., -1980.])
    """
    demand(g=g)
    first, second = _factors(betas, eps)
    # 1 − q as a quotient: subtracting would lose its digits where q is near 1
    share = g.abs() / _scale(g, eps, eps_inside)
    return first - second * (share * share if eps_inside else share)


def adam_sign_change(
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, eps_inside: bool = False
) -> float:
    r"""The size \|g\| of an entry at which :func:`adam_braces` changes sign.

    With :math:`\rho = \frac{1+\beta_1}{1-\beta_1} \cdot
    \frac{1-\beta_2}{1+\beta_2}` it is :math:`\varepsilon\rho/(1-\rho)` for ε
    outside the root and :math:`\sqrt{\varepsilon\rho/(1-\rho)}` for ε inside
    (derived here). Below it the braces are positive, above it negative; ``math.inf`` if
    β₁ ≥ β₂, where they are nowhere negative. Settings as for :func:`adam_terms`.
    """
    first, second = _factors(betas, eps)
    if first >= second:
        return math.inf
    share = eps * first / (second - first)
    return math.sqrt(share) if eps_inside else share


def _scale(g: Tensor, eps: float, eps_inside: bool) -> Tensor:
    if eps_inside:  # hypot does not overflow where g² would
        return torch.hypot(g, torch.full_like(g, math.sqrt(eps)))
    return g.abs() + eps


def _factors(betas: Any, eps: Any) -> tuple[float, float]:
    """(1+β)/(1−β) of both, checked."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be two floats, got {betas!r}")
    for beta in betas:
        require_number("each of betas", beta, *FRACTION)
    demand(eps=eps)
    return average_factor(betas[0]), average_factor(betas[1])
