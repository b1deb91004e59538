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
    """The axis along which squares are averaged, one number being kept for the other.

    Parameters
    ----------
    shape : sequence of int
        (..., d_out, d_in).
    group : mapping
        Its ``row_side``: "out", each row has a number; "longer", each column instead
        where there are more columns than rows.

    Returns
    -------
    int
        -1 or -2.
    """
    return -2 if group["row_side"] == "longer" and shape[-2] < shape[-1] else -1


def kept_shapes(
    matrices: Sequence[Tensor], group: Mapping[str, Any]
) -> list[tuple[int, ...]]:
    """The shape of what is kept of each set of matrices.

    Parameters
    ----------
    matrices : sequence of Tensor
        Of a weight; shapes (..., d_out, d_in).
    group : mapping
        Of Muon.

    Returns
    -------
    list of tuple of int
        (..., d_out), or (..., d_in).
    """
    found = []
    for x in matrices:
        axis = averaged_over(x.shape, group)
        found.append((*x.shape[:-2], x.shape[-3 - axis]))
    return found


def apart(kept: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """What is kept in one row of numbers, as the pieces of `kept_shapes`.

    Parameters
    ----------
    kept : Tensor
        Shape (..., n), all pieces one after another.
    shapes : sequence of tuple of int
        Of the pieces.

    Returns
    -------
    list of Tensor
        Shapes (..., *shape).
    """
    sizes = [math.prod(shape) for shape in shapes]
    pairs = zip(kept.split(sizes, -1), shapes, strict=True)
    return [part.unflatten(-1, shape) for part, shape in pairs]


def joined(pieces: Sequence[Tensor], lead: int) -> Tensor:
    """The way back from `apart`.

    Parameters
    ----------
    pieces : sequence of Tensor
        As `apart` made them.
    lead : int
        How many leading axes they share.

    Returns
    -------
    Tensor
        Shape (..., n).
    """
    return torch.cat([x.flatten(lead) for x in pieces], -1)


def even_rows(
    t: Tensor, kept: Tensor, group: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Rows over the root of their average square, at the size that was.

    Parameters
    ----------
    t : Tensor
        O, of shape (..., d_out, d_in).
    kept : Tensor
        v, without the axis `averaged_over`.
    group : mapping
        Of Muon, with ``row_beta`` = β₂.

    Returns
    -------
    tuple of Tensor
        O/(√v + 1e-10), times what gives it the Frobenius norm of O; and the new
        v ← β₂v + (1−β₂)·mean O².
    """
    axis, beta = averaged_over(t.shape, group), group["row_beta"]
    kept = kept.lerp((t * t.conj()).real.mean(axis), 1 - beta)
    some = kept > 0  # elsewhere there is nothing to divide, nor a slope of the root
    share = torch.where(some, 1 / (torch.where(some, kept, 1).sqrt() + EPS), 0)
    even = t * share.unsqueeze(axis)
    size = torch.linalg.matrix_norm(even, keepdim=True)
    whole = torch.linalg.matrix_norm(t, keepdim=True)
    return even * (whole / torch.where(size > 0, size, 1)), kept
