"""The polar factors of a list of weights, as the groups of Muon ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anthology.linalg.polar import polar

from .matrices import scale_factor, view_of

PRODUCTS = ("float16", "bfloat16", "float32", "float64")


def orthogonal(points: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """Polar factors times their factor; those of equal shape found as one batch.

    Parameters
    ----------
    points : list of Tensor
        Real; pairs along the last axis where the group says ``complex``.
    group : mapping
        Of Muon.

    Returns
    -------
    list of Tensor
        Shapes as given.
    """
    view = view_of(group)
    if group["complex"]:
        points = [torch.view_as_complex(u.contiguous()) for u in points]
    alike: dict[torch.Size, list[int]] = {}
    for index, u in enumerate(points):
        alike.setdefault(u.shape, []).append(index)
    moves = list(points)
    for members in alike.values():
        like = points[members[0]]
        stack = torch.stack([view.matrices(points[i]) for i in members])
        found = _polar(stack, group) * factor(like, group)
        for i, t in zip(members, found.unbind(), strict=True):
            t = view.weight(t, like)
            moves[i] = torch.view_as_real(t) if t.is_complex() else t
    return moves


def factor(p: Tensor, group: Mapping[str, Any]) -> float:
    """What the polar factor of a weight is multiplied by, η apart.

    Parameters
    ----------
    p : Tensor
        The weight, of which only the shape counts.
    group : mapping
        Its group.

    Returns
    -------
    float
        The factor s of the convention, over K for K kernel positions, over the
        group's ``scale``.
    """
    view = view_of(group)
    shape = view.matrices(torch.empty_like(p, device="meta")).shape
    size = scale_factor(group["adjust_lr_fn"] or "original", shape)
    return size * view.share(p) / float(group.get("scale", 1.0))


def dtype_name(dtype: str | torch.dtype | None) -> str | None:
    """A dtype as plain text, for checkpoints.

    Parameters
    ----------
    dtype : str, torch.dtype or None
        For example ``torch.bfloat16``.

    Returns
    -------
    str or None
        For example "bfloat16".
    """
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _polar(x: Tensor, group: Mapping[str, Any]) -> Tensor:
    name = dtype_name(group["ns_dtype"])
    # no complex numbers of half precision can be multiplied
    dtype = None if name is None or x.is_complex() else getattr(torch, name)
    return polar(x, group["method"], group["ns_steps"], dtype=dtype)
