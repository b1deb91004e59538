"""Checkpoints, copies, and the dtype of what is averaged."""

from __future__ import annotations

import copy
import io
from typing import Any

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
    p = weight()
    optimizer = subject.on([p])
    _train(optimizer, [p], 1)
    copied = copy.deepcopy(optimizer)
    twin = copied.param_groups[0]["params"][0]
    require(twin is not p, "the copy holds the original's parameter")
    before = p.detach().clone()
    _train(copied, [twin], 2)
    require(same(p, before), "a step of the copy moved the original")
    _train(optimizer, [p], 2)
    require(same(p, twin), "the copy continues differently from the original")
