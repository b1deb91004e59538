"""An optimizer whose tensors follow one of two rules, each at a rate of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from anthology.optim.core.base import BaseOptimizer
from anthology.optim.core.limits import at_least_zero, number, one_of
from anthology.optim.core.state import Group

from ..param_norm import spec
from ..renamed import renamed
from .checkpoint import adopt, for_torch, rejoined
from .routing import ADAMW, MUON, divided, rates_settled, rule_for, seen_by
from .view import must_view


class _Routed(BaseOptimizer):
    """What Muon does with its groups; a group stays one, whatever it holds."""

    def check(self, group: Group) -> None:
        """Refuse what says wrongly how tensors are routed, and at which rates."""
        super().check(group)
        one_of("rule", group.get("rule") or MUON, (MUON, ADAMW))
        if not 0.0 < number("scale", group.get("scale", 1.0)) < float("inf"):
            raise ValueError(f"Invalid scale: {group['scale']}; it must be positive")
        spec(group.get("norm"))
        adamw_lr = group["adamw_lr"]
        if isinstance(adamw_lr, Tensor) and adamw_lr.numel() != 1:
            raise ValueError("Tensor adamw_lr must be 1-element")
        at_least_zero("adamw learning rate", adamw_lr)
        if not 0.0 < number("adamw_at", group["adamw_at"]) < float("inf"):
            raise ValueError(
                f"Invalid adamw_at: {group['adamw_at']}; it must be positive: the lr "
                "at which the rate of AdamW is adamw_lr"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group."""
        if isinstance(param_group, dict):
            param_group = renamed(param_group)
            self.check({**self.defaults, **param_group})
            param_group = rates_settled(param_group)
            if "norm" in param_group:
                param_group["norm"] = spec(param_group["norm"])
                items = param_group["params"]
                tensors = [x[-1] if isinstance(x, tuple) else x for x in items]
                matrices = [p for p in tensors if rule_for(p, param_group) == MUON]
                must_view({**param_group, "params": matrices})
        super().add_param_group(param_group)

    @property
    def arguments(self) -> dict[str, Any]:
        """The defaults under the names that the constructor has for them."""
        return {**self.defaults, "step": self.defaults["step_rule"]}

    def state_dict(self) -> dict[str, Any]:
        """As in the base; groups that ``torch.optim.Muon`` can step hold its names."""
        saved = super().state_dict()
        for group in saved["param_groups"]:
            group.update(for_torch(group))
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in the base; of ``torch.optim.Muon`` and of older versions too."""
        super().load_state_dict(rejoined(state_dict, self.param_groups))

    def adopted(
        self, group: dict[str, Any], own: Group, states: list[Group]
    ) -> dict[str, Any]:
        """A group of a checkpoint, which may be an older one or PyTorch's."""
        return adopt(group, own, states)

    def late(self, group: Group) -> set[str]:
        """As in the base, and the counter of matrices, which is not used."""
        return super().late(group) | ({"step"} if group["rule"] == MUON else set())

    @property
    def rates(self) -> list[dict[str, float | Tensor]]:
        """The learning rates as they are now."""
        groups = [divided(group) for group in self.param_groups]
        return [{part["rule"]: part["lr"] for part in parts} for parts in groups]

    def group_of(self, p: Tensor, group: Group) -> Group:
        """With the rule of that tensor, its rate as ``lr``, and if it is complex."""
        seen = seen_by(rule_for(p, group), group)
        return {**seen, "complex": p.is_complex()}

    @property
    def rule_groups(self) -> list[dict[str, Any]]:
        """Each group in tensors for Muon and tensors for AdamW."""
        return [part for group in self.param_groups for part in divided(group)]
