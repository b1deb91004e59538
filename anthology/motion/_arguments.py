"""What every function of `anthology.motion` asks of its arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Field: TypeAlias = Callable[[Tensor], Tensor]


def require_callable(name: str, value: Any, what: str) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be {what}, got {type(value).__name__}")


def require_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_learning_rate(lr: Any) -> None:
    if not isinstance(lr, int | float) or isinstance(lr, bool):
        raise TypeError(f"lr must be a float, got {type(lr).__name__}")
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"Invalid learning rate: {lr} (must be positive and finite)")


def require_number(name: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")


def require_fraction(name: str, value: Any) -> None:
    require_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def require_nonnegative(name: str, value: Any) -> None:
    require_number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def require_point(name: str, w: Any) -> None:
    if not isinstance(w, Tensor):
        raise TypeError(f"{name} must be a Tensor, got {type(w).__name__}")
    if not w.dtype.is_floating_point:
        raise TypeError(f"{name} must be real floating point, got {w.dtype}")


def require_float64(name: str, w: Any, reason: str) -> None:
    require_point(name, w)
    if w.dtype != torch.float64:
        raise TypeError(
            f"{name} must be float64, got {w.dtype}: {reason}; "
            f"convert it with {name}.double()"
        )


def evaluated(name: str, function: Field, w: Tensor) -> Tensor:
    """``function(w)``, refused unless it is a tensor like ``w``."""
    value = function(w)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must return a Tensor of the shape of its argument, "
            f"got {type(value).__name__}"
        )
    if value.shape != w.shape or value.dtype != w.dtype:
        raise ValueError(
            f"{name} must return shape {tuple(w.shape)} and {w.dtype} like its "
            f"argument, got shape {tuple(value.shape)} and {value.dtype}"
        )
    return value
