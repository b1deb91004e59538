"""The loss that a step really descends, and the functions φ that say so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from anthology.linalg.decompositions import robust_qr
from anthology.motion._arguments import Field, demand, require_kind, require_number
from anthology.motion.memory import average_factor
from anthology.norms import Norm

# The least √ε, in units of the largest entry, that the precision allows
_FLOORS = {torch.float32: 1e-4, torch.float64: 1e-10}

# Newton's iteration: 17 steps from _FLOORS to singular values near 1, then 6 more
_NEWTON_STEPS = 24


@dataclass(frozen=True)
class Penalty:
    """A smooth convex φ of the gradient, with its own gradient map.

    ``name`` says what it is, for tables; ``value`` is φ, from a gradient (any shape it
    accepts) to a tensor without axes, and what calling the penalty calls; ``direction`` is
    ∇φ, from a gradient to a direction of its shape and dtype.

    >>> phi, g = smooth_l1(eps=1e-12), torch.tensor([3.0, -4.0])
    >>> phi(g), phi.direction(g)
    (tensor(7.), tensor([ 1., -1.]))
    """

    name: str
    value: Field
    direction: Field

    def __call__(self, g: Tensor) -> Tensor:
        """φ(g), without axes."""
        demand(g=g)
        return self.value(g)

    def __repr__(self) -> str:
        return self.name


def half_square(norm: Norm | None = None) -> Penalty:
    r"""φ = ½‖g‖_*², whose step is :math:`-\eta\|g\|_*\operatorname{dualize}(g)`.

    ``norm`` is that of the step; None (default) is Euclidean, φ = ½‖g‖² of all entries,
    whose step is gradient descent; anything else raises TypeError.
    """
    if norm is None:
        return Penalty("half_square()", lambda g: g.square().sum() / 2, lambda g: g)
    require_kind("norm", norm, "an anthology Norm", Norm)
    dual = _dual_norm(norm)

    def direction(g: Tensor) -> Tensor:
        return dual(g) * norm.dualize(_as_whole(norm, g)).reshape(g.shape)

    return Penalty(f"half_square({norm!r})", lambda g: dual(g).square() / 2, direction)


def _dual_norm(norm: Norm) -> Field:
    """‖·‖_* of a whole tensor, summed over a stack."""
    return lambda g: norm.dual(_as_whole(norm, g)).sum()


def _as_whole(norm: Norm, g: Tensor) -> Tensor:
    """Flat for vector norms."""
    return g.reshape(-1) if norm.ndim == 1 else g


def smooth_l1(eps: float) -> Penalty:
    r"""φ = :math:`\sum_i \sqrt{g_i^2 + \varepsilon}`, direction g/√(g² + ε).

    The smoothed sign: a step of size at most one in each entry, for gradients of any
    shape. ε must be positive and finite, in units of g²; else TypeError or ValueError.
    """
    root = _root_of(eps)

    def lengths(g: Tensor) -> Tensor:
        return torch.hypot(g, torch.full_like(g, root))

    name = f"smooth_l1({eps!r})"
    return Penalty(name, lambda g: lengths(g).sum(), lambda g: g / lengths(g))


def smooth_l2(eps: float) -> Penalty:
    r"""φ = :math:`\sqrt{\|g\|^2 + \varepsilon}`, direction g/φ: smoothed
    normalised gradient descent. Otherwise as :func:`smooth_l1`.
    """
    root = _root_of(eps)

    def length(g: Tensor) -> Tensor:
        largest = g.detach().abs().amax() if g.numel() else g.detach().sum()
        unit = largest.clamp(min=root)
        return unit * ((g / unit).square().sum() + (root / unit).square()).sqrt()

    return Penalty(f"smooth_l2({eps!r})", length, lambda g: g / length(g))


def smooth_nuclear(eps: float) -> Penalty:
    r"""φ = :math:`\sum_i \sqrt{\sigma_i^2 + \varepsilon}` over the singular values,
    direction :math:`G(G^\top G + \varepsilon I)^{-1/2}`: the smoothed polar factor.

    It can be differentiated any number of times, also where singular values coincide. ε
    as for :func:`smooth_l1`, in units of G²; where √ε is below 1e-10 (float64) or 1e-4
    (float32) of the largest entry of a matrix, this much is used instead. For gradients
    with at least two axes, else ValueError; leading axes are a stack, over which φ sums.
    """
    root = _root_of(eps)

    def value(g: Tensor) -> Tensor:
        # ⟨polar factor of R, R⟩ is the sum of R's singular values
        G, scale, floor = _tall(g, root)
        _, R = _with_floor(G, floor)
        total: Tensor = (_newton_polar(R, floor) * R * scale).sum()
        return total.to(g.dtype)

    def direction(g: Tensor) -> Tensor:
        # the upper block of the polar factor of the stack, which is Q times that of R
        G, _, floor = _tall(g, root)
        Q, R = _with_floor(G, floor)
        result: Tensor = Q[..., : G.shape[-2], :] @ _newton_polar(R, floor)
        return (result if G.shape == g.shape else result.mT).to(g.dtype)

    return Penalty(f"smooth_nuclear({eps!r})", value, direction)


def _tall(g: Tensor, root: float) -> tuple[Tensor, Tensor, Tensor]:
    """Tall matrices of size at most about one, their scale, and √ε in its units."""
    if g.ndim < 2:
        what = "smooth_nuclear measures matrices (at least 2 axes)"
        raise ValueError(f"{what}, got shape {tuple(g.shape)}")
    G = g.to(torch.promote_types(g.dtype, torch.float32))
    if G.shape[-2] < G.shape[-1]:
        G = G.mT
    size = G.detach().abs()
    peak = size.amax((-2, -1), keepdim=True) if G.numel() else size.sum((-2, -1), True)
    scale = peak.clamp(min=root)
    floor = (root / scale).clamp(min=_FLOORS[G.dtype])
    return G / scale, scale, floor


def _with_floor(G: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Q and R of [G; floor·I], whose singular values are √(σ² + floor²)."""
    identity = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    return robust_qr(torch.cat([G, floor * identity], dim=-2))


def _newton_polar(R: Tensor, floor: Tensor) -> Tensor:
    """Polar factor of an invertible R: X ← ½(X + X⁻ᵀ), from R scaled."""
    X: Tensor = R / floor.sqrt()
    for _ in range(_NEWTON_STEPS):
        X = (X + torch.linalg.inv_ex(X).inverse.mT) / 2
    return X


def _root_of(eps: Any) -> float:
    require_number("eps", eps, lambda x: 0 < x < math.inf, "positive and finite")
    return math.sqrt(eps)


def modified_loss(
    f: Field,
    penalty: Norm | Field,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    decay: float = 0.0,
) -> Field:
    r"""The loss :math:`\tilde f = f + \tfrac{\eta}{2} c\,\varphi(\nabla f)`.

    A smooth convex φ makes a step :math:`w' = w - \eta\,\nabla\varphi(\nabla f(w))`. Up
    to :math:`O(\eta^2)` its iterates follow the flow of the *same* map on this loss,
    :math:`\dot w = -\nabla\varphi(\nabla\tilde f)`, with c = 1 for a plain step and
    :func:`average_factor` under momentum: the step silently penalises φ(∇f). For φ =
    ½‖·‖² this is gradient descent and the penalty of Barrett & Dherin 2021; for a dual
    norm it is steepest descent, whatever the norm (derived here). Where that has kinks
    (ℓ1, nuclear) the smoothed φ have none, and return to it as ε → 0.

    Parameters
    ----------
    f : callable
        The loss, from a tensor to one with one element, made of torch operations.
    penalty : Norm or callable
        φ, a function of the gradient such as :func:`smooth_l1`, or the norm of the step,
        for φ = ‖·‖_*: a vector norm of all entries, a matrix norm summed over leading
        axes. ``half_square()`` is gradient descent.
    lr : float
        The step size η, positive. For heavy ball, whose velocity is a sum of
        gradients and not their average, pass η/(1−β).
    momentum, nesterov
        As for :func:`average_factor`, of an average before the map.
    decay : float
        Decoupled weight decay κ ≥ 0. Default 0. See the notes.

    Returns
    -------
    callable
        :math:`\tilde f`, from a tensor to one without axes, with one derivative less.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or range; from the result where ``f`` or
        ``penalty`` does not return one number.

    Notes
    -----
    With decay, w' = (1 − ηκ)w − η∇φ(m), the loss is

    .. math:: \tilde f = f + \tfrac{\eta}{2} c\,
        [\varphi(\nabla f) + \kappa\,(\langle\nabla f, w\rangle - f)]

    and the clock runs faster: :math:`\dot w = -(1 + \tfrac{\eta\kappa}{2})
    (\nabla\varphi(\nabla\tilde f) + \kappa w)` (derived here). Where φ has a kink on the
    way (an entry of g changes sign under sign descent) the expansion does not hold.

    >>> from anthology.norms import LInf
    >>> loss = modified_loss(lambda w: w.square().sum() / 2, LInf(), lr=0.1)
    >>> loss(torch.tensor([3.0, -4.0]))     # 12.5 + 0.05 · 7
    tensor(12.8500)
    """
    demand(f=f)
    if isinstance(penalty, type) and issubclass(penalty, Norm):
        raise TypeError(
            f"penalty must be a Norm, not its class: write {penalty.__name__}(...)"
        )
    phi: Any = _dual_norm(penalty) if isinstance(penalty, Norm) else penalty
    demand(penalty=phi, lr=lr, decay=decay)
    weight = lr / 2 * average_factor(momentum, nesterov)

    def loss(w: Tensor) -> Tensor:
        g, value = _slope_and_value(f, w)
        extra = _one_number("penalty", phi(g))
        if decay:
            extra = extra + decay * ((g * w).sum() - value)
        return torch.add(value, extra, alpha=weight)

    return loss


def reshuffled_loss(losses: Sequence[Field], lr: float) -> Field:
    r"""The loss that gradient descent over reshuffled batches descends.

    For m batches with ``losses`` :math:`f_i`, visited once per epoch in random
    order, the mean iterate follows, to :math:`O(\eta^2)`, the gradient flow of

    .. math:: \tilde f = f + \frac{\eta}{4m} \sum_i \|\nabla f_i\|^2
        = f + \frac{\eta}{4}\|\nabla f\|^2
        + \frac{\eta}{4m}\sum_i \|\nabla f_i - \nabla f\|^2,
        \qquad f = \frac1m \sum_i f_i

    for a time mη per epoch (Smith, Dherin, Barrett & De 2021), with η = ``lr`` > 0 that of
    one batch. Losses and result are functions from a tensor to a tensor with one element;
    errors as of :func:`modified_loss`.
    """
    require_kind("losses", losses, "a sequence of functions", Sequence)
    batches = list(losses)
    if not batches:
        raise ValueError("losses must have at least one loss, got none")
    for batch in batches:
        require_kind("each of losses", batch, "a function of a Tensor")
    demand(lr=lr)

    def loss(w: Tensor) -> Tensor:
        terms = []
        for batch in batches:
            g, value = _slope_and_value(batch, w)
            terms.append(torch.add(value, g.square().sum(), alpha=lr / 4))
        return torch.stack(terms).mean()

    return loss


def _slope_and_value(f: Field, w: Tensor) -> tuple[Tensor, Tensor]:
    demand(w=w)
    g, value = grad_and_value(lambda v: _one_number("f", f(v)))(w)
    return g, value


def _one_number(name: str, value: Any) -> Tensor:
    """A value with one element, without axes; refused if it is anything else."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must return a tensor with one element, got {got}")
    return value.reshape(())
