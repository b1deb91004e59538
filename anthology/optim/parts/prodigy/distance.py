"""How far away the minimum is at least, learned from the gradients.

For a convex loss ⟨g, w − w*⟩ ≥ 0 at every point. With r = Σ c⟨g, w₀ − w⟩ and
s = Σ c·g, the same weights c ≥ 0 in both sums, this and Hölder's inequality give
r ≤ ⟨s, w₀ − w*⟩ ≤ ‖s‖_*·‖w₀ − w*‖. So the largest r/‖s‖_* met so far never exceeds
the distance to a minimum, in the norm whose dual stands below, however the steps
were taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.base import BaseOptimizer
from anthology.optim.core.batch import Batch
from anthology.optim.core.limits import below_one, number
from anthology.optim.core.rule import Group
from anthology.optim.core.state import State, real, state_dtype
from anthology.optim.parts import arithmetic as passes
from anthology.optim.parts.arithmetic import Rate
from anthology.optim.parts.prodigy.totals import (
    collected,
    factor,
    one_by_one,
    thinned,
)
from anthology.optim.parts.prodigy.update import corrected


def memory(group: Group) -> float:
    """β₃, the memory of r and s, √β₂ unless it is given; at 0 they need no state."""
    beta3, betas = group["beta3"], group.get("betas")
    return float(math.sqrt(betas[1]) if beta3 is None and betas else beta3 or 0.0)


def estimate_state(param: Tensor, group: Group) -> State:
    """``p0`` (w₀), d and, with memory, ``s`` and r (``numerator``)."""
    part = torch.zeros_like(thinned(param, group["slice_p"]))
    d = torch.full((), group["d0"], dtype=param.dtype, device=param.device)
    state = {"p0": part, "d": d}
    if memory(group):
        state |= {"s": part.clone(), "numerator": torch.zeros_like(d)}
    if group["growth_rate"] < math.inf:
        state["d_max"] = d.clone()
    return state


def estimate_entries(group: Group) -> tuple[str, ...]:
    """w₀ and, with memory, what it is kept in."""
    return ("p0", "s") if memory(group) else ("p0",)


class _DistanceEstimate(BaseOptimizer):
    """Keeps w₀, r and s of each tensor, and d, the estimate so far."""

    partial, shared = ("numerator",), ("d", "d_max")

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

    def state_made(
        self, p: Tensor, state: State, missing: set[str], group: Mapping[str, Any]
    ) -> None:
        """w₀ is where the parameter stands now."""
        if "p0" in missing:
            with torch.no_grad():
                real(state["p0"]).copy_(thinned(real(p), group["slice_p"]))

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """As in the base; s and r start together, at the next step."""
        if "s" not in saved and "numerator" not in saved:
            fresh = {n: x for n, x in fresh.items() if n not in ("s", "numerator")}
        d = saved.get("d")
        if "d_max" in fresh and isinstance(d, Tensor) and not d.ndim:
            fresh["d_max"] = d.to(fresh["d"])
        return fresh

    def state_dict(self) -> dict[str, Any]:
        """As in the base; each tensor has a d of its own, as some files demand."""
        saved = super().state_dict()
        for key, state in saved["state"].items():
            if isinstance(state, Mapping) and "step" in state:
                own = {n: state[n].clone() for n in self.shared if n in state}
                saved["state"][key] = {**state, **own}
        return saved

    @property
    def d(self) -> float:
        """The estimate of the distance; reading it waits for the device."""
        return max(self.d_of_groups)

    @property
    def d_of_groups(self) -> list[float]:
        """The estimate that each group steps with; reading it waits for the device."""
        found = []
        for group in self.param_groups:
            kept = [self.state.get(p, {}).get("d") for p in group["params"]]
            values = [d for d in kept if d is not None]
            found.append(max(map(float, values), default=group["d0"]))
        if self.param_groups[0]["per_group"]:
            return found
        return [max(found)] * len(found)

    def scopes(self, parts: list[Any]) -> list[list[Any]]:
        """The batches (or what goes in two passes) that share one d."""
        alike: dict[int, list[Any]] = {}
        for part in parts:
            key = id(part.group["params"]) if part.group["per_group"] else 0
            alike.setdefault(key, []).append(part)
        return list(alike.values())

    def opened(self, parts: list[Any]) -> list[tuple[list[Any], Iterable[Any]]]:
        """Every scope, and the same ready for its rule, without empty batches."""
        scopes = [(scope, self._opening(scope)) for scope in self.scopes(parts)]
        if self._shards is None:
            return [*scopes]
        every = [(scope, list(ready)) for scope, ready in scopes]
        left = [([part for part in some if part.tensors], x) for some, x in every]
        return [(some, x) for some, x in left if some]

    def _opening(self, scope: list[Any]) -> Iterator[Any]:
        for part in scope:
            if not isinstance(part, Batch):
                yield part
                continue
            part.open(self)
            if part.params:
                yield from [part] if part.foreach else one_by_one(part)

    def tell_rates(self, scope: list[Any], d: Tensor) -> None:
        """Decay that acts beside the rule is as fast as its step: γd."""
        for part in scope:
            if isinstance(part, Batch) and part.params:
                part.rates = corrected(part, factor(d, part) * part.group["lr"])

    def current(self, scope: list[Any], name: str = "d") -> Tensor:
        """The largest d (or ``d_max``) in the state of a scope, a 0-d tensor."""
        rule, first = scope[0].group, scope[0].tensors[0]
        found = [state for p, state in self.state.items() if isinstance(p, Tensor)]
        if rule["per_group"]:
            found = [self.state.get(p, {}) for p in rule["params"]]
        kept = [state for state in found if "d" in state]
        values = {id(x): x for x in (s.get(name, s["d"]) for s in kept)}  # mostly one
        if not values:
            kind = state_dtype(first.dtype).to_real()
            return torch.full((), rule["d0"], dtype=kind, device=first.device)
        return collected([list(values.values())], first.device).max()

    @property
    def couples(self) -> bool:
        """Always: d is one number."""
        return True

    def jointly(
        self, products: list[list[Tensor]], lengths: list[list[Tensor]], order: int = 1
    ) -> tuple[Tensor, Tensor]:
        """r and ‖s‖_* of all tensors of a scope, wherever they lie."""
        own = collected(lengths)
        length = own.sum() if order == 1 else torch.linalg.vector_norm(own)
        every = self.over_all(torch.stack([collected(products).sum(), length]))
        if len(every) == 1:
            return every[0, 0], every[0, 1]
        return every[:, 0].sum(), torch.linalg.vector_norm(every[:, 1], order)

    def grow(self, scope: list[Batch], d: Tensor, top: Tensor, below: Tensor) -> Tensor:
        """d after a step: never smaller, and never from a sum that is not finite."""
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
            for part in scope:
                self._keep(part, name, value)
            for state in self.quiet_states(rule):
                state[name].copy_(value) if name in state else None
        return new

    def _keep(self, part: Any, name: str, value: Tensor) -> None:
        """Write d into the state of each tensor of a batch that has moved."""
        if not isinstance(part, Batch):
            part.keep(name, value)
            return
        same = value.to(part.params[0].device, part.params[0].dtype)
        if passes.on_cpu(part):
            for p in part.tensors:  # one tensor for all, which is never written again
                if name in self.state[p]:
                    self.state[p][name] = same
            return
        kept = [state[name] for state in part.states if name in state]
        if part.group["differentiable"]:  # lists are not differentiable here
            for x in kept:
                x.copy_(same)
        elif kept:
            torch._foreach_copy_(kept, [same] * len(kept))

    def remember(
        self, batch: Batch, of_products: Rate, of_grads: Rate
    ) -> tuple[list[Tensor], list[Tensor]]:
        """r and s of each tensor with this gradient in them."""
        beta, every = memory(batch.group), batch.group["slice_p"]
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
