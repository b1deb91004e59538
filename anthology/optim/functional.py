"""Every optimizer as a pair of pure functions.

An optimizer of this package is an object that writes into parameters. Here each one
is a pair instead: ``init`` makes a state, ``update`` takes parameters, gradients and
a state and returns new ones, and neither changes what it was given. With
``torch.func`` and with search over hyper-parameters that is the handier form; with
``differentiable=True`` the whole step is a node of the graph, for gradients with
respect to a learning rate or a starting point. Under ``vmap`` over parameters,
gradients, states or rates every member of the ensemble takes the step it would take
alone, one after another: that is as exact as a loop, and no faster.

>>> import torch
>>> from anthology.optim import functional
>>> adam = functional.adam(lr=0.1)
>>> params = {"w": torch.tensor([1.0, -2.0])}
>>> state = adam.init(params)
>>> new, state = adam.update(params, {"w": torch.tensor([3.0, -0.5])}, state)
>>> new["w"], params["w"]
(tensor([ 0.9000, -1.9000]), tensor([ 1., -2.]))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .core.base import BaseOptimizer
from .core.limits import renamed
from .parts.trees import (
    Gradients,
    Tree,
    gradients,
    listed,
    member_by_member,
    rebuilt,
)

PureState = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class PureOptimizer:
    """An optimizer as two functions without side effects.

    Parameters
    ----------
    rule : type
        A class of ``anthology.optim``; what runs is its rule.
    hyperparameters : dict
        Arguments of its constructor.

    Notes
    -----
    Each call copies parameters and state, which costs a pass over both: in a training
    loop without need for purity take the class.

    Both may stand under ``vmap``, also with ``grad`` of a loss inside. A derivative
    through the step itself is taken around ``vmap``.
    """

    rule: type[BaseOptimizer]
    hyperparameters: dict[str, Any]

    def init(self, params: Tree) -> PureState:
        """The state before the first step.

        Parameters
        ----------
        params : mapping, or sequence of Tensor, or sequence of groups
            By name, as ``dict(model.named_parameters())``; or a list; or groups
            such as those of ``metrize(model)``.

        Returns
        -------
        dict
            ``"state"``, a dict of tensors for each parameter, and ``"groups"``, what
            each group counts. To be handed on, not to be edited.
        """
        made: PureState = member_by_member(
            _made_state, self.rule, self.hyperparameters, listed(params)
        )
        return made

    def update(
        self,
        params: Tree,
        grads: Gradients,
        state: PureState,
        *,
        loss: float | Tensor | None = None,
        **changes: Any,
    ) -> tuple[Any, PureState]:
        """One step.

        Parameters
        ----------
        params : mapping or sequence
            As for `init`.
        grads : mapping or sequence
            A gradient for each parameter in the same order, or under the same name;
            None leaves its parameter alone.
        state : dict
            From `init` or the last `update`.
        loss : float or Tensor, optional
            The loss at `params`, for rules that ask for it: ``step="polyak"``.
        **changes
            Hyper-parameters that differ in this step, in every group, such as the
            ``lr`` of a schedule.

        Returns
        -------
        tuple
            New parameters, built like `params`, and the new state.

        Raises
        ------
        ValueError
            If gradients or state do not fit the parameters, or a hyper-parameter is
            out of range.
        """
        given = (self.rule, self.hyperparameters, listed(params), listed(grads))
        new: tuple[Any, PureState] = member_by_member(
            _updated, *given, state, loss, changes
        )
        return new


def _made_state(rule: Any, hyperparameters: dict[str, Any], params: Any) -> PureState:
    optimizer, tensors = _held(rule, hyperparameters, params)
    optimizer.create_state()
    groups: list[dict[str, Any]] = [{} for _ in optimizer.param_groups]
    return {"state": [dict(optimizer.state[p]) for p in tensors], "groups": groups}


def _updated(
    rule: Any,
    hyperparameters: dict[str, Any],
    params: Any,
    grads: Any,
    state: PureState,
    loss: float | Tensor | None,
    changes: dict[str, Any],
) -> tuple[Any, PureState]:
    """One step; see `PureOptimizer.update`."""
    optimizer, tensors = _held(rule, hyperparameters, params)
    changes = renamed(changes)
    if len(state["state"]) != len(tensors):
        raise ValueError(
            f"the state is one of {len(state['state'])} parameters, but there "
            f"are {len(tensors)}: make it with init(params)"
        )
    if unknown := set(changes) - set(optimizer.defaults):
        raise ValueError(
            f"{rule.__name__} has no hyper-parameter {sorted(unknown)}; "
            f"it has {sorted(optimizer.defaults)}"
        )
    counted = [_copied(kept) for kept in state["groups"]]
    for group, kept in zip(optimizer.param_groups, counted, strict=True):
        group.update({k: _as_in(group, k, v) for k, v in kept.items()} | changes)
        optimizer.check(group)
    before = [dict(group) for group in optimizer.param_groups]
    found = gradients(params, grads, tensors)
    for p, own, g in zip(tensors, state["state"], found, strict=True):
        optimizer.state[p].update(_copied(own))
        p.grad = g
    optimizer.step(None if loss is None else lambda: loss)
    for p in tensors:
        p.grad = None
    for kept, group, old in zip(counted, optimizer.param_groups, before, strict=True):
        new = {k: v for k, v in group.items() if v is not old.get(k)}
        # an ensemble hands on tensors alone
        kept |= {k: _as_tensor(v) for k, v in new.items()}
    states = [dict(optimizer.state[p]) for p in tensors]
    return rebuilt(params, tensors), {"state": states, "groups": counted}


def _as_tensor(value: Any) -> Tensor:
    """What a group counts; a number keeps all its digits."""
    wide = torch.float64 if isinstance(value, float) else None
    return torch.as_tensor(value, dtype=wide)


def _as_in(group: dict[str, Any], name: str, value: Tensor) -> Any:
    """What a group counts, as it keeps it: a number or a tensor."""
    return value if isinstance(group.get(name), Tensor | None) else value.item()


def _copied(kept: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}


def _held(
    rule: Any, hyperparameters: dict[str, Any], params: Any
) -> tuple[BaseOptimizer, list[Tensor]]:
    """Rules and groups over copies of the parameters, and those, in their order."""
    tensors: list[Tensor] = []

    def copied(p: Tensor) -> Tensor:
        through = bool(hyperparameters.get("differentiable"))
        tensors.append((p if through else p.detach()).clone())
        return tensors[-1]

    given: list[Any]
    if isinstance(params, dict):
        given = [(name, copied(p)) for name, p in params.items()]
    elif all(isinstance(p, Tensor) for p in params):
        given = [copied(p) for p in params]
    else:
        given = [{**g, "params": [copied(p) for p in g["params"]]} for g in params]
    with torch.no_grad():
        return rule(given, **hyperparameters), tensors


def _pure(name: str, rule: type[BaseOptimizer]) -> Callable[..., PureOptimizer]:
    taken = list(signature(rule).parameters.values())[1:]  # all but the parameters
    known = [x.name for x in taken]
    needed = [x.name for x in taken if x.default is Parameter.empty]

    def form(*values: Any, **hyperparameters: Any) -> PureOptimizer:
        unknown = [key for key in hyperparameters if key not in known]
        missing = [key for key in needed if key not in hyperparameters]
        if values:
            text = (
                f"takes hyper-parameters only, by name, but got {len(values)} "
                f"value{'s' * (len(values) > 1)} without; parameters are for init(params)"
            )
        elif unknown:
            text = f"has no argument {', '.join(map(repr, unknown))}"
        elif missing:
            text = f"needs {', '.join(f'{key}=...' for key in missing)}"
        else:
            return PureOptimizer(rule, hyperparameters)
        raise TypeError(f"{name} {text}; its arguments are {', '.join(known)}")

    form.__doc__ = f"`{rule.__name__}` as pure functions; arguments as for the class."
    form.__name__ = form.__qualname__ = name
    by_name = [x.replace(kind=Parameter.KEYWORD_ONLY) for x in taken]
    form.__signature__ = Signature(by_name)  # type: ignore[attr-defined]
    return form


def _pure_name(rule: type[BaseOptimizer]) -> str:
    """The name of a class in the style of functions."""
    irregular = {"SIRFShampoo": "sirf_shampoo", "RootFreeRMSProp": "root_free_rmsprop"}
    words = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", rule.__name__).lower()
    return irregular.get(rule.__name__, words)


def _public(kind: type[BaseOptimizer]) -> Iterator[type[BaseOptimizer]]:
    """The classes of this package with a card of their own."""
    for rule in kind.__subclasses__():
        if "card" in vars(rule):
            yield rule
        yield from _public(rule)


globals().update(
    {_pure_name(r): _pure(_pure_name(r), r) for r in _public(BaseOptimizer)}
)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., PureOptimizer]: ...
