"""Gradient descent with heavy-ball momentum, normalised on request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import Cost, Seen, Work, keeping

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.limits import at_least_zero, number
from .core.rule import Group, Rule
from .core.state import State, States, Tensors
from .parts.arithmetic import (
    alone,
    descend,
    momentum_entries,
    momentum_of,
    over,
    plus,
    scale,
    value,
)


def _directions(
    params: Tensors, grads: Tensors, states: States, group: Group
) -> Tensors:
    """What is to be multiplied by −η: g + κw, its average, or a look ahead."""
    momentum, dampening = group["momentum"], group["dampening"]
    if group["weight_decay"]:
        grads = plus(grads, params, group["weight_decay"])
    if not momentum:
        return grads
    m = [state["momentum_buffer"] for state in states]
    scale(m, value(momentum))
    if dampening:
        shares = [1 - value(dampening) * s["started"].to(m[0].dtype) for s in states]
        over("add_", m, over("mul", grads, shares))
        for state in states:
            state["started"].fill_(1.0)
    else:
        over("add_", m, grads)
    return plus(grads, m, momentum) if group["nesterov"] else m


def _new_state(param: Tensor, group: Group) -> State:
    """Zeros for ``momentum_buffer`` and, with dampening, ``started``."""
    state = momentum_of(param, group)
    if state and group["dampening"]:
        state["started"] = param.new_zeros(())
    return state


def _room(grad: Tensor, group: Group) -> float:
    """Room for the sum g + μg + μ²g + … that the momentum may become."""
    room = 0.5 * (1 - group["momentum"]) if group["momentum"] < 1 else 0.5
    return torch.finfo(grad.dtype).max * (room if group["momentum"] else 1.0)


def _kept(group: Group) -> tuple[str, ...]:
    """What momentum and dampening keep."""
    kept = momentum_entries(group)
    return (*kept, "started") if kept and group["dampening"] else kept


def _sgd(
    params: Tensors, grads: Tensors, states: States, steps: list[Any], group: Group
) -> None:
    """Average, decay within it, and move; not normalised."""
    descend(params, _directions(params, grads, states, group), group["lr"])


_SQUARE = r"$\tfrac12\lVert\nabla f\rVert_2^2$"


@Cost
def _sgd_cost(s: Seen) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    # the length of all must be known before anything moves: one more read of m or g
    again = bool(s.group.get("normalised"))
    return keeping((kept, 2 + again), grad_reads=1 + (again and not kept))


class SGD(BaseOptimizer):
    r"""Gradient descent, the steepest descent of the Euclidean norm.

    One step minimises :math:`\langle m, \Delta w\rangle + \frac{1}{2\eta}
    \|\Delta w\|_2^2`, or, with ``normalised=True``, :math:`\langle m, \Delta
    w\rangle` over :math:`\|\Delta w\|_2 \le \eta`, where w holds all tensors:

    .. math::

       m \leftarrow \mu m + (1-\delta)(g + \kappa w),\quad
       \Delta w = -\eta\, m
       \quad\text{or}\quad
       \Delta w = -\eta\,\frac{m}{\|m\|_2}

    Parameters
    ----------
    lr : float or Tensor
        η: weights per gradient, or, normalised, the Euclidean length of the whole step.
        Default 1e-3.
        Rate to try first: 0.3; ``metrize`` changes nothing.
    momentum : float
        μ, at least 0; heavy ball, not damped by 1 − μ. Default 0: m = g + κw.
    dampening : float
        δ; the first gradient enters m undamped. Default 0.
    weight_decay : float
        κ of an L2 term in the gradient, so coupled to it. Default 0.
    nesterov : bool
        Step along g + κw + μm instead of m. Default False.
    normalised : bool
        Give the step the length η. Default False. All tensors of all groups that
        ask for it are measured together, by one Euclidean norm, so that the
        direction in the space of all weights is kept; groups may differ in lr, and
        then each has the share of its own η. A zero m gives no step.
    params, decay, foreach, maximize, capturable, differentiable, fused
        See :class:`BaseOptimizer`; a kind of decay that is not "plain" is decoupled.

    Raises
    ------
    ValueError
        If nesterov goes without momentum or with dampening.

    Notes
    -----
    Not normalised it equals ``torch.optim.SGD`` step for step, and loads its
    checkpoints. Without dampening it is `SteepestDescent` under ``L2()`` with
    ``across="l2"`` and momentum μ: at rate η/(1−μ) with ``step="steepest"``, or, for
    the normalised form, at rate η with ``step="dualize"``. A gradient that could
    overflow the momentum skips its entry, or, normalised, its tensor.

    Source: Polyak 1964 (momentum); Cutkosky & Mehta 2020 (arXiv 2002.03305),
    Algorithm 1 (normalised); as steepest descent, Bernstein & Newhouse 2024, Prop. 1.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import SGD
    >>> w = torch.zeros(2, requires_grad=True)
    >>> w.grad = torch.tensor([300.0, -400.0])
    >>> SGD([w], lr=0.5, normalised=True).step()
    >>> w.detach()
    tensor([-0.3000,  0.4000])
    """

    card = Card(
        answer="measures a step by Euclid's ruler, so the steepest step is the "
        "gradient itself.",
        update=r"$\Delta w=-\eta\,m$, with $m\leftarrow\mu m+g$",
        problem=r"$\min_{\Delta w}\langle m,\Delta w\rangle + "
        r"\tfrac{1}{2\eta}\lVert\Delta w\rVert_2^2$, or over "
        r"$\lVert\Delta w\rVert_2\le\eta$",
        norm=r"$\ell_2$ of all weights",
        average="none or gradient (heavy ball)",
        state="0 (1 with momentum)",
        source="Polyak 1964; Cutkosky & Mehta 2020 (2002.03305), Alg. 1",
    )
    cost = _sgd_cost
    silent = (
        SilentPenalty(_SQUARE, "1", 1.0, ask="charge"),
        SilentPenalty(_SQUARE, r"1+2\tau", 19.0, {"momentum": 0.9}, "charge"),
        SilentPenalty(
            _SQUARE, r"1+2\tau", 17.2, {"momentum": 0.9, "nesterov": True}, "charge"
        ),
    )

    rule = Rule(
        alone(_sgd),
        _sgd,
        _new_state,
        _room,
        _kept,
        late=("step", "momentum_buffer", "started"),
        entrywise=True,
        numbers=("momentum", "dampening", "weight_decay"),
        triton="sgd",
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        decay: str = "plain",
        normalised: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | str | None = None,
    ) -> None:
        super().__init__(params, hyperparameters(locals()))

    def check(self, group: Group) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        at_least_zero("momentum value", group["momentum"])
        if not math.isfinite(number("dampening value", group["dampening"])):
            raise ValueError(
                f"Invalid dampening value: {group['dampening']}; it must be finite"
            )
        if group["nesterov"] and (not group["momentum"] or group["dampening"]):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        if group["normalised"] and group["fused"]:
            raise ValueError(
                "normalised=True measures all tensors before any moves, so it has no "
                "fused form; leave fused=None"
            )

    def state_made(
        self, p: Tensor, state: State, missing: set[str], group: Group
    ) -> None:
        """A momentum that is there has started."""
        if "started" in missing and "momentum_buffer" not in missing:
            state["started"].fill_(1.0)

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """As in the base; a momentum that is there has started."""
        if "started" in fresh and "momentum_buffer" in saved:
            return {**fresh, "started": torch.ones_like(fresh["started"])}
        return fresh

    def apply(self, batches: list[Batch]) -> None:
        """Tensors that are not normalised as in the base, the others together."""
        super().apply([batch for batch in batches if not batch.group["normalised"]])
        joint = [batch for batch in batches if batch.group["normalised"]]
        moves = []
        for batch in joint:
            batch.open(self, whole=True)  # which one norm measures
            lists = (batch.params, batch.grads, batch.states)
            if batch.foreach and batch.params:
                found = _directions(*lists, batch.group)
            else:
                found = [
                    _directions([p], [g], [state], batch.group)[0]
                    for p, g, state in zip(*lists, strict=True)
                ]
            if batch.finite is not None:  # what will be undone must not count
                flags = zip(batch.finite, found, strict=True)
                found = [torch.where(flag, x, 0.0) for flag, x in flags]
            moves.append(found)
        for batch, unit in zip(joint, self._unit(joint, moves), strict=True):
            if unit:
                descend(batch.params, unit, batch.group["lr"])
            batch.close(self)

    def _unit(
        self, batches: list[Batch], parts: list[list[Tensor]]
    ) -> list[list[Tensor]]:
        """All tensors over their common Euclidean norm, at any scale; 0 stays 0."""
        pairs = zip(batches, parts, strict=True)
        held = [(batch.counts, part) for batch, part in pairs if part]
        if not held:
            return parts
        home = held[0][1][0].device
        floor = max(torch.finfo(part[0].dtype).tiny for _, part in held)

        def gathered(lists: list[list[Tensor]], order: float) -> Tensor:
            norms = [torch.zeros((), device=home, dtype=lists[0][0].dtype)]
            for (counts, _), part in zip(held, lists, strict=True):
                some = [x for x in part if x.numel() and counts]
                norms += torch._foreach_norm(some, order) if some else []
            norms = [n.to(home, non_blocking=True) for n in norms]
            own: Tensor = torch.linalg.vector_norm(torch.stack(norms), order)
            return self.norm_over_all(own, order)

        def over(lists: list[list[Tensor]], size: Tensor) -> list[list[Tensor]]:
            if size.requires_grad:  # the list operation gives it no slope
                return [[x / size.to(x.device) for x in part] for part in lists]
            return [list(torch._foreach_div(x, size.to(x[0].device))) for x in lists]

        own = [part for _, part in held]
        scaled = over(own, gathered(own, math.inf).detach().clamp_min(floor))
        rest = iter(over(scaled, gathered(scaled, 2.0).clamp_min(0.5)))
        return [next(rest) if part else part for part in parts]
