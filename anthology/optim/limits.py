"""Flags, and hyper-parameters refused in the words of `torch.optim`, NaN included."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

# The flags of torch.optim that the shared base serves, all off.
FLAGS: dict[str, Any] = {
    "foreach": None,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
}


def at_least_zero(what: str, value: Any) -> None:
    """Refuse a hyper-parameter that is negative, infinite or NaN.

    Parameters
    ----------
    what : str
        Its name in the message.
    value : float or Tensor
        Its value.

    Raises
    ------
    ValueError
        ``Invalid learning rate: -1.0`` and the like.
    """
    if not 0.0 <= value < math.inf:
        raise ValueError(f"Invalid {what}: {value}")


def below_one(what: str, value: Any) -> None:
    """Refuse the coefficient of an average that is not in [0, 1).

    Parameters
    ----------
    what : str
        Its name in the message.
    value : float
        Its value.

    Raises
    ------
    ValueError
        ``Invalid momentum value: 1.0`` and the like.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"Invalid {what}: {value}")


def check_betas(betas: Sequence[float]) -> None:
    """Refuse β₁, β₂ that are not two plain numbers in [0, 1).

    Parameters
    ----------
    betas : sequence of float
        β₁ and β₂.

    Raises
    ------
    ValueError
        If there are not two, or one is out of range or a tensor.
    """
    if len(betas) != 2:
        raise ValueError(f"Invalid betas: {betas}; there must be two")
    for index, beta in enumerate(betas):
        if isinstance(beta, Tensor):
            text = f"betas[{index}] is a tensor; betas must be floats"
            raise ValueError(text)  # noqa: TRY004 - the type torch.optim raises
        below_one(f"beta parameter at index {index}", beta)


def one_of(what: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse a value that is not on the list.

    Parameters
    ----------
    what : str
        Its name in the message.
    value : object
        What was given.
    allowed : sequence of str
        What would be right.

    Raises
    ------
    ValueError
        Naming both.
    """
    if value not in allowed:
        options = " or ".join(repr(option) for option in allowed)
        raise ValueError(f"Invalid {what}: {value!r}; it must be {options}")
