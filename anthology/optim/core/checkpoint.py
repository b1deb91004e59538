"""Whether a checkpoint fits an optimizer, found out before anything changes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import batch
from .rounding import RESIDUAL
from .rule import Rule
from .sharding.layer import is_sharded, shards_of
from .state import State, fresh_state, restored_state, tensors_of

# Where the class that saved stands, beside ``state`` and ``param_groups``. There
# `torch.distributed.checkpoint` drops it; in the groups PyTorch's own optimizers would
# take it over and save it as theirs. So entries decide too, alone where no class is.
SAVED_BY = "saved_by"
LINES = 8  # of an error
Group = dict[str, Any]


def saved(optimizer: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """A state dict of `torch.optim` with DTensors in it and its class named."""
    if (shards := shards_of(optimizer)) is not None:
        from .sharding.checkpoint import packed

        plain = packed(shards, plain)
    return {**plain, SAVED_BY: lineage(type(optimizer))}


def load(optimizer: Any, state_dict: Any, plainly: Callable[[Any], None]) -> None:
    """Load a checkpoint that fits, by `plainly` of `torch.optim`; else change nothing."""
    found: list[Fit] = []

    def look(_: Any, loaded: dict[str, Any]) -> dict[str, Any]:
        fit = Fit(optimizer, loaded)
        fit.refuse(_anywhere(optimizer, fit.faults))
        found.append(fit)
        keys = [group["params"] for group in loaded["param_groups"]]
        pairs = zip(fit.groups, keys, strict=True)
        groups = [{**group, "params": some} for group, some in pairs]
        known = {key for some in keys for key in some}
        others = {k: x for k, x in loaded["state"].items() if k not in known}
        return {**loaded, "param_groups": groups, "state": others}

    def put(_: Any) -> None:
        for fit in found:
            optimizer.state.update(fit.ready)
            for p, group, entries in fit.sharded:
                from .sharding.checkpoint import unpacked

                shards = shards_of(optimizer)
                optimizer.state[p] = unpacked(shards, p, group, entries)

    before = optimizer.state, optimizer.param_groups
    hooks = (
        optimizer.register_load_state_dict_pre_hook(look),
        optimizer.register_load_state_dict_post_hook(put, prepend=True),
    )
    try:
        plainly(state_dict)
    except BaseException:
        optimizer.state, optimizer.param_groups = before
        raise
    finally:
        for hook in hooks:
            hook.remove()


def create_state(optimizer: Any, without_gradient: bool = True) -> None:
    """Make the state of every parameter, or of those that have a gradient."""
    if (shards := shards_of(optimizer)) is not None:
        shards.create_state()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if (without_gradient or p.grad is not None) and not is_sharded(p):
                optimizer.state_of(p, group)


def only_makes_state(optimizer: Any) -> bool:
    """Whether a first step has only zeros; no rate on a device is read."""
    for group in optimizer.param_groups:
        lr = group["lr"]
        waits = isinstance(lr, Tensor) and not batch.reads_flags_for_free(lr.device)
        if group["differentiable"] or waits or lr != 0:
            return False
    grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
    given = [g.to_local() if is_sharded(g) else g for g in grads if g is not None]
    sparse = any(g.layout is not torch.strided for g in given)
    trains = not given or sparse or any(bool(g.any()) for g in given)
    return not _anywhere(optimizer, ["trains"] * trains)


def _anywhere(optimizer: Any, found: list[str]) -> list[str]:
    """What was found here or by another process."""
    if (shards := shards_of(optimizer)) is None:
        return found
    from .sharding.checkpoint import agreed

    return agreed(shards, found)


def lineage(kind: type) -> list[str]:
    """The name of a class, and of the public optimizers it derives from."""
    root, here = torch.optim.Optimizer, f"{__package__}."
    bases = [x for x in kind.__mro__[1:] if issubclass(x, root) and x is not root]
    others = [x.__name__ for x in bases if not x.__module__.startswith(here)]
    return [kind.__name__, *(name for name in others if not name.startswith("_"))]


class Fit:
    """A checkpoint held against an optimizer: what is wrong, and what it becomes."""

    def __init__(self, optimizer: Any, saved: Mapping[str, Any]) -> None:
        there = saved.get("param_groups") if isinstance(saved, Mapping) else None
        if not (
            isinstance(there, list | tuple)
            and all(isinstance(g, Mapping) and "params" in g for g in there)
            and isinstance(saved.get("state"), Mapping)
        ):
            raise ValueError(
                "this is no state dict of an optimizer, which has a dict `state` and a "
                "list `param_groups` of dicts with `params`: give what "
                "optimizer.state_dict() returned"
            )
        self.optimizer, self.saved = optimizer, saved
        self.own, by = lineage(type(optimizer)), saved.get(SAVED_BY)
        by = [by] if isinstance(by, str) else by
        self.by = [*map(str, by)] if isinstance(by, list | tuple) else []
        self.faults: list[str] = []
        self.groups: list[Group] = []
        self.ready: dict[Tensor, State] = {}
        self.sharded: list[tuple[Tensor, Group, Group]] = []
        if self.by and self.by[0] not in self.own and self.own[0] not in self.by:
            self.faults.append(f"the state of {self.by[0]} means something else here")
        ours = [len(group["params"]) for group in optimizer.param_groups]
        theirs = [len(group["params"]) for group in there]
        if ours != theirs:
            words = (
                "loaded state dict has a different number of parameter groups"
                if len(ours) != len(theirs)
                else "loaded state dict contains a parameter group that doesn't match "
                "the size of optimizer's group"
            )
            self.faults.append(f"{words}: parameters {theirs}, not {ours}, by group")
            return
        self.groups = self._rehearsed()
        for number, group in enumerate(self.groups):
            self._look(number, group)

    def refuse(self, faults: list[str]) -> None:
        """Raise if there are faults."""
        if not faults:
            return
        mine = self.own[0]
        of = f"of {self.by[0]}" if self.by else "that does not say of which class it is"
        more = len(faults) - LINES
        lines = faults[:LINES] + [f"and {more} more"] * (more > 0)
        raise ValueError(
            f"{mine} cannot load this checkpoint {of}; nothing has changed:\n  "
            + "\n  ".join(lines)
            + f"\nIt takes what {mine} saved: for a parameter all of its state or none."
        )

    def _rehearsed(self) -> list[Group]:
        """The groups as they will stand, after all that is asked of new groups."""
        optimizer, here = self.optimizer, self.optimizer.param_groups
        trial = object.__new__(type(optimizer))
        trial.__dict__.update(optimizer.__dict__, param_groups=[], state={})
        known = inspect.signature(type(optimizer)).parameters.items()
        needed = [name for name, x in known if x.default is x.empty]
        for number, own in enumerate(here):
            given = self.saved["param_groups"][number]
            states = [self.saved["state"].get(key) or {} for key in given["params"]]
            names = {"param_names": own["param_names"]} if "param_names" in own else {}
            group = {**names, **given, "params": own["params"]}
            if not self.by:  # what has no default must be there
                mine = [name for name in needed if name in optimizer.defaults]
                lost = [name for name in mine if name not in group]
                self.faults += [f"group {number}: {name} is missing" for name in lost]
            try:
                trial.add_param_group(optimizer.adopted(group, own, states))
                if len(trial.param_groups) != number + 1:
                    raise ValueError("it would become two groups")
            except (ValueError, TypeError, LookupError, RuntimeError) as error:
                self.faults.append(f"group {number}: {error}")
                return [{**group} for group in here]
        pairs = zip(trial.param_groups, here, strict=True)
        return [{**group, "params": own["params"]} for group, own in pairs]

    def _look(self, number: int, group: Group) -> None:
        """Hold the states of a group against what they should be."""
        keys = self.saved["param_groups"][number]["params"]
        names = group.get("param_names") or keys
        absent: dict[tuple[str, Rule], list[str]] = {}
        there: set[tuple[str, Rule]] = set()
        for index, (p, key) in enumerate(zip(group["params"], keys, strict=True)):
            found, label = self.saved["state"].get(key), names[index]
            label = label if isinstance(label, str) else f"{number}.{index}"
            if not found:
                continue
            if not isinstance(found, Mapping):
                kind = type(found).__name__
                self.faults.append(f"{label}: of type {kind} where its state should be")
                continue
            entries = {name: x for name, x in found.items() if x is not None}
            seen = self.optimizer.group_of(p, group)
            rule, model = self.optimizer.rule_of(seen), p
            optional = {"skipped", RESIDUAL, *rule.late}
            if is_sharded(p):  # of its state the shapes of the whole
                model = torch.empty(p.shape, dtype=p.dtype, device="meta")
            fresh = fresh_state(model, seen, rule.new_state)
            fresh = self.optimizer.awaited(fresh, entries)
            for name in fresh:
                if name in entries:
                    there.add((name, rule))
                elif name in optional:
                    absent.setdefault((name, rule), []).append(label)
                else:
                    self.faults.append(f"{label}: {name} is missing")
            faults = self._strange(entries, fresh, optional)
            self.faults += [f"{label}: {fault}" for fault in faults]
            if is_sharded(p):
                self.sharded.append((p, group, entries))
            elif not faults:
                self.ready[p] = restored_state(entries, fresh)
        for lost in there.intersection(absent):  # switched on later is so for all
            self.faults += [f"{label}: {lost[0]} is missing" for label in absent[lost]]

    def _strange(
        self, entries: Mapping[str, Any], fresh: State, optional: Iterable[str]
    ) -> list[str]:
        """What is of another shape or kind, or unknown."""
        known = [name for name in entries if name in fresh]
        found = [(name, _misfit(entries[name], fresh[name])) for name in known]
        faults = [f"{name} {fault}" for name, fault in found if fault]
        if self.by[:1] == self.own[:1]:
            return faults  # what we do not know is the user's
        others = sorted(tensors_of(entries).keys() - fresh.keys() - set(optional))
        return faults + [f"{name} is unknown to {self.own[0]}" for name in others]


def _misfit(x: Any, like: Tensor) -> str:
    """Why an entry cannot be what is needed; nothing if it can."""
    single = isinstance(x, Tensor) and x.numel() == 1 and not x.is_meta
    if not like.ndim and (single or isinstance(x, int | float)):
        return ""
    if not isinstance(x, Tensor):
        kind = type(x).__name__
        return f"is of type {kind}, not a tensor of shape {tuple(like.shape)}"
    if x.shape != like.shape:
        return f"has shape {tuple(x.shape)}, not {tuple(like.shape)}"
    if x.layout is not torch.strided or x.is_meta:
        return f"is {'without data' if x.is_meta else x.layout}, not dense"
    if x.is_complex() and not like.is_complex():
        return f"is {x.dtype}, not {like.dtype}"
    return ""
