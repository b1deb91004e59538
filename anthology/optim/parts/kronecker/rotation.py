"""A tensor in the basis that its state keeps, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core.state import State, real

from .blocks import multiply

# The average of the gradient in the basis. To turn it there and back when that changes
# costs less than to turn it at every step, if it changes rarely.
ROTATED = "exp_avg_rotated"


def rotated(x: Tensor, group: Mapping[str, Any]) -> list[int]:
    """The axes of one tensor that have a basis."""
    if x.ndim == 1 and group["vectors"] == "diagonal":
        return []
    return [axis for axis, d in enumerate(x.shape) if d <= group["max_dim"]]


def average_of(axes: list[int], group: Mapping[str, Any]) -> str:
    """What the average of the gradient is called, by how it is kept."""
    return ROTATED if axes and group["refresh"] > 2 else "exp_avg"


def turned(x: Tensor, state: State, *, back: bool = False) -> Tensor:
    """Turn a tensor along each axis that has a basis."""
    y = real(x)[None]
    for name, basis in state.items():
        if name.startswith("basis_"):
            square = real(basis)[None]
            axis = int(name.removeprefix("basis_"))
            y = multiply(y, square if back else square.mT, axis, y.ndim - 1)
    y = y[0].contiguous()
    return torch.view_as_complex(y) if x.is_complex() else y
