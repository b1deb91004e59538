"""What the methods that learn a diagonal curvature S share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from anthology.optim.core.base import BaseOptimizer
from anthology.optim.core.limits import at_least_zero, check_terms
from anthology.optim.core.state import State


class _RootFree(BaseOptimizer):
    """What both share: S starts at one and gathers B·g²."""

    _buffer: ClassVar[str]
    zero_is_none = True

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        at_least_zero("epsilon value", group["eps"])
        check_terms(group)

    def new_state(self, param: Tensor, group: Mapping[str, Any]) -> State:
        """Zeros for the averaged step, ones for ``exp_avg_sq`` (S)."""
        zeros, ones = torch.zeros_like(param), torch.ones_like(param)
        return {self._buffer: zeros, "exp_avg_sq": ones}

    def gradient_limit(self, grad: Tensor, group: Mapping[str, Any]) -> float:
        """The largest gradient for which B·g² is finite."""
        return math.sqrt(torch.finfo(grad.dtype).max / group["batch_size"])
