"""Steepest descent under any norm that learns how far it may go."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.cost.work import Cost, Seen, Work, keeping
from anthology.norms import Norm

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.rule import Group, Rule, coupled
from .core.state import State
from .parts.arithmetic import momentum_entries, momentum_of
from .parts.param_norm import spec
from .parts.prodigy.distance import (
    _DistanceEstimate,
    estimate_entries,
    estimate_state,
    memory,
)
from .parts.prodigy.totals import counted, factor, top_rate
from .steepest import SteepestDescent, dualized_work


def _state(param: Tensor, group: Group) -> State:
    """That of steepest descent and that of the estimate."""
    return {**momentum_of(param, group), **estimate_state(param, group)}


def _entries(group: Group) -> tuple[str, ...]:
    """Those of both."""
    return (*momentum_entries(group), *estimate_entries(group))


LATE = ("step", "momentum_buffer", "d_max")


def _room(grad: Tensor, group: Group) -> float:
    """Room for the dual norm and, with memory, for the weights of s."""
    room = 2.0**40 if memory(group) else 1.0
    return torch.finfo(grad.dtype).max / (room * grad.numel())


@Cost
def _free_cost(s: Seen) -> Work:
    n, momentum, memory = s.numbers, bool(s.group["momentum"]), bool(s.group["beta3"])
    work = (1 + (momentum or memory)) * dualized_work(s)
    moves = {"grad_reads": 2, "param_moves": 3}
    return keeping((n, 1), ((momentum + memory) * n, 2), flops=work, **moves)


class FreeSteepestDescent(_DistanceEstimate, SteepestDescent):
    r"""Steepest descent in a norm of your choice, without a learning rate to choose.

    The length of a step is an estimate d of the distance to the minimum, in the same
    norm N; all tensors are measured together as in `SteepestDescent`. Without
    averages:

    .. math::

       w \leftarrow w - \gamma d\,\operatorname{dualize}_N(g),\qquad
       d \leftarrow \max\Bigl(d,
       \frac{\langle g, w_0 - w\rangle}{\|g\|_{N*}}\Bigr)

    where γ is the learning rate and the fraction takes w before the step. Under
    :math:`\ell_\infty` and for γ = 1 this is `Prodigy` without averages.

    For a convex loss :math:`\langle g, w - w_*\rangle \ge 0`, so by Hölder's
    inequality :math:`\langle g, w_0 - w\rangle \le \langle g, w_0 - w_*\rangle \le
    \|g\|_{N*} N(w_0 - w_*)`: d never exceeds the distance :math:`N(w_0 - w_*)`.

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups; a group may carry its
        own ``norm`` and ``scale``, as those of ``metrize(model)`` do.
    lr : float or Tensor
        γ, a factor without units; what a schedule multiplies. Default 0.5, half of
        the distance in each step; steps of all of it (1) come no nearer than that. At
        a constant rate 1 ends at a third of the loss on digits, but it does not come
        to rest on a quadratic, so it is for a schedule that lowers it.
        Rate to try first: 1; with ``metrize`` 1.
    momentum : float
        β in [0, 1) of m ← βm + (1−β)g, m₀ = 0; the step dualizes m. Default 0.
    nesterov : bool
        Look ahead: dualize βm + (1−β)g instead of m. Default False.
    weight_decay : float
        κ of w ← (1−γdκ)w, before the step. Default 0.
    norm : Norm or str, optional
        Norm of the tensors, or its ``repr``; None goes by shape.
    across : str
        How tensors are measured together: "max" (default) or "l2".
    beta3 : float
        β₃ in [0, 1), the memory of r = Σ c⟨g, w₀ − w⟩ and s = Σ c·g, whose r/‖s‖_*
        takes the place of the fraction (weights c = γd²); for noisy gradients, at
        the price of a second duality map a step. Default 0: this gradient only.
    d0 : float
        d at the start, in the units of the norm. Default 1e-6.
    d_coef : float
        Multiplies the fraction. Default 1.
    growth_rate : float
        Largest factor by which d grows in one step, from its second growth on.
        Default infinity.
    decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`.

    Raises
    ------
    ValueError
        If a hyper-parameter is out of range, here or in a group, or if groups
        disagree on ``d0``, ``d_coef`` or ``growth_rate``.
    TypeError
        If a norm is not a `Norm` (or its ``repr``) of single tensors.

    Notes
    -----
    ``optimizer.d`` is the estimate; only reading it waits for the device. The bound
    holds whatever the steps are: with momentum, decay and any rate, and with memory
    too. It speaks of exact duality maps; an approximate polar factor X has
    ⟨g, X⟩ in place of ‖g‖_*. Rounding loses the small first steps of bfloat16
    parameters; such models need a larger ``d0``.

    d never shrinks: to come nearer to a minimum than γd, let a schedule lower γ.

    Source: Bernstein & Newhouse 2024, eqs. 28-29, for sign descent; any norm, and
    the bound, derived here.

    Examples
    --------
    >>> import torch
    >>> end = torch.tensor([[3.0, 0.0], [0.0, -1.0]])
    >>> w = torch.zeros(2, 2, requires_grad=True)
    >>> optimizer = FreeSteepestDescent([w], norm="Spectral()")
    >>> for k in range(100):
    ...     optimizer.param_groups[0]["lr"] = 0.5 * (1 - k / 100)
    ...     optimizer.zero_grad()
    ...     (w - end).square().sum().backward()
    ...     optimizer.step()
    >>> 0.5 < optimizer.d <= 3.0
    True
    >>> bool((w.detach() - end).abs().max() < 0.1)
    True
    """

    rule = Rule(coupled, None, _state, _room, _entries, LATE)

    card = Card(
        answer="takes the steepest step under any norm and finds its own length, an "
        "estimate of how far the minimum is.",
        update=r"$\Delta w=-\eta\,d\operatorname{dualize}(g)$, with $d$ learned",
        problem=r"$\min_{\Delta w}\langle g,\Delta w\rangle$ over "
        r"$\lVert\Delta w\rVert\le d$, with $d$ below $\lVert w_0 - w_*\rVert$",
        norm="any; by default RMS, RMS→RMS, per kernel position, by shape",
        average="none, or gradient, and the sums that give $d$",
        state="1 (2 with momentum, 1 more with beta3)",
        source="Bernstein & Newhouse 2024, eqs. 28-29; any norm: derived here",
    )
    cost = _free_cost
    silent = (
        SilentPenalty(
            r"$\lVert\nabla f\rVert_*$, with $\eta d$ for $\eta$ once $d$ stands still",
            "1",
            1.0,
            {"d0": 1.0},
        ),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.5,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        norm: Norm | str | None = None,
        across: str = "max",
        beta3: float = 0.0,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = math.inf,
        *,
        decay: str = "plain",
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {**hyperparameters(locals()), "norm": spec(norm), "scale": 1.0}
        # What the estimate and SteepestDescent read and this class does not vary
        defaults |= {"step_rule": "dualize", "slice_p": 1, "per_group": False}
        BaseOptimizer.__init__(self, params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        fixed = {"step_rule": "dualize", "slice_p": 1, "per_group": False}
        for name, value in fixed.items():
            if group[name] != value:
                name = name.removesuffix("_rule")  # as users write it
                raise ValueError(f"{name} is always {value!r} here; leave it out")
        super().check(group)

    def apply(self, batches: list[Batch]) -> None:
        """Average and dualize all tensors, let d grow, and move."""
        for scope, ready in self.opened(batches):
            d, top = self.current(scope), top_rate(scope)
            parts, products, lengths, plans = [], [], [], []
            for batch in ready:
                parts.append(batch)
                plans.append(self._plan(batch))
                moves, _ = plans[-1]
                r, s = self._remembered(batch, factor(d, batch), factor(top, batch))
                if batch.group["momentum"] or memory(batch.group):
                    moves = self._dualize(batch, s)
                products.append(counted(batch, r))
                lengths.append(counted(batch, self._duals(batch, s, moves)))
            if not parts:
                continue
            self.tell_rates(scope, d)
            order = 2 if parts[0].group["across"] == "l2" else 1
            self.grow(parts, d, *self.jointly(products, lengths, order))
            factors = self._factors(parts, [duals for _, duals in plans])
            for batch, (moves, _), sizes in zip(parts, plans, factors, strict=True):
                length = batch.group["lr"] * factor(d, batch)
                batch.group = {**batch.group, "lr": length}
                self._move(batch, moves, sizes)
        for batch in batches:
            batch.close(self)

    def _remembered(
        self, batch: Batch, d: Any, top: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """r and s of each tensor; without memory, of this gradient alone."""
        # over d0, which keeps r and s far from underflow while d is small
        weight = (batch.group["lr"] > 0) * top * d * (d / batch.group["d0"])
        return self.remember(batch, weight, weight)
