"""What an optimizer says about itself when its parameters lie on many processes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .state import State


class _Spread:
    """One process by default; `core.sharded` asks this of a rule for DTensors."""

    partial: ClassVar[tuple[str, ...]] = ()
    """Entries of the state that are sums over a tensor, and so over its shards."""

    state: Any
    param_groups: list[dict[str, Any]]
    _shards: Any = None
    _scanned: Any = None

    def rule_of(self, group: Mapping[str, Any]) -> Any:
        """The rule of the tensors of a group; `BaseOptimizer` says more."""
        raise NotImplementedError

    def group_of(self, p: Tensor, group: Mapping[str, Any]) -> Mapping[str, Any]:
        """A group as the rule of one of its tensors sees it; asking twice is once."""
        return group

    def divided(self, group: dict[str, Any]) -> list[dict[str, Any]]:
        """A group in parts whose tensors all have one `group_of`."""
        return [group]

    @property
    def rule_groups(self) -> list[dict[str, Any]]:
        """The groups as the rules see them, each with one rule."""
        return [part for group in self.param_groups for part in self.divided(group)]

    def needs_whole(self, group: Mapping[str, Any]) -> bool:
        """Whether the rule must see the tensors of a group whole."""
        return not self.rule_of(group).entrywise

    @property
    def couples(self) -> bool:
        """Whether the step of one tensor depends on other tensors."""
        return False

    def units(self, group: Mapping[str, Any]) -> list[list[Tensor]]:
        """The parameters of a group, those together that one process must compute."""
        return [[p] for p in group["params"]]

    def quiet_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """What every process keeps of a tensor that another one computes."""
        return {}

    def over_all(self, x: Tensor) -> Tensor:
        """A small tensor of every process that takes part in this step."""
        if self._shards is None:
            return x[None]
        every: Tensor = self._shards.everyone(x)
        return every

    def norm_over_all(self, x: Tensor, order: float) -> Tensor:
        """The norm of all processes' lengths; `x` itself where there is one process."""
        every = self.over_all(x)
        return x if len(every) == 1 else torch.linalg.vector_norm(every, order)

    def quiet_states(self, group: Mapping[str, Any]) -> list[State]:
        """What is kept here of tensors that another process computes in this step."""
        return [] if self._shards is None else self._shards.quiet_states(group)

    def spread(self, groups: Iterable[Mapping[str, Any]]) -> Any:
        """The layer for DTensors, made when the first is met; None without any."""
        lists = [group["params"] for group in groups]
        scanned = [(id(params), len(params)) for params in lists]
        if scanned != self._scanned:  # looked through once, not in every step
            self._scanned = scanned
            if any(is_sharded(p) for params in lists for p in params):
                from .sharding.shards import Shards

                self._shards = self._shards or Shards(self)
        return self._shards


def is_sharded(p: Tensor) -> bool:
    """Whether a tensor is a DTensor; does not import what makes them."""
    if type(p) in (Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(p, module.DTensor)


def whole(x: Tensor) -> Tensor:
    """A copy of a tensor without its history; of a DTensor all of it."""
    found: Any = x.detach()
    found = found.full_tensor() if is_sharded(x) else found
    copied: Tensor = found.clone()
    return copied


def whole_state(
    optimizer: torch.optim.Optimizer, p: Tensor, group: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The averages of a parameter, put together if it is a DTensor."""
    state: Mapping[str, Any] = optimizer.state.get(p, {})
    if not is_sharded(p):
        return state
    names = ("momentum_buffer", "exp_avg")
    kept = {name: x for name, x in state.items() if name in names}
    shards = getattr(optimizer, "_shards", None)
    if shards is not None:
        kept = shards.told(p, group, kept)
    return {name: whole(x) for name, x in kept.items()}
