"""An average of the squares of each row, by which NorMuon evens out its steps.

Before it the rows of a polar factor may differ in length, by leverage where there are
more rows than columns, by the error of the polynomials where there are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

SIDES = ("out", "longer")
ENTRY = "row_avg_sq"
EPS = 1e-10


def averaged_over(shape: Sequence[int], group: Mapping[str, Any]) -> int:
    """The axis along which squares are averaged."""
    return -2 if group["row_side"] == "longer" and shape[-2] < shape[-1] else -1


def kept_shapes(
    matrices: Sequence[Tensor], group: Mapping[str, Any]
) -> list[tuple[int, ...]]:
    """The shape of what is kept of each set of matrices."""
    found = []
    for x in matrices:
        axis = averaged_over(x.shape, group)
        found.append((*x.shape[:-2], x.shape[-3 - axis]))
    return found


def apart(kept: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """What is kept in one row of numbers, as the pieces of `kept_shapes`."""
    sizes = [math.prod(shape) for shape in shapes]
    pairs = zip(kept.split(sizes, -1), shapes, strict=True)
    return [part.unflatten(-1, shape) for part, shape in pairs]


def joined(pieces: Sequence[Tensor], lead: int) -> Tensor:
    """The way back from `apart`."""
    return torch.cat([x.flatten(lead) for x in pieces], -1)


def even_rows(
    t: Tensor, kept: Tensor, group: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Rows over the root of their average square, at the size that was."""
    axis, beta = averaged_over(t.shape, group), group["row_beta"]
    kept = kept.lerp((t * t.conj()).real.mean(axis), 1 - beta)
    some = kept > 0  # elsewhere there is nothing to divide, nor a slope of the root
    share = torch.where(some, 1 / (torch.where(some, kept, 1).sqrt() + EPS), 0)
    even = t * share.unsqueeze(axis)
    size = torch.linalg.matrix_norm(even, keepdim=True)
    whole = torch.linalg.matrix_norm(t, keepdim=True)
    return even * (whole / torch.where(size > 0, size, 1)), kept
