"""Steepest descent under any norm: an average, a norm and a step rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from anthology.cost.flops import dualized
from anthology.cost.work import Cost, Seen, Work, keeping
from anthology.norms import L2, LInf, Norm, RMSToRMS, Spectral

from .core.base import BaseOptimizer, Params, hyperparameters
from .core.batch import Batch
from .core.card import Card, SilentPenalty
from .core.limits import below_one, check_nesterov, number, one_of, renamed
from .core.names import without_names
from .core.rule import Group, Rule, coupled
from .core.state import State
from .parts.arithmetic import (
    averaged,
    decay,
    descend,
    momentum_entries,
    momentum_of,
)
from .parts.param_norm import dualize, dualize_together, must_fit, norm_for, spec
from .parts.polyak import check_polyak, excess, shorten
from .parts.surfaces import (
    RADIUS,
    check_surface,
    dualize_along,
    must_have_place,
    no_radii,
    piece_of,
    put_back,
    radii_made,
)

Plan = tuple[list[Tensor], list[Tensor]]


def _room(grad: Tensor, group: Group) -> float:
    """Room for the dual norm, a sum over the entries, where it is needed."""
    room = grad.numel() if _needs_duals(group) else 1
    return torch.finfo(grad.dtype).max / room


def _state(param: Tensor, group: Group) -> State:
    """Momentum and radius, where there are such."""
    return momentum_of(param, group) | no_radii(param, piece_of, group)


def _entries(group: Group) -> tuple[str, ...]:
    """The names of both."""
    constrained = group.get("constrain") is not None
    return (*momentum_entries(group), *((RADIUS,) if constrained else ()))


def dualized_work(s: Seen) -> float:
    """Operations of one duality map of the group's norm."""
    norm = norm_for(torch.empty(s.shape, device="meta"), s.group["norm"])
    return dualized(norm, s.shape, s.symmetric)


@Cost
def _steepest_cost(s: Seen) -> Work:
    kept = bool(s.group["momentum"]) * s.numbers
    rule, most = s.group["step_rule"], s.group["across"] == "max"
    # where one number of all layers must be known first: one more read of m or g
    again = rule == "polyak" or (rule == "steepest") == most
    reads = 1 + (again and not kept)
    return keeping((kept, 2 + again), grad_reads=reads, flops=dualized_work(s))


class SteepestDescent(BaseOptimizer):
    r"""Step where a linear model of the loss falls fastest, in a norm of your choice.

    With m the gradient or its average, and all tensors measured together by N (the
    largest or the root of the sum of squares of :math:`s_l\|\Delta W_l\|_l`):

    .. math::

       \Delta w = -\eta\,\operatorname{dualize}_N(m)
       \quad\text{or}\quad
       \Delta w = -\eta\,\|m\|_{N*}\,\operatorname{dualize}_N(m)

    The first solves :math:`\min \langle m,\Delta w\rangle` over
    :math:`N(\Delta w)\le\eta`; the second
    :math:`\min \langle m,\Delta w\rangle + \frac{\lambda}{2}N(\Delta w)^2` with
    :math:`\eta = 1/\lambda`. Polyak's step is the first with its length cut to
    :math:`\min(\eta, (f-f_*)/\|g\|_{N*})`: no farther than where the linear model
    :math:`f+\langle g,\Delta w\rangle` meets :math:`f_*`, the value to be reached.

    Parameters
    ----------
    params : iterable
        Parameters of any shape, named parameters, or groups; a group may carry its
        own ``norm`` and ``scale`` (:math:`s_l`), as those of ``metrize(model)`` do.
    lr : float or Tensor
        η: the length of the step in the norm for ``step="dualize"``, the largest for
        ``step="polyak"``, 1/λ for ``step="steepest"``.
        Rate to try first: 0.03; with ``metrize`` 0.03.
    momentum : float
        β in [0, 1) of m ← βm + (1−β)g, m₀ = 0. Default 0: m = g.
    nesterov : bool
        Look ahead: dualize βm + (1−β)g instead of m. Default False.
    weight_decay : float
        κ of w ← (1−ηκ)w, before the step; η is the length taken for
        ``step="polyak"``. Default 0.
    norm : Norm or str, optional
        Norm of the tensors, or its ``repr``. None goes by shape: RMS for up to one
        axis, RMSToRMS for matrices, Conv for kernels.
    step : str
        "dualize" (default), "steepest", or "polyak", for which ``step`` takes a
        closure that returns the loss (or ``lambda: loss``) and whose momentum is 0.
        In ``param_groups``: ``step_rule``.
    across : str
        How tensors are measured together, one choice for all groups: "max" (default)
        or "l2".
    f_star : float
        f*, the least value of the loss (the largest with ``maximize``), or a bound of
        it. Only for ``step="polyak"``. Default 0.
    constrain : str, optional
        Where matrices stay: "sphere" (their root of the sum of squares), "stiefel" (all
        singular values equal) or "spectral-sphere" (the largest), each of the size it
        had at the start; the step is the steepest along it, see
        :class:`~anthology.norms.Constraint`. "hyperball": the sphere, reached by the
        free step made ηR long. Tensors measured by a vector norm are free; so, for
        the middle two, are those whose norm is not of singular values. A decay has no
        effect on the others. Default None.
    decay, foreach, maximize, capturable, differentiable
        See :class:`BaseOptimizer`.

    Raises
    ------
    TypeError
        If a norm is not a `Norm` (or its ``repr``) of single tensors.
    RuntimeError
        At a step without a loss, for ``step="polyak"``.

    Notes
    -----
    A vector norm sees a tensor flattened. A matrix norm sees its last two axes, and
    those before them as a stack measured by its largest member. Axes that a tensor
    lacks have size one: a bias is a linear map from the number 1. The dual norm is
    computed as ⟨m, dualize(m)⟩, which for an approximate polar factor is the descent
    it really gives.

    For a convex loss Polyak's step is no longer than the distance to any point whose
    loss is f*. A loss below f*, or NaN, moves nothing. Several processes take the mean
    of their losses, as of their gradients, and all must step.

    Source: Bernstein & Newhouse 2024, Prop. 1 (one tensor), Prop. 7 ("max"); Polyak
    1969 for ℓ₂, with a cap as in Schaipp et al. 2024; any norm derived here.

    Examples
    --------
    >>> import torch
    >>> from anthology.norms import LInf
    >>> from anthology.optim import SteepestDescent
    >>> w = torch.zeros(2, requires_grad=True)
    >>> w.grad = torch.tensor([3.0, -1.0])
    >>> SteepestDescent([w], lr=0.5, norm=LInf()).step()
    >>> w.detach()  # every entry moves by the radius 0.5
    tensor([-0.5000,  0.5000])
    >>> SteepestDescent([w], lr=0.5, norm=LInf(), step="steepest").step()
    >>> w.detach()  # 0.5 times the dual norm |3| + |-1| further
    tensor([-2.5000,  2.5000])
    >>> polyak = SteepestDescent([w], lr=9.0, norm=LInf(), step="polyak")
    >>> loss = polyak.step(lambda: 2.0)
    >>> w.detach()  # the loss over the dual norm further
    tensor([-3.,  3.])
    """

    rule = Rule(
        coupled, None, _state, _room, _entries, ("step", "momentum_buffer", RADIUS)
    )
    _gap: Tensor | None = None  # how far the loss is above f*, during a step

    card = Card(
        answer="takes the steepest step under any norm you name.",
        update=r"$\Delta w=-\eta\operatorname{dualize}(m)$, or times $\lVert m\rVert_*$",
        problem=r"$\min_{\Delta w}\langle g,\Delta w\rangle + "
        r"\tfrac{1}{2\eta}\lVert\Delta w\rVert^2$, or over "
        r"$\lVert\Delta w\rVert\le\eta$",
        norm="any; by default RMS, RMS→RMS, per kernel position, by shape",
        average="none or gradient",
        state="0 (1 with momentum)",
        source="Bernstein & Newhouse 2024, Prop. 1 and 7",
    )
    cost = _steepest_cost
    silent: ClassVar[tuple[SilentPenalty, ...]] = (
        SilentPenalty(
            r"$\lVert\nabla_lf\rVert_2$, layer by layer", "1", 1.0, {"norm": L2()}
        ),
        SilentPenalty(r"$\lVert\nabla f\rVert_1$", "1", 1.0, {"norm": LInf()}),
        SilentPenalty(
            r"$\sum_l\sum_i\sigma_i(\nabla_lf)$", "1", 1.0, {"norm": Spectral()}
        ),
        SilentPenalty(
            r"$\sum_l\sqrt{d_{out}/d_{in}}$ $\sum_i\sigma_i(\nabla_lf)$",
            r"1+2\tau",
            19.0,
            {"norm": RMSToRMS(), "momentum": 0.9},
        ),
    )

    def __init__(
        self,
        params: Params,
        lr: float | Tensor,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        norm: Norm | str | None = None,
        step: str = "dualize",
        across: str = "max",
        *,
        decay: str = "plain",
        f_star: float = 0.0,
        constrain: str | None = None,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = hyperparameters(locals())
        defaults |= {"norm": spec(norm), "scale": 1.0}
        defaults["step_rule"] = defaults.pop("step")
        super().__init__(params, defaults)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse what the method cannot use; see the class for the limits."""
        super().check(group)
        below_one("momentum value", group["momentum"])
        check_nesterov(group)
        if not 0.0 < number("scale", group["scale"]) < float("inf"):
            raise ValueError(
                f"Invalid scale: {group['scale']}; it must be positive and finite"
            )
        one_of("step", group["step_rule"], ("dualize", "steepest", "polyak"))
        one_of("across", group["across"], ("max", "l2"))
        first = (getattr(self, "param_groups", None) or [group])[0]
        for name in ("step_rule", "across"):
            if (own := group[name]) != first[name]:
                raise ValueError(
                    f"{name.removesuffix('_rule')}={own!r} in one group and "
                    f"{first[name]!r} in another; it is one choice for all groups"
                )
        if group["step_rule"] == "polyak":
            check_polyak(group, first)
        spec(group["norm"])
        check_surface(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in the base, with ``norm`` (kept as its ``repr``) and ``scale``.

        Raises
        ------
        ValueError, TypeError
            Also if a norm is none, or cannot measure a parameter of this shape.
        """
        if isinstance(param_group, dict):
            param_group = renamed(param_group)
            norm = spec(param_group.get("norm", self.defaults["norm"]))
            params = param_group["params"]
            if not isinstance(params, Tensor | set):
                params = list(params)  # a generator can be read only once
            param_group = {**param_group, "params": params, "norm": norm}
            must_fit(params, norm)
            group = {**self.defaults, **param_group}
            if group.get("constrain") is not None:
                check_surface(group)
                must_have_place(without_names(params), piece_of, group)
        super().add_param_group(param_group)

    def state_made(
        self, p: Tensor, state: State, missing: set[str], group: Group
    ) -> None:
        """As in the base; a new radius is that of the weight as it is."""
        radii_made(p, state, missing, piece_of, group)

    @property
    def arguments(self) -> dict[str, Any]:
        """The defaults under the names that the constructor has for them."""
        return {**self.defaults, "step": self.defaults["step_rule"]}

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim`, with norms as plain text."""
        for group in self.param_groups:
            group["norm"] = spec(group["norm"])
        return super().state_dict()

    def heard(self, loss: Any) -> None:
        """Keep how far the loss is from f*, which Polyak's step asks for."""
        group, self._gap = self.param_groups[0], None
        if group["step_rule"] == "polyak":
            tensors = [p for g in self.param_groups for p in g["params"]]
            home = tensors[0].device if tensors and self._shards is None else None
            self._gap = excess(loss, group, home)

    def apply(self, batches: list[Batch]) -> None:
        """Average, dualize and move; all tensors meet in between if they must."""
        coupled = _coupled(self.param_groups[0])
        parts = [batches] if coupled else [[batch] for batch in batches]
        for part in parts:
            plans = []
            for batch in part:
                batch.open(self)
                plans.append(self._plan(batch))
            duals = [duals for _, duals in plans]
            if self._gap is None:
                factors = self._factors(part, duals)
            else:
                factors = shorten(self, self._gap, part, duals)
            for batch, (moves, _), sizes in zip(part, plans, factors, strict=True):
                self._move(batch, moves, sizes)
                batch.close(self)
        self._gap = None

    @property
    def couples(self) -> bool:
        """Whether one length holds for all tensors."""
        return _coupled(self.param_groups[0])

    def together(self, group: Mapping[str, Any]) -> int:
        """As in the base; a loop that may keeps the step of one tensor at a time."""
        alone = group["foreach"] is False and not self.couples
        return 1 if alone else super().together(group)

    def _plan(self, batch: Batch) -> Plan:
        """Unit steps of the averaged gradients, and their dual norms over s_l."""
        points = averaged(batch.grads, batch.states, batch.group)
        if batch.group.get("constrain") is None:
            moves = self._dualize(batch, points)
        else:
            moves = dualize_along(points, batch.params, batch.states, batch.group)
        if not _needs_duals(batch.group):
            return moves, []
        return moves, self._duals(batch, points, moves)

    def _dualize(self, batch: Batch, points: list[Tensor]) -> list[Tensor]:
        """The steepest unit step of each tensor, as pairs where it is complex."""
        if batch.is_complex:
            points = [torch.view_as_complex(u.contiguous()) for u in points]
        norms = [norm_for(u, batch.group["norm"]) for u in points]
        if batch.foreach:
            moves = dualize_together(points, norms)
        else:
            moves = [dualize(u, norm) for u, norm in zip(points, norms, strict=True)]
        return [torch.view_as_real(t) for t in moves] if batch.is_complex else moves

    def _duals(
        self, batch: Batch, points: list[Tensor], moves: list[Tensor]
    ) -> list[Tensor]:
        """⟨u, dualize(u)⟩/s_l of each tensor, zero for those to be left alone."""
        scale = batch.group["scale"]
        duals = [(u * t).sum() / scale for u, t in zip(points, moves, strict=True)]
        if batch.finite is None:
            return duals
        flags = zip(batch.finite, duals, strict=True)
        return [torch.where(flag, d, 0.0) for flag, d in flags]

    def _factors(
        self, batches: list[Batch], duals: list[list[Tensor]]
    ) -> list[list[Tensor]]:
        """What multiplies the unit steps where their length depends on the gradient."""
        rule = self.param_groups[0]
        counted = zip(batches, duals, strict=True)
        everything = [d if b.counts else d * 0 for b, row in counted for d in row]
        if not everything or not _coupled(rule):
            return duals
        home = everything[0].device
        stack = torch.stack([d.to(home, non_blocking=True) for d in everything])
        if rule["step_rule"] == "steepest":
            total = self.over_all(stack.sum()).sum()
            return [[total.to(d.device) for d in row] for row in duals]
        top = self.over_all(stack.max()).max()
        top = top.clamp_min(torch.finfo(stack.dtype).tiny)
        length = self.norm_over_all(torch.linalg.vector_norm(stack / top), 2)
        length = length.clamp_min(0.5)
        return [[d / top.to(d.device) / length.to(d.device) for d in r] for r in duals]

    def _move(self, batch: Batch, moves: list[Tensor], sizes: list[Any]) -> None:
        lr = batch.group["lr"]
        if not batch.params:
            return
        decay(batch.params, lr, batch.group["weight_decay"])
        if batch.group["step_rule"] == "steepest" or batch.group["across"] == "l2":
            moves = list(torch._foreach_mul(moves, sizes))
        if batch.group.get("constrain") is None:
            descend(batch.params, moves, lr / batch.group["scale"])
        else:
            put_back(batch.params, batch.states, batch.group)
            descend(batch.params, moves, lr / batch.group["scale"])
            put_back(batch.params, batch.states, batch.group)


def _needs_duals(rule: Mapping[str, Any]) -> bool:
    """Whether the length of a step depends on the gradient."""
    return bool(rule["step_rule"] != "dualize" or rule["across"] == "l2")


def _coupled(rule: Mapping[str, Any]) -> bool:
    """Whether the step of a tensor depends on the other tensors."""
    kind, most = rule["step_rule"], rule["across"] == "max"
    return bool(kind == "polyak" or (kind == "steepest") == most)
