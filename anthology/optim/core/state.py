"""State of a parameter: in which dtype it is kept, and how it survives a resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .rounding import RESIDUAL, rounding_of

State = dict[str, Tensor]
States = list[State]
Tensors = list[Tensor]
Group = Mapping[str, Any]
NewState = Callable[[Tensor, Group], State]


class Coefficient(NamedTuple):
    """A hyper-parameter in compiled code: numbers that it reads, none that it holds."""

    value: Tensor
    rest: Tensor
    kept: Tensor
    weight: Any = None
    unroot: Any = None
    size: Any = None


@cache
def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which state is kept and rules compute: at least float32."""
    narrow = torch.complex64 if dtype.is_complex else torch.float32
    return torch.promote_types(dtype, narrow)


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs (real, imaginary) along a new last axis."""
    return torch.view_as_real(x) if x.is_complex() else x


def no_state(param: Tensor, group: Group) -> State:
    """The state of a rule without averages: nothing."""
    return {}


def fresh_state(p: Tensor, group: Mapping[str, Any], new_state: NewState) -> State:
    """The state of a parameter that has not taken a step."""
    with torch.no_grad():
        model = real(torch.empty_like(p, dtype=state_dtype(p.dtype)))
        made = new_state(model, group)
        if p.is_complex():
            for name, x in made.items():
                if (x.shape, x.dtype) == (model.shape, model.dtype):
                    made[name] = torch.view_as_complex(x)
    if rounding_of(p, group) == "compensated":
        made = {**made, RESIDUAL: torch.zeros_like(p, requires_grad=False)}
    counter = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": counter, "skipped": counter.clone(), **made}


def tensors_of(state: Mapping[str, Any]) -> State:
    """The entries of a state that are tensors: others are a user's own."""
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def restored_state(saved: Mapping[str, Any], fresh: State) -> State:
    """A state from a checkpoint in the dtypes and on the devices of a fresh one."""
    state = dict(fresh)
    for name, value in saved.items():
        like = fresh.get(name, fresh["step"])
        if isinstance(value, Tensor) or name in fresh:
            value = torch.as_tensor(value)
            dtype = like.dtype if name in fresh else value.dtype
            value = value.detach().to(like.device, dtype, copy=True)
            if name in fresh and not like.ndim:
                value = value.reshape(())
        else:
            value = deepcopy(value)
        state[name] = value
    return state
