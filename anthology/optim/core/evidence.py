"""Whether a gradient says anything: one of zeros does not, for some rules."""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def nonzero_flags(grads: list[Tensor]) -> list[Tensor]:
    """Whether each gradient has an entry that is not zero; nothing is read back."""
    largest = torch.stack(torch._foreach_norm(grads, ord=math.inf))
    return list((largest != 0).unbind())
