"""How far away the minimum is at least, learned from the gradients.

For a convex loss ⟨g, w − w*⟩ ≥ 0 at every point. With r = Σ c⟨g, w₀ − w⟩ and
s = Σ c·g, the same weights c ≥ 0 in both sums, this and Hölder's inequality give
r ≤ ⟨s, w₀ − w*⟩ ≤ ‖s‖_*·‖w₀ − w*‖. So the largest r/‖s‖_* met so far never exceeds
the distance to a minimum, in the norm whose dual stands below, however the steps
were taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core import batch as batching
from anthology.optim.core.base import BaseOptimizer
from anthology.optim.core.batch import Batch
from anthology.optim.core.limits import below_one, number
from anthology.optim.core.state import State, fresh_state, real
from anthology.optim.parts import passes
from anthology.optim.parts.passes import Rate


class _DistanceEstimate(BaseOptimizer):
    """Keeps w₀, r and s of each tensor, and d, the estimate so far.

    A subclass has ``beta3``, ``d0``, ``d_coef``, ``growth_rate``, ``slice_p`` and
    ``per_group`` among its hyper-parameters.
    """

    partial = ("numerator",)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse an estimate that could not start or grow."""
        super().check(group)
        for name in ("d0", "d_coef"):
            if not 0.0 < number(name, group[name]) < math.inf:
                text = f"Invalid {name}: {group[name]}; it must be positive and finite"
                raise ValueError(text)
        if not 1.0 <= number("growth_rate", group["growth_rate"]):
            text = f"Invalid growth_rate: {group['growth_rate']}; it must be at least 1"
            raise ValueError(text)
        if group["beta3"] is not None:
            below_one("beta3 value", group["beta3"])
        every = group["slice_p"]
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"Invalid slice_p: {every}; it must be 1, 2, 3, ...")
        first = (getattr(self, "param_groups", None) or [group])[0]
        if group["per_group"] != first["per_group"]:
            raise ValueError("per_group is one choice for all groups")
        for name in () if group["per_group"] else ("d0", "d_coef", "growth_rate"):
            if group[name] != first[name]:
                raise ValueError(
                    f"{name}={group[name]} in one group and {first[name]} in another; "
                    "with one d for all groups it is one choice (or per_group=True)"
                )

    def remembers(self, group: Mapping[str, Any]) -> float:
        """β₃, the memory of r and s; at 0 they need no state."""
        return float(group["beta3"] or 0.0)

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """``p0`` (w₀), d and, with memory, ``s`` and r (``numerator``)."""
        part = torch.zeros_like(thinned(param, group["slice_p"]))
        d = torch.full((), group["d0"], dtype=param.dtype, device=param.device)
        state = {"p0": part, "d": d}
        if self.remembers(group):
            state |= {"s": part.clone(), "numerator": torch.zeros_like(d)}
        if group["growth_rate"] < math.inf:
            state["d_max"] = d.clone()
        return {**super().new_state(param, group), **state}

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """As in the base; w₀ is where the parameter stands when it is made."""
        new = not self.state.get(p)
        state = super().state_of(p, group)
        if new:
            with torch.no_grad():
                real(state["p0"]).copy_(thinned(real(p), group["slice_p"]))
        elif self.remembers(group) and "s" not in state:
            state.update({**fresh_state(p, group, self.new_state), **state})
        return state

    @property
    def d(self) -> float:
        """The estimate of the distance; reading it waits for the device.

        Returns
        -------
        float
            d, or the largest of the groups' with ``per_group=True``.
        """
        return max(self.d_of_groups)

    @property
    def d_of_groups(self) -> list[float]:
        """The estimate that each group steps with; reading it waits for the device.

        Returns
        -------
        list of float
            One a group; all equal unless ``per_group=True``.
        """
        found = []
        for group in self.param_groups:
            values = [self.state[p]["d"] for p in group["params"] if self.state.get(p)]
            found.append(max(map(float, values), default=group["d0"]))
        if self.param_groups[0]["per_group"]:
            return found
        return [max(found)] * len(found)

    def scopes(self, batches: list[Batch]) -> list[list[Batch]]:
        """The open batches that share one d, or their tensors one by one."""
        alike: dict[int, list[Batch]] = {}
        for batch in batches:
            key = id(batch.group["params"]) if batch.group["per_group"] else 0
            parts = [batch] if batch.foreach else one_by_one(batch)
            if batch.params:
                alike.setdefault(key, []).extend(parts)
        return list(alike.values())

    def current(self, scope: list[Batch], name: str = "d") -> Tensor:
        """The largest d (or ``d_max``) in the state of a scope, a 0-d tensor."""
        rule, home = scope[0].group, scope[0].params[0].device
        groups = [rule] if rule["per_group"] else self.param_groups
        kept = [self.state[p] for g in groups for p in g["params"] if self.state.get(p)]
        values = [state.get(name, state["d"]) for state in kept]
        return gathered([values], home).max()

    @property
    def couples(self) -> bool:
        """Always: d is one number."""
        return True

    def quiet_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """d, which every process knows."""
        names = ["d", *["d_max"] * (group["growth_rate"] < math.inf)]
        return {name: param.new_tensor(group["d0"]) for name in names}

    def jointly(
        self, products: list[list[Tensor]], lengths: list[list[Tensor]], order: int = 1
    ) -> tuple[Tensor, Tensor]:
        """r and ‖s‖_* of all tensors of a scope, wherever they lie.

        Parameters
        ----------
        products, lengths : list of list of Tensor
            0-d, of each tensor, by batch.
        order : int
            1 adds the lengths, 2 takes the root of the sum of their squares.

        Returns
        -------
        tuple of Tensor
            0-d.
        """
        own = gathered(lengths)
        length = own.sum() if order == 1 else torch.linalg.vector_norm(own)
        every = self.over_all(torch.stack([gathered(products).sum(), length]))
        if len(every) == 1:
            return every[0, 0], every[0, 1]
        return every[:, 0].sum(), torch.linalg.vector_norm(every[:, 1], order)

    def grow(self, scope: list[Batch], d: Tensor, top: Tensor, below: Tensor) -> Tensor:
        """d after a step: never smaller, and never from a sum that is not finite.

        Parameters
        ----------
        scope : list of Batch
            Whose state receives it.
        d, top, below : Tensor
            d so far, r and ‖s‖_*; 0-d.

        Returns
        -------
        Tensor
            0-d.
        """
        rule = scope[0].group
        ratio = rule["d_coef"] * top / torch.where(below > 0, below, 1.0)
        seen = (below > 0) & ratio.isfinite()
        estimate = torch.where(seen, ratio, 0.0).to(d.dtype)
        largest = torch.maximum(self.current(scope, "d_max"), estimate)
        new = largest
        if rule["growth_rate"] < math.inf:
            start = torch.where(d <= rule["d0"], torch.maximum(d, estimate), d)
            new = torch.minimum(largest, start * rule["growth_rate"])
        for name, value in (("d", new), ("d_max", largest)):
            for batch in scope:
                same = value.to(batch.params[0].device, batch.params[0].dtype)
                kept = [state[name] for state in batch.states if name in state]
                if batch.group["differentiable"]:  # lists are not differentiable here
                    for x in kept:
                        x.copy_(same)
                elif kept:
                    torch._foreach_copy_(kept, [same] * len(kept))
            for state in self.quiet_states(rule):
                state[name].copy_(value) if name in state else None
        return new

    def remember(
        self, batch: Batch, of_products: Rate, of_grads: Rate
    ) -> tuple[list[Tensor], list[Tensor]]:
        """r and s of each tensor with this gradient in them.

        Parameters
        ----------
        batch : Batch
            Open; its state is written.
        of_products, of_grads : float, Tensor or list
            The weights c of ⟨g, w₀ − w⟩ in r and of g in s.

        Returns
        -------
        tuple of list of Tensor
            r (0-d) and s, one a tensor.
        """
        beta, every = self.remembers(batch.group), batch.group["slice_p"]
        grads = [thinned(g, every) for g in batch.grads]
        params = [thinned(p, every) for p in batch.params]
        if batch.group["differentiable"]:  # list operations save what is overwritten
            params = [p.clone() for p in params]
        start = [state["p0"] for state in batch.states]
        if passes.on_cpu(batch):
            products = passes.inner_of_differences(start, params, grads)
        else:
            gone = torch._foreach_sub(start, params)
            products = [x.sum() for x in torch._foreach_mul(gone, grads)]
        if not beta:
            return products, grads
        r = [state["numerator"] for state in batch.states]
        s = [state["s"] for state in batch.states]
        passes.scale(s, beta)
        passes.add_scaled(s, grads, of_grads)
        passes.scale(r, beta)
        passes.add_scaled(r, products, of_products)
        return r, s


def one_by_one(batch: Batch) -> list[Batch]:
    """An open batch as batches of one tensor, not to be closed themselves."""
    parts = []
    for index in range(len(batch.params)):
        part = copy(batch)
        for name in ("tensors", "params", "grads", "states", "steps", "finite"):
            values = getattr(batch, name)
            setattr(part, name, values and [values[index]])
        parts.append(part)
    return parts


def thinned(x: Tensor, every: int) -> Tensor:
    """Every p-th number of a tensor, flattened; all of it, as it is, for p = 1."""
    return x if every == 1 else x.reshape(-1)[::every]


def top_rate(scope: list[Batch]) -> Any:
    """The largest learning rate of a scope, as a float where all are."""
    rates = [batch.group["lr"] for batch in scope]
    if not any(isinstance(rate, Tensor) for rate in rates):
        return max(rates)
    home = scope[0].params[0].device
    return torch.stack([torch.as_tensor(rate, device=home) for rate in rates]).max()


def factor(value: Any, batch: Batch) -> Any:
    """A 0-d tensor as a float where reading it is free, else where the batch is."""
    if not isinstance(value, Tensor):
        return value
    x = batch.params[0]
    if batch.group["differentiable"] or not batching.reads_flags_for_free(x.device):
        return value.to(x.device, x.dtype, non_blocking=True)
    return float(value)


def counted(batch: Batch, values: list[Tensor]) -> list[Tensor]:
    """0-d values, zero for tensors that sit this step out or do not move at all."""
    if not batch.counts:
        return [torch.zeros_like(value) for value in values]
    if batch.finite is not None:
        pairs = zip(batch.finite, values, strict=True)
        values = [torch.where(flag, value, 0.0) for flag, value in pairs]
    lr = batch.group["lr"]
    if isinstance(lr, Tensor):
        return [torch.where(lr > 0, value, 0.0) for value in values]
    return values if lr > 0 else [torch.zeros_like(value) for value in values]


def gathered(rows: list[list[Tensor]], home: torch.device | None = None) -> Tensor:
    """0-d tensors of several batches as one vector, on the device of the first."""
    home = home or rows[0][0].device
    every = [x for row in rows for x in row]
    if any(x.device != home for x in every):
        every = [x.to(home, non_blocking=True) for x in every]
    return torch.stack(every)
