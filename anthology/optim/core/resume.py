"""What is kept of parameters: made early, read, and back from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .names import named
from .spread import _Spread, is_sharded
from .state import State, fresh_state, restored_state


class _Resumed(_Spread, torch.optim.Optimizer):
    """How the shared base makes, reads, saves and loads its state."""

    _watch: Any = None

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """The initial state of one parameter; `BaseOptimizer` says more."""
        return {}

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state of a parameter, made at the first call.

        Parameters
        ----------
        p : Tensor
            A parameter of this optimizer.
        group : mapping
            Its group.

        Returns
        -------
        dict of str to Tensor
            In at least float32, on the parameter's device; see `fresh_state`.
        """
        if not self.state[p]:
            made = fresh_state(p, self.group_of(p, group), self.new_state)
            self.state[p].update(made)
        found: State = self.state[p]
        return found

    def entries(self, group: Mapping[str, Any]) -> set[str] | None:
        """What every state holds, so that `state_of` is asked only for others.

        Parameters
        ----------
        group : mapping
            One of the groups.

        Returns
        -------
        set of str or None
            None, and `state_of` is always asked, where a subclass has its own.
        """
        own = type(self).state_of is not _Resumed.state_of
        return None if own else {"step"}

    @property
    def skipped(self) -> dict[str, int]:
        """How often each tensor was skipped because its gradient was not finite.

        Returns
        -------
        dict of str to int
            Tensors skipped at least once, by name or, without names, as
            ``"group.index"``. Reading it waits for the device.
        """
        counts = {}
        for name, p in named(self.param_groups):
            count = int(self.state.get(p, {}).get("skipped", 0))
            if count:
                counts[name] = count
        return counts

    def create_state(self) -> None:
        """Make the state of every parameter now rather than at its first gradient.

        For sharded training, where every process must hold the same entries.
        """
        if (shards := self.spread(self.param_groups)) is not None:
            shards.create_state()
        for group in self.param_groups:
            for p in group["params"]:
                if not is_sharded(p):
                    self.state_of(p, group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch = None  # what was counted before is another run
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
                    seen = self.group_of(p, group)
                    fresh = fresh_state(p, seen, self.new_state)
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
