"""Parameters and gradients in the forms that pure optimizers take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

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
