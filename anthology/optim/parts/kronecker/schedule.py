"""Which axes of a tensor have inverted factors, and which of these a step updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .blocks import Block, cut


def blocks_of(x: Tensor, group: Mapping[str, Any]) -> list[tuple[str, Block]]:
    """The blocks of one tensor, and what their factors are called by."""
    if not group["block_size"] or not axes_of(x, {**group, "max_dim": math.inf}):
        return [("", (slice(None),) * x.ndim)]
    found = cut(tuple(x.shape), group["block_size"])
    return [(f"{b}_" if len(found) > 1 else "", block) for b, block in enumerate(found)]


def axes_of(x: Tensor, group: Mapping[str, Any]) -> list[int]:
    """The axes of one tensor that have a factor."""
    if x.ndim == 1 and group["vectors"] == "none":
        return []
    return [axis for axis, d in enumerate(x.shape) if d <= group["max_dim"]]


def power_of(x: Tensor, group: Mapping[str, Any]) -> int:
    """p of the exponent 1/p for one tensor."""
    return int(group["power"] or (2 if group["variant"] == "mm" else 2 * x.ndim))


def turn_of(past: int, axes: list[int], shape: Sequence[int]) -> int:
    """The axis whose factor "mm" updates after so many steps."""
    k = len(axes)
    place = past % k if past < k * k else past - math.isqrt(past) ** 2
    if place < k:
        return axes[place]
    return max(axes, key=lambda axis: shape[axis])


def keeps_roots(group: Mapping[str, Any]) -> bool:
    """Whether roots are used again in a later step."""
    return bool(group["refresh"] > 1 or group["variant"] == "mm")


def damps(dtype: torch.dtype, group: Mapping[str, Any]) -> bool:
    """Whether εL² is more than rounding; without forgetting L only shrinks."""
    largest = group["initial"] if group["beta2"] == 1 else math.inf
    return bool(group["eps"] * largest > torch.finfo(dtype).eps / 8)
