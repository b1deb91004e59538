"""State of a parameter: in which dtype it is kept, and how it survives a resume."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .rounding import RESIDUAL, rounding_of

State = dict[str, Tensor]
NewState = Callable[[Tensor, Mapping[str, Any]], State]


class Coefficient(NamedTuple):
    """A hyper-parameter in compiled code: numbers that it reads, none that it holds.

    Attributes
    ----------
    value, rest : Tensor
        x and 1 − x, 0-d; a subtraction in single precision would round the second.
    kept : Tensor
        1 − ηx.
    weight, unroot, size : Tensor or None
        Of the β of an average at step t: 1 − βᵗ, one over its root, and η/(1 − βᵗ).
    """

    value: Tensor
    rest: Tensor
    kept: Tensor
    weight: Any = None
    unroot: Any = None
    size: Any = None


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which state is kept and rules compute: at least float32.

    Parameters
    ----------
    dtype : torch.dtype
        A parameter's dtype, real or complex.

    Returns
    -------
    torch.dtype
        float32 or complex64 for what is narrower, the dtype itself otherwise.
    """
    narrow = torch.complex64 if dtype.is_complex else torch.float32
    return torch.promote_types(dtype, narrow)


def real(x: Tensor) -> Tensor:
    """A complex tensor as pairs (real, imaginary) along a new last axis.

    Parameters
    ----------
    x : Tensor
        Any shape.

    Returns
    -------
    Tensor
        A view for a complex `x`; a real `x` itself.
    """
    return torch.view_as_real(x) if x.is_complex() else x


def fresh_state(p: Tensor, group: Mapping[str, Any], new_state: NewState) -> State:
    """The state of a parameter that has not taken a step.

    Parameters
    ----------
    p : Tensor
        The parameter.
    group : mapping
        Its group.
    new_state : callable
        The optimizer's own entries, for a real tensor.

    Returns
    -------
    dict of str to Tensor
        Those entries, complex for a complex parameter, two counters of the steps
        taken (``step``) and not taken (``skipped``), and where the rounding of a
        bfloat16 is compensated its ``residual``; all on its device.
    """
    with torch.no_grad():
        model = real(torch.empty_like(p, dtype=state_dtype(p.dtype)))
        made = new_state(model, group)
        if p.is_complex():
            made = {
                name: torch.view_as_complex(x) if _alike(x, model) else x
                for name, x in made.items()
            }
    if rounding_of(p, group) == "compensated":
        made = {**made, RESIDUAL: torch.zeros_like(p, requires_grad=False)}
    counter = torch.zeros((), dtype=torch.float32, device=p.device)
    return {"step": counter, "skipped": counter.clone(), **made}


class StateKeeper(Protocol):
    """What a batch asks of its optimizer."""

    state: Any

    @property
    def zero_is_none(self) -> bool: ...

    def state_of(self, p: Tensor, group: Mapping[str, Any]) -> State: ...

    def gradient_limit(self, grad: Tensor, group: Mapping[str, Any]) -> float: ...


def states_of(
    optimizer: StateKeeper, tensors: list[Tensor], group: Mapping[str, Any]
) -> list[State]:
    """The states of tensors of a group, each made at the first call.

    Parameters
    ----------
    optimizer : BaseOptimizer
        Where its ``entries`` says what a state holds, it is asked only for those that
        lack some of it: hundreds of questions take as long as the step of as many
        small tensors.
    tensors : list of Tensor
        Parameters of that optimizer.
    group : mapping
        Their group.

    Returns
    -------
    list of dict
        What ``state_of`` returns for each.
    """
    entries = getattr(optimizer, "entries", None)
    needed = entries(group) if entries is not None else None
    if needed is not None:
        states = [optimizer.state[p] for p in tensors]
        if all(needed <= set(names) for names in {tuple(state) for state in states}):
            return states
    return [optimizer.state_of(p, group) for p in tensors]


def advance(counters: list[Tensor]) -> None:
    """Add one to counters on a CPU.

    A plain number, or a tensor without the factor, would be made anew for each.

    Parameters
    ----------
    counters : list of Tensor
        0-d, written in place.
    """
    torch._foreach_add_(counters, torch.ones(()), alpha=1.0)


def _alike(x: Tensor, model: Tensor) -> bool:
    return x.shape == model.shape and x.dtype == model.dtype


def tensors_of(state: Mapping[str, Any]) -> State:
    """The entries of a state that are tensors: others are a user's own.

    Parameters
    ----------
    state : mapping
        Of one parameter.

    Returns
    -------
    dict of str to Tensor
        Not copied.
    """
    return {name: x for name, x in state.items() if isinstance(x, Tensor)}


def restored_state(saved: Mapping[str, Any], fresh: State) -> State:
    """A state from a checkpoint in the dtypes and on the devices of a fresh one.

    Parameters
    ----------
    saved : mapping
        The entries of one parameter, as stored.
    fresh : dict of str to Tensor
        What `fresh_state` makes for that parameter.

    Returns
    -------
    dict of str to Tensor
        Copies of what was saved; what was not is as in `fresh`.
    """
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
