"""Every optimizer as a pair of pure functions.

An optimizer of this package is an object that writes into parameters. Here each one
is a pair instead: ``init`` makes a state, ``update`` takes parameters, gradients and
a state and returns new ones, and neither changes what it was given. With
``torch.func`` and with search over hyper-parameters that is the handier form; with
``differentiable=True`` the whole step is a node of the graph, for gradients with
respect to a learning rate or a starting point.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .adam import Adam, AdamW
from .core.base import BaseOptimizer
from .escape import FreeSteepestDescent
from .kradagrad import KrADagrad
from .lion import Lion, Signum
from .muon import Muon
from .prodigy import Prodigy
from .root_free import RootFreeAdamW, RootFreeRMSProp
from .scion import Scion
from .sgd import SGD
from .shampoo import Shampoo
from .sirf_shampoo import SIRFShampoo
from .soap import SOAP
from .steepest import SteepestDescent

Tree = Mapping[str, Tensor] | Sequence[Tensor] | Sequence[Mapping[str, Any]]
Gradients = Mapping[str, Tensor | None] | Sequence[Tensor | None]
PureState = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class PureOptimizer:
    """An optimizer as two functions without side effects.

    Parameters
    ----------
    rule : type
        A class of ``anthology.optim``: its `single` and `multi` are what runs.
    hyperparameters : dict
        Arguments of its constructor.

    Notes
    -----
    Each call makes an optimizer and copies parameters and state, which costs a
    pass over both: in a training loop without need for purity take the class.
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
        optimizer, tensors = self._optimizer(params)
        optimizer.create_state()
        return _state(optimizer, tensors)

    def update(
        self, params: Tree, grads: Gradients, state: PureState, **changes: Any
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
        optimizer, tensors = self._optimizer(params)
        if len(state["state"]) != len(tensors):
            raise ValueError(
                f"the state is one of {len(state['state'])} parameters, but there "
                f"are {len(tensors)}: make it with init(params)"
            )
        unknown = set(changes) - set(optimizer.defaults)
        if unknown:
            raise ValueError(
                f"{self.rule.__name__} has no hyper-parameter {sorted(unknown)}; "
                f"it has {sorted(optimizer.defaults)}"
            )
        for group, kept in zip(optimizer.param_groups, state["groups"], strict=True):
            group.update({**kept, **changes})
            optimizer.check(group)
        for p, kept, g in zip(
            tensors, state["state"], _gradients(params, grads, tensors), strict=True
        ):
            optimizer.state[p].update(
                {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
            )
            p.grad = g
        optimizer.step()
        for p in tensors:
            p.grad = None
        return _rebuilt(params, tensors), _state(optimizer, tensors)

    def _optimizer(self, params: Tree) -> tuple[BaseOptimizer, list[Tensor]]:
        """An optimizer of copies of the parameters, and those, in their order."""
        through = bool(self.hyperparameters.get("differentiable"))

        def copied(p: Tensor) -> Tensor:
            return p.clone() if through else p.detach().clone()

        if isinstance(params, Mapping):
            named = [(name, copied(p)) for name, p in params.items()]
            return self._made(named), [p for _, p in named]
        if all(isinstance(p, Tensor) for p in params):
            tensors = [copied(p) for p in params if isinstance(p, Tensor)]
            return self._made(tensors), tensors
        groups = [
            {**g, "params": [copied(p) for p in g["params"]]}
            for g in params
            if isinstance(g, Mapping)
        ]
        return self._made(groups), [p for g in groups for p in g["params"]]

    def _made(self, params: Any) -> BaseOptimizer:
        make: Callable[..., BaseOptimizer] = self.rule
        with torch.no_grad():
            return make(params, **self.hyperparameters)


def _state(optimizer: BaseOptimizer, tensors: list[Tensor]) -> PureState:
    given = {"params", "param_names", *optimizer.defaults}
    groups = [
        {k: v for k, v in group.items() if k not in given}
        for group in optimizer.param_groups
    ]
    return {"state": [dict(optimizer.state[p]) for p in tensors], "groups": groups}


def _gradients(
    params: Tree, grads: Gradients, tensors: list[Tensor]
) -> list[Tensor | None]:
    """The gradients in the order of the parameters."""
    if isinstance(params, Mapping) != isinstance(grads, Mapping):
        raise ValueError(
            "params and grads must both be mappings, by name, or both be sequences"
        )
    if isinstance(params, Mapping) and isinstance(grads, Mapping):
        if set(grads) - set(params):
            strangers = sorted(set(grads) - set(params))
            raise ValueError(f"gradients for {strangers}, which are no parameters")
        return [grads.get(name) for name in params]
    listed = list(grads)
    if len(listed) != len(tensors):
        raise ValueError(
            f"{len(listed)} gradients for {len(tensors)} parameters: give one each, "
            "None where there is none"
        )
    return [g for g in listed if g is None or isinstance(g, Tensor)]


def _rebuilt(params: Tree, tensors: list[Tensor]) -> Any:
    """The tensors in the form in which the parameters came."""
    if isinstance(params, Mapping):
        return dict(zip(params, tensors, strict=True))
    if all(isinstance(p, Tensor) for p in params):
        return tensors
    left = iter(tensors)
    return [
        {**g, "params": [next(left) for _ in g["params"]]}
        for g in params
        if isinstance(g, Mapping)
    ]


def _pure(name: str, rule: type[BaseOptimizer]) -> Callable[..., PureOptimizer]:
    def form(**hyperparameters: Any) -> PureOptimizer:
        return PureOptimizer(rule, hyperparameters)

    form.__doc__ = f"`{rule.__name__}` as pure functions; arguments as for the class."
    form.__name__ = form.__qualname__ = name
    return form


steepest_descent = _pure("steepest_descent", SteepestDescent)
free_steepest_descent = _pure("free_steepest_descent", FreeSteepestDescent)
sgd = _pure("sgd", SGD)
signum = _pure("signum", Signum)
lion = _pure("lion", Lion)
adam = _pure("adam", Adam)
adamw = _pure("adamw", AdamW)
shampoo = _pure("shampoo", Shampoo)
soap = _pure("soap", SOAP)
kradagrad = _pure("kradagrad", KrADagrad)
muon = _pure("muon", Muon)
scion = _pure("scion", Scion)
prodigy = _pure("prodigy", Prodigy)
root_free_rmsprop = _pure("root_free_rmsprop", RootFreeRMSProp)
root_free_adamw = _pure("root_free_adamw", RootFreeAdamW)
sirf_shampoo = _pure("sirf_shampoo", SIRFShampoo)
