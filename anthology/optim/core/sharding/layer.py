"""What is a DTensor, and the layer for an optimizer that has some, imported then."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def is_sharded(p: Any) -> bool:
    """Whether a tensor is a DTensor; does not import what makes them."""
    if type(p) in (Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(p, module.DTensor)


def shards_of(optimizer: Any) -> Any:
    """The layer for DTensors, made when the first is met; None without any."""
    groups = optimizer.param_groups
    if optimizer._shards is None and any(
        is_sharded(p) for g in groups for p in g["params"]
    ):
        from .shards import Shards

        optimizer._shards = Shards(optimizer)
    return optimizer._shards


def whole(x: Tensor) -> Tensor:
    """A copy of a tensor without its history; of a DTensor all of it."""
    found: Any = x.detach()
    found = found.full_tensor() if is_sharded(x) else found
    copied: Tensor = found.clone()
    return copied


def whole_state(
    optimizer: torch.optim.Optimizer, p: Tensor, group: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The averages of a parameter, put together if it is a DTensor."""
    state: Mapping[str, Any] = optimizer.state.get(p, {})
    if not is_sharded(p):
        return state
    names = ("momentum_buffer", "exp_avg")
    kept = {name: x for name, x in state.items() if name in names}
    if (shards := getattr(optimizer, "_shards", None)) is not None:
        from .checkpoint import told

        kept = told(shards, p, group, kept)
    return {name: whole(x) for name, x in kept.items()}
