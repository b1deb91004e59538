"""What is kept of parameters: made early, read, and back from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import batch
from .checkpoint import SAVED_BY, Fit, lineage
from .names import named
from .rounding import RESIDUAL
from .spread import _Spread, is_sharded
from .state import State, fresh_state


class _Resumed(_Spread, torch.optim.Optimizer):
    """How the shared base makes, reads, saves and loads its state."""

    before: ClassVar[tuple[tuple[str, Any], ...]] = ()
    """What a group of a checkpoint had before its class knew such a setting."""

    switched: ClassVar[tuple[str, ...]] = ()
    """Entries of its own that a checkpoint may lack; see `late`."""

    derived: ClassVar[str | None] = None
    """How the names of entries begin that a step computes where there are none."""

    _watch: Any = None

    def rule_of(self, group: Mapping[str, Any]) -> Any:
        """The rule of the tensors of a group; `BaseOptimizer` says more."""
        raise NotImplementedError

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """The state of a parameter, made at the first call."""
        found: State = self.state[p]
        seen = self.group_of(p, group)
        rule = self.rule_of(seen)
        # there may be something of the user's, and what is switched on later is new
        if not {"step", *rule.entries(seen)} <= found.keys():
            found.update({**fresh_state(p, seen, rule.new_state), **found})
        return found

    def entries(self, group: Mapping[str, Any]) -> set[str] | None:
        """What every state holds, so that `state_of` is asked only for others."""
        own = type(self).state_of is not _Resumed.state_of
        return None if own else {"step", *self.rule_of(group).entries(group)}

    @property
    def skipped(self) -> dict[str, int]:
        """How often each tensor was skipped because its gradient was not finite."""
        counts = {}
        for name, p in named(self.param_groups):
            count = int(self.state.get(p, {}).get("skipped", 0))
            if count:
                counts[name] = count
        return counts

    def create_state(self) -> None:
        """Make the state of every parameter now rather than at its first gradient."""
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
            for name, default in {**self.defaults, **dict(self.before)}.items():
                group.setdefault(name, default)

    def late(self, group: Mapping[str, Any]) -> set[str]:
        """Entries that a checkpoint may lack: they start as in a new state."""
        return {"skipped", RESIDUAL, *self.switched}

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """What a checkpoint should hold, and what stands for entries it may lack."""
        start = self.derived
        if start is None or any(name.startswith(start) for name in saved):
            return fresh
        return {name: x for name, x in fresh.items() if not name.startswith(start)}

    def adopted(
        self,
        group: dict[str, Any],
        own: Mapping[str, Any],
        states: list[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """A group of a checkpoint in the terms of this class."""
        return {**dict(self.before), **group}

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim`, with the names of the class under ``saved_by``."""
        saved = super().state_dict()
        shards = self.spread(self.param_groups)
        saved = saved if shards is None else shards.packed(saved)
        return {**saved, SAVED_BY: lineage(type(self))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint that fits; the state keeps its own dtype."""
        found: list[Fit] = []
        shards = self.spread(self.param_groups)

        def look(_: Any, loaded: dict[str, Any]) -> dict[str, Any]:
            fit = Fit(self, loaded)
            fit.faults = self._agreed(fit.faults)
            fit.refuse()
            found.append(fit)
            keys = [group["params"] for group in loaded["param_groups"]]
            known = {key for some in keys for key in some}
            pairs = zip(fit.groups, keys, strict=True)
            groups = [{**group, "params": some} for group, some in pairs]
            others = {k: x for k, x in loaded["state"].items() if k not in known}
            return {**loaded, "param_groups": groups, "state": others}

        def put(_: Any) -> None:
            for fit in found:
                self.state.update(fit.ready)
                for p, group, entries in fit.sharded:
                    self.state[p] = shards.unpacked(p, group, entries)

        before = self.state, self.param_groups
        hooks = (
            self.register_load_state_dict_pre_hook(look),
            self.register_load_state_dict_post_hook(put, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            self.state, self.param_groups = before
            raise
        finally:
            for hook in hooks:
                hook.remove()

    def _made_room(self) -> bool:
        """Make state instead of a step that is only there to make it."""
        if not self._only_makes_room():
            return False
        if self._shards is not None:
            self._shards.create_state()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and not is_sharded(p):
                    self.state_of(p, group)
        return True

    def _only_makes_room(self) -> bool:
        """Whether all is zero; asked where no state is. No rate on a device is read."""
        for group in self.param_groups:
            lr = group["lr"]
            waits = isinstance(lr, Tensor) and not batch.reads_flags_for_free(lr.device)
            if group["differentiable"] or waits or lr != 0:
                return False
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        given = [_local(g) for g in grads if g is not None]
        sparse = any(g.layout is not torch.strided for g in given)
        trains = not given or sparse or any(bool(g.any()) for g in given)
        return not self._agreed(["trains"] * trains)

    def _agreed(self, found: list[str]) -> list[str]:
        """What was found here or by another process."""
        if self._shards is None:
            return found
        from .sharding.checkpoint import agreed

        return agreed(self._shards, found)


def _local(g: Any) -> Tensor:
    part: Tensor = g.to_local() if is_sharded(g) else g
    return part
