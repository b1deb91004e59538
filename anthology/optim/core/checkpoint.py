"""Whether a checkpoint fits an optimizer, found out before anything changes.

The class that saved is kept beside ``state`` and ``param_groups``, under `SAVED_BY`.
There `torch.optim`, files and those who hold a state dict in one piece leave it alone;
`torch.distributed.checkpoint` drops it. As a key of the groups it would travel further,
but then older checkpoints would lack a key that strict loading asks for, and PyTorch's
own optimizers would take it into their groups and save it as theirs. So entries decide
as well, and alone where no class is named.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import batch
from .sharding.layer import is_sharded, shards_of
from .state import State, fresh_state, restored_state

SAVED_BY = "saved_by"
LINES = 8  # of an error


def lineage(kind: type) -> list[str]:
    """The name of a class, and of the public optimizers it derives from."""
    others = [
        base.__name__
        for base in kind.__mro__[1:]
        if issubclass(base, torch.optim.Optimizer)
        and base is not torch.optim.Optimizer
        and not base.__name__.startswith("_")
        and not base.__module__.startswith(f"{__package__}.")
    ]
    return [kind.__name__, *others]


def saved(optimizer: Any, plain: dict[str, Any]) -> dict[str, Any]:
    """A state dict of `torch.optim` with DTensors made whole and its class named."""
    shards = shards_of(optimizer)
    packed = plain if shards is None else shards.packed(plain)
    return {**packed, SAVED_BY: lineage(type(optimizer))}


def load(optimizer: Any, state_dict: Any, plainly: Callable[[Any], None]) -> None:
    """Load a checkpoint that fits, by `plainly` of `torch.optim`; else change nothing."""
    found: list[Fit] = []
    shards = shards_of(optimizer)

    def look(_: Any, loaded: dict[str, Any]) -> dict[str, Any]:
        fit = Fit(optimizer, loaded)
        fit.faults = _agreed(shards, fit.faults)
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
            optimizer.state.update(fit.ready)
            for p, group, entries in fit.sharded:
                optimizer.state[p] = shards.unpacked(p, group, entries)

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
    return not _agreed(shards_of(optimizer), ["trains"] * trains)


def _agreed(shards: Any, found: list[str]) -> list[str]:
    """What was found here or by another process."""
    every: list[str] = found if shards is None else shards.agreed(found)
    return every


class Fit:
    """A checkpoint held against an optimizer."""

    def __init__(self, optimizer: Any, saved: Mapping[str, Any]) -> None:
        if not is_state_dict(saved):
            raise ValueError(
                "this is no state dict of an optimizer, which has a dict `state` and a "
                "list `param_groups` of dicts with `params`: give what "
                "optimizer.state_dict() returned"
            )
        self.optimizer = optimizer
        self.saved, self.own = saved, lineage(type(optimizer))
        named = saved.get(SAVED_BY)
        named = [named] if isinstance(named, str) else named
        self.by = [*map(str, named)] if isinstance(named, list | tuple) else []
        self.faults: list[str] = []
        self.ready: dict[Tensor, State] = {}
        self.sharded: list[tuple[Tensor, dict[str, Any], dict[str, Any]]] = []
        if self.by and self.by[0] not in self.own and self.own[0] not in self.by:
            self.faults.append(f"the state of {self.by[0]} means something else here")
        self.groups: list[dict[str, Any]] = []
        if not self._as_many():
            return
        self.groups = self._rehearsed()
        for number, group in enumerate(self.groups):
            self._look(number, group)

    def refuse(self) -> None:
        """Raise if something does not fit."""
        if not self.faults:
            return
        mine = self.own[0]
        of = f"of {self.by[0]}" if self.by else "that does not say of which class it is"
        more = len(self.faults) - LINES
        lines = self.faults[:LINES] + [f"and {more} more"] * (more > 0)
        raise ValueError(
            f"{mine} cannot load this checkpoint {of}; nothing has changed:\n  "
            + "\n  ".join(lines)
            + f"\nIt takes what {mine} saved: for a parameter all of its state or none."
        )

    def _as_many(self) -> bool:
        """Whether there are as many groups and parameters."""
        here, there = self.optimizer.param_groups, self.saved["param_groups"]
        ours, theirs = ([len(g["params"]) for g in x] for x in (here, there))
        words = (
            "loaded state dict has a different number of parameter groups"
            if len(ours) != len(theirs)
            else "loaded state dict contains a parameter group that doesn't match the "
            "size of optimizer's group"
        )
        if ours != theirs:
            self.faults.append(f"{words}: parameters {theirs}, not {ours}, by group")
        return ours == theirs

    def _rehearsed(self) -> list[dict[str, Any]]:
        """The groups as they will stand, after all that is asked of new groups."""
        optimizer = self.optimizer
        trial = object.__new__(type(optimizer))
        trial.__dict__.update(optimizer.__dict__, param_groups=[], state={})
        pairs = zip(optimizer.param_groups, self.saved["param_groups"], strict=True)
        for number, (own, given) in enumerate(pairs):
            states = [self.saved["state"].get(key) or {} for key in given["params"]]
            names = {"param_names": own["param_names"]} if "param_names" in own else {}
            group = {**names, **given, "params": own["params"]}
            if not self.by:
                self._named(number, group)
            try:
                trial.add_param_group(optimizer.adopted(group, own, states))
                if len(trial.param_groups) != number + 1:
                    raise ValueError("it would become two groups")
            except (ValueError, TypeError, LookupError, RuntimeError) as error:
                self.faults.append(f"group {number}: {error}")
                return [{**group} for group in optimizer.param_groups]
        return [
            {**group, "params": own["params"]}
            for group, own in zip(
                trial.param_groups, optimizer.param_groups, strict=True
            )
        ]

    def _named(self, number: int, group: Mapping[str, Any]) -> None:
        """Of a checkpoint without a class, what has no default must be there."""
        known = inspect.signature(type(self.optimizer)).parameters.items()
        needed = [name for name, x in known if x.default is x.empty]
        for name in needed:
            if name in self.optimizer.defaults and name not in group:
                self.faults.append(f"group {number}: {name} is missing")

    def _look(self, number: int, group: dict[str, Any]) -> None:
        keys = self.saved["param_groups"][number]["params"]
        absent: dict[tuple[str, Any], list[str]] = {}
        there: set[tuple[str, Any]] = set()
        for index, (p, key) in enumerate(zip(group["params"], keys, strict=True)):
            found = self.saved["state"].get(key)
            if not found:
                continue
            names = group.get("param_names")
            label = names[index] if names else key
            label = label if isinstance(label, str) else f"{number}.{index}"
            if not isinstance(found, Mapping):
                self.faults.append(
                    f"{label}: {_words(found)} where its state should be"
                )
                continue
            entries = {name: x for name, x in found.items() if x is not None}
            seen = self.optimizer.group_of(p, group)
            optional, rule = self.optimizer.late(seen), seen.get("rule")
            fresh = self.optimizer.awaited(self._fresh(p, seen), entries)
            for name in fresh:
                if name in entries:
                    there.add((name, rule))
                elif name in optional:
                    absent.setdefault((name, rule), []).append(label)
                else:
                    self.faults.append(f"{label}: {name} is missing")
            faults = [*self._strange(entries, fresh, optional)]
            self.faults += [f"{label}: {fault}" for fault in faults]
            if is_sharded(p):
                self.sharded.append((p, group, entries))
            elif not faults:
                self.ready[p] = restored_state(entries, fresh)
        for key in there.intersection(absent):  # switched on later is so for all
            self.faults += [f"{label}: {key[0]} is missing" for label in absent[key]]

    def _fresh(self, p: Tensor, group: Mapping[str, Any]) -> State:
        """What there should be; of a DTensor's state the shapes of the whole."""
        if is_sharded(p):
            p = torch.empty(p.shape, dtype=p.dtype, device="meta")
        fresh: State = fresh_state(p, group, self.optimizer.rule_of(group).new_state)
        return fresh

    def _strange(
        self, entries: Mapping[str, Any], fresh: State, optional: Iterable[str]
    ) -> Iterable[str]:
        """What is unknown, or of another shape or kind."""
        own = self.by[:1] == self.own[:1]  # then what we do not know is the user's
        for name, x in entries.items():
            if name in fresh:
                fault = _misfit(x, fresh[name])
                if fault:
                    yield f"{name} {fault}"
            elif not own and isinstance(x, Tensor) and name not in optional:
                yield f"{name} is unknown to {self.own[0]}"


def is_state_dict(saved: Any) -> bool:
    """Whether something has the form of what ``state_dict`` returns."""
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    return (
        isinstance(saved.get("state"), Mapping)
        and isinstance(groups, list | tuple)
        and all(isinstance(g, Mapping) and "params" in g for g in groups)
    )


def _misfit(x: Any, like: Tensor) -> str:
    """Why an entry cannot be what is needed; nothing if it can."""
    single = isinstance(x, Tensor) and x.numel() == 1 and not x.is_meta
    if not like.ndim and (single or isinstance(x, int | float)):
        return ""
    if not isinstance(x, Tensor):
        return f"is {_words(x)}, not a tensor of shape {tuple(like.shape)}"
    if x.shape != like.shape:
        return f"has shape {tuple(x.shape)}, not {tuple(like.shape)}"
    if x.layout is not torch.strided or x.is_meta:
        return f"is {'without data' if x.is_meta else x.layout}, not dense"
    if x.is_complex() and not like.is_complex():
        return f"is {x.dtype}, not {like.dtype}"
    return ""


def _words(x: Any) -> str:
    return f"of type {type(x).__name__}"
