"""What predictions along a symmetry ask of their arguments."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor

from anthology.motion._arguments import (
    require_count,
    require_learning_rate,
    require_nonnegative,
)

Number: TypeAlias = float | Tensor


def step_decay(lr: float, decay: float) -> float:
    require_learning_rate(lr)
    require_nonnegative("decay", decay)
    return lr * decay


def positive_decay(lr: float, decay: float) -> float:
    product = step_decay(lr, decay)
    if product == 0:
        raise ValueError(
            f"decay must be positive, got {decay}: without decay nothing balances"
        )
    return product


def require_below(product: float, limit: float, why: str) -> None:
    if not product < limit:
        raise ValueError(f"lr·decay must be below {limit:.6g}, got {product}: {why}")


def require_order(order: Any, most: int) -> None:
    require_count("order", order, 1)
    if order > most:
        raise ValueError(f"order must be at most {most}, got {order}")


def require_numbers(**values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
            raise TypeError(
                f"{name} must be a number or a Tensor, got {type(value).__name__}"
            )
