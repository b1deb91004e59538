"""What the functions of `anthology.motion` ask of their arguments, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Field: TypeAlias = Callable[[Tensor], Tensor]


def demand(**arguments: Any) -> None:
    """Refuse an argument that is not what its name stands for in this package."""
    for name, value in arguments.items():
        check, *details = _ASKED[name]
        check(name, value, *details)


def require_kind(name: str, value: Any, what: str, kind: Any = Callable) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {what}, got {type(value).__name__}")


def require_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def require_number(
    name: str, value: Any, holds: Callable[[Any], bool], what: str
) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a float, got {type(value).__name__}")
    if not holds(value):
        raise ValueError(f"{name} must be {what}, got {value}")


def require_one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def require_one_device(tensors: Iterable[Tensor]) -> None:
    devices = sorted({str(x.device) for x in tensors})
    if len(devices) > 1:
        raise ValueError(f"parameters are on several devices: {devices}")


def require_float64(name: str, w: Any, reason: str) -> None:
    _point(name, w)
    if w.dtype != torch.float64:
        raise TypeError(
            f"{name} must be float64, got {w.dtype}: {reason}; "
            f"convert it with {name}.double()"
        )


def _learning_rate(name: str, lr: Any) -> None:
    require_number(name, lr, lambda x: True, "")
    if not 0 < lr < math.inf:
        raise ValueError(f"Invalid learning rate: {lr} (must be positive and finite)")


def _number_or_tensor(name: str, value: Any) -> None:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a number or a Tensor, got bool")
    require_kind(name, value, "a number or a Tensor", int | float | Tensor)


def _point(name: str, w: Any) -> None:
    require_kind(name, w, "a Tensor", Tensor)
    if not w.dtype.is_floating_point:
        raise TypeError(f"{name} must be real floating point, got {w.dtype}")


FRACTION = (lambda x: 0 <= x < 1, "at least 0 and below 1")
_SIZE = (lambda x: 0 <= x < math.inf, "at least 0 and finite")
_SQUARES = ("square", "gradient_square", "slope", "time", "bend")
_SOLVERS = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun")
_OF_TENSOR = (require_kind, "a function of a Tensor")
_ASKED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("gradient", "displacement", "direction", "velocity"), _OF_TENSOR),
    "step": (require_kind, "a function from a point to the next"),
    "f": (require_kind, "a loss, a function of a Tensor"),
    "penalty": (require_kind, "a Norm or a function of the gradient"),
    "loss": (require_kind, "a function of the model"),
    "closure": (require_kind, "a function that computes gradients"),
    "model": (require_kind, "a torch.nn.Module", nn.Module),
    "optimizer": (require_kind, "a torch.optim.Optimizer", torch.optim.Optimizer),
    **dict.fromkeys(("w", "g"), (_point,)),
    "w0": (require_float64, "float32 would hide differences below 1e-6"),
    "lr": (_learning_rate,),
    "momentum": (require_number, *FRACTION),
    **dict.fromkeys(("decay", "eps"), (require_number, *_SIZE)),
    **dict.fromkeys(_SQUARES, (_number_or_tensor,)),
    "method": (require_one_of, ("series", "differences")),
    "point": (require_one_of, ("lookahead", "iterate")),
    "solver": (require_one_of, _SOLVERS),
    "count": (require_count, 0),
    **dict.fromkeys(("order", "steps", "max_evaluations"), (require_count, 1)),
}


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
