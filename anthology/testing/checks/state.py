"""Checkpoints, copies, and the dtype of what is averaged."""

from __future__ import annotations

import copy
import gc
import io
from itertools import pairwise
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..check import Checks
from ..subject import Subject, draw, feed, require, same, weight

STATE = Checks()


def _train(
    optimizer: torch.optim.Optimizer, params: list[Tensor], seed: int, steps: int = 3
) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        feed(optimizer, *((p, draw(p)) for p in params))


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _resumed(
    subject: Subject, dtype: torch.dtype
) -> tuple[list[Tensor], torch.optim.Optimizer, list[Tensor], torch.optim.Optimizer]:
    """Two parameters trained for a while, and their copy from a checkpoint."""
    params = [weight(dtype=dtype), weight(3, 5, dtype=dtype)]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    copies = [p.detach().clone().requires_grad_() for p in params]
    resumed = subject.fresh(copies)
    resumed.load_state_dict(_through_a_file(optimizer.state_dict()))
    return params, optimizer, copies, resumed


@STATE
def checkpoint(subject: Subject) -> None:
    """A resumed run is another run, or the safe loader refuses the file."""
    params, optimizer, copies, resumed = _resumed(subject, torch.float32)
    _train(optimizer, params, 2)
    _train(resumed, copies, 2)
    equal = all(same(p, q) for p, q in zip(params, copies, strict=True))
    require(equal, "after a resume the steps differ from those without")


@STATE
def checkpoint_of_bfloat16(subject: Subject) -> None:
    """Averages of bfloat16 models are rounded away at every resume."""
    params, optimizer, copies, resumed = _resumed(subject, torch.bfloat16)
    for p, q in zip(params, copies, strict=True):
        for name, value in optimizer.state[p].items():
            other = resumed.state[q].get(name)
            if isinstance(value, Tensor):
                require(isinstance(other, Tensor), f"state {name} is gone")
                require(
                    other.dtype == value.dtype,
                    f"state {name} came back as {other.dtype}, not {value.dtype}",
                )
    _train(optimizer, params, 2)
    _train(resumed, copies, 2)
    equal = all(same(p, q) for p, q in zip(params, copies, strict=True))
    require(equal, "after a resume the steps differ from those without")


@STATE
def loaded_state_is_a_copy(subject: Subject) -> None:
    """Two optimizers that share a state dict train on one another's averages."""
    params = [weight()]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    copies = [p.detach().clone().requires_grad_() for p in params]
    second = subject.fresh(copies)
    second.load_state_dict(optimizer.state_dict())
    kept = copy.deepcopy(dict(optimizer.state[params[0]]))
    _train(second, copies, 2)
    for name, value in optimizer.state[params[0]].items():
        if isinstance(value, Tensor):
            require(same(value, kept[name]), f"state {name} is shared after loading")


@STATE
def deep_copy(subject: Subject) -> None:
    """A copied trainer moves the original, or continues differently."""
    params = [weight(), weight(), weight(3, 5), weight()]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    copied = copy.deepcopy(optimizer)
    twins = copied.param_groups[0]["params"]
    require(twins[0] is not params[0], "the copy holds the original's parameter")
    before = [p.detach().clone() for p in params]
    _train(copied, twins, 2)
    still = all(map(same, params, before))
    require(still, "a step of the copy moved the original")
    _train(optimizer, params, 2)
    equal = all(map(same, params, twins))
    require(equal, "the copy continues differently from the original")


def _content(optimizer: torch.optim.Optimizer) -> bytes:
    """All that a checkpoint of it holds, bit by bit."""
    file = io.BytesIO()
    torch.save(copy.deepcopy(optimizer.state_dict()), file)
    return file.getvalue()


def _must_refuse(
    optimizer: torch.optim.Optimizer, saved: dict[str, Any], what: str, name: str = ""
) -> None:
    """Loading must raise, name what is wrong, and change nothing."""
    before = _content(optimizer)
    try:
        optimizer.load_state_dict(saved)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        require(name in str(error), f"{what}: the error does not name {name}")
        require(_content(optimizer) == before, f"{what}: refused, and yet it changed")
        return
    require(False, f"{what} was loaded")


def _two_trained(subject: Subject) -> torch.optim.Optimizer:
    params = [weight(), weight(3, 5)]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    return optimizer


@STATE
def foreign_checkpoint(subject: Subject) -> None:
    """The state of another class is taken for its own, and wrecks the weights."""
    optimizer = _two_trained(subject)
    others = (torch.optim.Rprop, torch.optim.Adadelta)
    other = next(kind for kind in others if not isinstance(optimizer, kind))
    params = [weight(), weight(3, 5)]
    foreign = other(params)
    _train(foreign, params, 1)
    _must_refuse(optimizer, foreign.state_dict(), f"a checkpoint of {other.__name__}")


@STATE
def torn_checkpoint(subject: Subject) -> None:
    """What a checkpoint has lost is made up, or found out in the middle of a step."""
    optimizer = _two_trained(subject)
    saved = optimizer.state_dict()
    (first, entries), *_ = saved["state"].items()
    for name, value in entries.items():
        without = {k: x for k, x in entries.items() if k != name}
        torn = {**saved, "state": {**saved["state"], first: without}}
        _must_refuse(optimizer, torn, f"a checkpoint without one {name}", name)
        if isinstance(value, Tensor) and value.ndim:
            longer = {**entries, name: value.new_zeros(7, *value.shape)}
            torn = {**saved, "state": {**saved["state"], first: longer}}
            _must_refuse(optimizer, torn, f"one {name} of another shape", name)


@STATE
def bad_group_in_a_checkpoint(subject: Subject) -> None:
    """A hyper-parameter that no constructor takes comes in through a checkpoint."""
    optimizer = _two_trained(subject)
    saved = optimizer.state_dict()
    groups = [{**group, "lr": float("nan")} for group in saved["param_groups"]]
    _must_refuse(optimizer, {**saved, "param_groups": groups}, "a rate of NaN")


@STATE
def entry_of_the_user(subject: Subject) -> None:
    """What users or their hooks keep in the state breaks the next step."""
    params, twins = [weight(), weight(3, 5)], [weight(), weight(3, 5)]
    optimizer, plain = subject.fresh(params), subject.fresh(twins)
    note = {"name": "mine"}
    optimizer.state[params[0]]["note"] = note
    for seed in (1, 2):
        _train(optimizer, params, seed)
        _train(plain, twins, seed)
        any_key: Any = optimizer.state
        any_key["run"] = "mine"
        optimizer.state[params[1]]["seen"] = torch.ones(2)
    require(all(map(same, params, twins)), "entries of the user change the steps")
    kept = optimizer.state[params[0]].get("note")
    require(kept == note, "an entry of the user is gone after a step")
    optimizer.load_state_dict(_through_a_file(optimizer.state_dict()))
    kept = optimizer.state[params[0]].get("note")
    require(kept == note, "an entry of the user is gone after a resume")


@STATE
def separate_memory(subject: Subject) -> None:
    """Files that store every tensor apart, as safetensors does, refuse the state."""
    params = [weight(), weight(), weight(3, 5)]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    states = optimizer.state_dict()["state"]
    places = []
    for state in states.values():
        for name, x in state.items():
            if isinstance(x, Tensor) and x.numel():
                require(x.is_contiguous(), f"state {name} is not contiguous")
                start = x.data_ptr()
                places.append((start, start + x.numel() * x.element_size(), name))
    for (_, end, name), (start, _, other) in pairwise(sorted(places)):
        require(end <= start, f"state {name} and {other} share memory")


@STATE
def removed_parameter(subject: Subject) -> None:
    """A parameter that was taken out of the groups keeps its memory for ever."""
    params = [weight(), weight(), weight(3, 5)]
    optimizer = subject.on(params)
    _train(optimizer, params, 1)
    kept, gone = params[0], ref(params[1])
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is kept]
    for p in params[1:]:
        optimizer.state.pop(p, None)
    params.clear()
    del p
    _train(optimizer, [kept], 2)
    gc.collect()
    require(gone() is None, "something still holds the parameter")
