"""Functions of nested tensors under ``torch.func.vmap``: one member after another.

A step reads numbers: what it skips, when it refreshes. A transformed tensor has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.utils._pytree import tree_flatten, tree_unflatten


def member_by_member(call: Callable[..., Any], *arguments: Any) -> Any:
    """A function of its arguments, also where ``vmap`` has made an ensemble of them."""
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
