"""Optimizers that come back from a checkpoint as they were, on any processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .spread import _Spread, is_sharded
from .state import State, fresh_state, restored_state


class _Resumed(_Spread, torch.optim.Optimizer):
    """How the shared base saves and loads its state."""

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """The initial state of one parameter; `BaseOptimizer` says more."""
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, default in self.defaults.items():
                group.setdefault(name, default)

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim`; state of DTensors as DTensors, made by all processes."""
        saved = super().state_dict()
        shards = self.spread(self.param_groups)
        return saved if shards is None else shards.packed(saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint; the state keeps its own dtype.

        `torch.optim` casts state to the dtype of the parameter, which would round
        the float32 averages of bfloat16 parameters at every resume. Here each entry
        returns to the dtype that a fresh state would have, as a copy.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned; for DTensor parameters whole tensors do too.
        """
        final: dict[str, Any] = {}
        shards = self.spread(self.param_groups)

        def remember(_: Any, loaded: dict[str, Any]) -> None:
            final.update(loaded)

        def recast(_: Any) -> None:
            for group, saved in zip(
                self.param_groups, final["param_groups"], strict=True
            ):
                for p, key in zip(group["params"], saved["params"], strict=True):
                    entries = final["state"].get(key)
                    if not entries:
                        continue
                    if is_sharded(p):
                        self.state[p] = shards.unpacked(p, group, entries)
                        continue
                    fresh = fresh_state(p, group, self.new_state)
                    self.state[p] = restored_state(entries, fresh)

        hooks = (
            self.register_load_state_dict_pre_hook(remember),
            self.register_load_state_dict_post_hook(recast, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()
