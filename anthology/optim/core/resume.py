"""What is kept of parameters: made early, read, and back from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from . import batch
from .fit import SAVED_BY, Fit, lineage
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
        found: State = self.state[p]
        if "step" not in found:  # there may be something of the user's
            seen = self.group_of(p, group)
            found.update({**fresh_state(p, seen, self.new_state), **found})
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

        For checkpoints that are loaded into what is there, as those of
        `torch.distributed.checkpoint` are, and for sharded training, where every
        process must hold the same entries. Call it before ``get_optimizer_state_dict``
        or ``set_optimizer_state_dict``: where some tensors have no state yet, or
        gradients are there before it is, these find nothing to load into.
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
            for name, default in {**self.defaults, **dict(self.before)}.items():
                group.setdefault(name, default)

    def late(self, group: Mapping[str, Any]) -> set[str]:
        """Entries that a checkpoint may lack: they start as in a new state.

        Such are averages that are switched on in the middle of a run, and counters
        that the rule does not use, which `torch.optim` then does not keep: what a
        class says to be `switched`.

        Parameters
        ----------
        group : mapping
            A group as it stands after loading.

        Returns
        -------
        set of str
            All tensors of a group may lack them, or none.
        """
        return {"skipped", RESIDUAL, *self.switched}

    def awaited(self, fresh: State, saved: Mapping[str, Any]) -> State:
        """What a checkpoint should hold, and what stands for entries it may lack.

        Parameters
        ----------
        fresh : dict of str to Tensor
            A new state.
        saved : mapping
            The entries of the checkpoint for that parameter.

        Returns
        -------
        dict of str to Tensor
            `fresh`, without what is `derived` where nothing of it was saved.
        """
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
        """A group of a checkpoint in the terms of this class.

        Parameters
        ----------
        group : dict
            Of the checkpoint, with the parameters in it.
        own : mapping
            The group that it will take the place of.
        states : list of mapping
            The entries of the checkpoint, one a parameter.

        Returns
        -------
        dict
            What `add_param_group` takes.
        """
        return {**dict(self.before), **group}

    def state_dict(self) -> dict[str, Any]:
        """As in `torch.optim`, with the names of the class under ``saved_by``.

        The state of DTensors is made of DTensors; all processes take part in that.

        Returns
        -------
        dict
            ``state``, ``param_groups``, and ``saved_by``: a list of str.
        """
        saved = super().state_dict()
        shards = self.spread(self.param_groups)
        saved = saved if shards is None else shards.packed(saved)
        return {**saved, SAVED_BY: lineage(type(self))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint that fits; the state keeps its own dtype.

        `torch.optim` casts state to the dtype of the parameter, which would round
        the float32 averages of bfloat16 parameters at every resume. Here each entry
        returns to the dtype that a fresh state would have, as a copy.

        It may come from this class, from one that it derives from or that derives
        from it, or from the class of `torch.optim` with the same state. A parameter
        may be without state; hyper-parameters that the groups lack have their
        defaults. What a user has put into the state of this class comes back too.

        Parameters
        ----------
        state_dict : dict
            What `state_dict` returned; for DTensor parameters whole tensors do too,
            and all processes take part.

        Raises
        ------
        ValueError
            If it does not fit: another class, an entry that is missing, unknown or of
            another shape, a hyper-parameter out of range. Nothing has changed then, nor
            where a hook raises.
        """
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
        """Make state instead of a step that is only there to make it.

        `torch.distributed.checkpoint` sets every gradient and every rate to zero and
        takes a step where there is no state yet. It must leave no trace: neither a
        step counted nor a zero taken for the first gradient.
        """
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
        from .checkpoint import agreed

        return agreed(self._shards, found)


def _local(g: Any) -> Tensor:
    part: Tensor = g.to_local() if is_sharded(g) else g
    return part
