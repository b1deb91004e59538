"""How an optimizer shows a parameter to its norm."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from anthology.norms import Norm, from_spec, norm_by_shape
from anthology.optim.core.names import without_names


def dualize(x: Tensor, norm: Norm) -> Tensor:
    """The steepest unit step of one tensor, as the optimizers see tensors."""
    return norm.dualize(as_points(x, norm)).reshape(x.shape)


def as_points(x: Tensor, norm: Norm) -> Tensor:
    """A tensor with the axes its norm measures."""
    if norm.ndim == 1:
        return x.reshape(-1)
    return x.reshape(*x.shape, *(1,) * (norm.ndim - x.ndim))


def dualize_together(points: list[Tensor], norms: list[Norm]) -> list[Tensor]:
    """The same for many tensors; those of equal shape and norm go as one batch."""
    alike: dict[Any, list[int]] = {}
    for index, (x, norm) in enumerate(zip(points, norms, strict=True)):
        alike.setdefault((x.shape, norm), []).append(index)
    moves = list(points)
    for (shape, norm), members in alike.items():
        if len(members) == 1:
            moves[members[0]] = dualize(points[members[0]], norm)
            continue
        stack = torch.stack([as_points(points[i], norm) for i in members])
        for i, t in zip(members, norm.dualize(stack).unbind(), strict=True):
            moves[i] = t.reshape(shape)
    return moves


def norm_for(x: Tensor, given: Norm | str | None) -> Norm:
    """The norm of one tensor."""
    if isinstance(given, Norm):
        return given
    return norm_by_shape(x.ndim) if given is None else _from_spec(given)


def must_fit(params: Any, given: str | None) -> None:
    """Refuse a norm that cannot measure a parameter; the numbers are not looked at."""
    for p in without_names(params):
        # torch.optim takes integer parameters, which never get a gradient
        if isinstance(p, Tensor) and (p.is_floating_point() or p.is_complex()):
            _tried(norm_for(p, given), tuple(p.shape), p.dtype)


@cache
def _tried(norm: Norm, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Measure nothing of that shape, once: on the meta device that takes 10 ms."""
    norm.dual(as_points(torch.empty(shape, dtype=dtype, device="meta"), norm))


def _from_spec(text: str) -> Norm:
    norm = from_spec(text)
    if not isinstance(norm, Norm):
        raise TypeError(f"a group needs a norm of single tensors, got {text}")
    return norm


def spec(norm: Norm | str | None) -> str | None:
    """A norm as plain text."""
    if norm is None:
        return None
    if isinstance(norm, str):
        return repr(_from_spec(norm))
    if not isinstance(norm, Norm):
        raise TypeError(
            f"norm must be a Norm such as RMSToRMS(), or its repr, got {norm!r}"
        )
    return repr(norm)
