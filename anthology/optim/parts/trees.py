"""Parameters and gradients as pure optimizers take them, also ensembles of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.utils._pytree import tree_flatten, tree_unflatten

Tree = Mapping[str, Tensor] | Sequence[Tensor] | Sequence[Mapping[str, Any]]
Gradients = Mapping[str, Tensor | None] | Sequence[Tensor | None]


def listed(tree: Any) -> Any:
    """Parameters or gradients in plain dicts and lists."""
    if isinstance(tree, Mapping):
        return dict(tree)
    return [dict(x) if isinstance(x, Mapping) else x for x in tree]


def gradients(
    params: Tree, grads: Gradients, tensors: list[Tensor]
) -> list[Tensor | None]:
    """The gradients in the order of the parameters."""
    if isinstance(params, Mapping) != isinstance(grads, Mapping):
        raise ValueError(
            "params and grads must both be mappings, by name, or both be sequences"
        )
    if isinstance(params, Mapping) and isinstance(grads, Mapping):
        if strangers := sorted(set(grads) - set(params)):
            raise ValueError(f"gradients for {strangers}, which are no parameters")
        return [grads.get(name) for name in params]
    if len(grads) != len(tensors):
        raise ValueError(
            f"{len(grads)} gradients for {len(tensors)} parameters: give one each, "
            "None where there is none"
        )
    return [g for g in grads if g is None or isinstance(g, Tensor)]


def rebuilt(params: Tree, tensors: list[Tensor]) -> Any:
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


def member_by_member(call: Callable[..., Any], *arguments: Any) -> Any:
    """A function of its arguments, of an ensemble under ``vmap`` one after another."""
    # for a step reads numbers: what it skips, when it refreshes; the members have some
    leaves, shape = tree_flatten(arguments)
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    if not any(map(_in_ensemble, tensors)):
        return call(*arguments)
    made: list[Any] = []

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        filled = _filled(leaves, given)
        made[:] = tree_flatten(call(*tree_unflatten(filled, shape)))
        return tuple(x for x in made[0] if isinstance(x, Tensor))

    results: Any = _Members.apply(run, *tensors)  # type: ignore[no-untyped-call]
    return tree_unflatten(_filled(made[0], results), made[1])


def _filled(leaves: list[Any], tensors: tuple[Tensor, ...]) -> list[Any]:
    """The leaves, with other tensors for those among them."""
    left = iter(tensors)
    return [next(left) if isinstance(x, Tensor) else x for x in leaves]


def _in_ensemble(x: Tensor) -> bool:
    """Whether ``vmap`` stands around a tensor, at whatever depth."""
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


class _Members(torch.autograd.Function):
    """A function of tensors that returns a tuple of tensors."""

    @staticmethod
    def forward(run: Callable[..., Any], *tensors: Tensor) -> Any:
        return run(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        raise RuntimeError(
            "inside of vmap no derivative goes through a step; take it around vmap, "
            "as in grad(lambda lr: vmap(step)(lr, params).sum())(lr), of an optimizer "
            "with differentiable=True"
        )

    @staticmethod
    def vmap(info: Any, in_dims: Any, run: Callable[..., Any], *tensors: Tensor) -> Any:
        members = []
        for i in range(info.batch_size):
            pairs = zip(tensors, in_dims[1:], strict=True)
            own = [x if dim is None else x.select(dim, i) for x, dim in pairs]
            around = any(map(_in_ensemble, own))
            members.append(_Members.apply(run, *own) if around else run(*own))  # type: ignore[no-untyped-call]
        columns = list(zip(*members, strict=True))
        return tuple(map(torch.stack, columns)), (0,) * len(columns)
