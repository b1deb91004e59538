"""Flags, and hyper-parameters refused in the words of `torch.optim`, NaN included."""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

# The flags of torch.optim that the shared base serves, all off.
FLAGS: dict[str, Any] = {
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "rounding": "nearest",
    "decay": "plain",
    "max_lr": None,
}


def renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A group whose ``step`` is ``step_rule``: others count steps under that name."""
    if not isinstance(group.get("step"), str):
        return group
    others = {name: value for name, value in group.items() if name != "step"}
    return {**others, "step_rule": group["step"]}


def number(what: str, value: Any) -> Any:
    """Refuse what is not a number, such as the text that YAML makes of 1e-3."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"Invalid {what}: {value!r}; it must be a number")
    return value


def at_least_zero(what: str, value: Any) -> None:
    """Refuse a hyper-parameter that is negative, infinite or NaN."""
    if not 0.0 <= number(what, value) < math.inf:
        raise ValueError(f"Invalid {what}: {value}; it must be finite and at least 0")


def below_one(what: str, value: Any) -> None:
    """Refuse the coefficient of an average that is not in [0, 1)."""
    if not 0.0 <= number(what, value) < 1.0:
        raise ValueError(f"Invalid {what}: {value}; it must be in [0, 1)")


def check_betas(betas: Sequence[float], sums: bool = False) -> None:
    """Refuse β₁, β₂ that are not two plain numbers in [0, 1); of `sums` β₂ may be 1."""
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas}; there must be two")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor):
            text = f"betas[{index}] is a tensor; betas must be floats"
            raise ValueError(text)  # noqa: TRY004 - the type torch.optim raises
        if not (sums and index == 1 and beta == 1):
            below_one(f"beta parameter at index {index}", beta)


def one_of(what: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse a value that is not on the list."""
    if value not in allowed:
        options = " or ".join(repr(option) for option in allowed)
        raise ValueError(f"Invalid {what}: {value!r}; it must be {options}")


def positive_integer(what: str, value: Any) -> None:
    """Refuse what does not count: 0, 1.5, True."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Invalid {what}: {value!r}; it must be a positive integer")


def check_nesterov(group: Mapping[str, Any]) -> None:
    """Refuse a look-ahead along a momentum that is not kept."""
    if group["nesterov"] and not group["momentum"]:
        raise ValueError("nesterov=True needs a momentum above zero")


def check_terms(group: Mapping[str, Any]) -> None:
    """Refuse a ``batch_size`` that is no number of terms."""
    terms = number("batch_size", group["batch_size"])
    if not 1 <= terms < math.inf:
        raise ValueError(
            f"Invalid batch_size: {terms}; it is the number of terms that the "
            "loss averages over (tokens if it averages over tokens), 1 for a sum"
        )
