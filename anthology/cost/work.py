"""What one parameter costs in one step, whatever the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Work:
    """The least that a rule must keep, move and multiply for one tensor.

    Attributes
    ----------
    state : float
        Numbers kept between steps, counters not included.
    state_moved : float, optional
        Numbers of the state read or written in a step. Default None: each is read
        and written once.
    grad_reads : float
        How often the gradient is read. Default 1.
    param_moves : float
        How often the parameter is read or written. Default 2.
    flops : float
        Operations of matrix products. Default 0.
    products : str, optional
        Dtype of these products. Default None: that of the state.
    """

    state: float
    state_moved: float | None = None
    grad_reads: float = 1.0
    param_moves: float = 2.0
    flops: float = 0.0
    products: str | None = None


@dataclass(frozen=True)
class Subject:
    """One parameter as the table of costs sees it.

    Attributes
    ----------
    shape : tuple of int
        Of the real tensor that the rule sees: a complex one has pairs.
    dtype : torch.dtype
        In which the rule computes.
    group : mapping
        The parameter's group.
    kept : mapping
        Shapes of the state by name, where the optimizer can tell (`new_state`).
    symmetric : bool
        Whether symmetric products count half.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    group: Mapping[str, Any]
    kept: Shapes
    symmetric: bool

    @property
    def numbers(self) -> int:
        """How many there are in the parameter."""
        found = 1
        for d in self.shape:
            found *= d
        return found

    def named(self, prefix: str) -> list[tuple[int, ...]]:
        """Shapes of the state whose names are the prefix and numbers.

        Parameters
        ----------
        prefix : str
            For example ``"factor_"``.

        Returns
        -------
        list of tuple of int
            In the order of the state.
        """
        digits = str.maketrans("", "", "0123456789_")
        return [
            shape
            for name, shape in self.kept.items()
            if name.startswith(prefix) and not name[len(prefix) :].translate(digits)
        ]
