"""Polyak's step under any norm: as far as the linear model needs to come to f*.

Δ = −(δ/N†)·dualize(g) with δ = max(f − f*, 0) is the shortest solution of
f + ⟨g, Δ⟩ ≤ f*, by Hölder's inequality; with N(Δ) ≤ η beside it the length is
min(η, δ/N†).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anthology.optim.core.batch import Batch
from anthology.optim.core.limits import number
from anthology.optim.core.sharding.layer import is_sharded

from .prodigy.totals import collected, counted, factor


def check_polyak(group: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Refuse what Polyak's step cannot use."""
    if group["momentum"]:
        raise ValueError(
            f"momentum={group['momentum']} with step='polyak', which divides the loss "
            "by the slope at the same point, not by an average; leave momentum=0"
        )
    if not math.isfinite(number("f_star", group["f_star"])):
        raise ValueError(f"Invalid f_star: {group['f_star']}; it must be finite")
    for name in ("f_star", "maximize"):
        if (own := group[name]) != first[name]:
            raise ValueError(
                f"{name}={own!r} in one group and {first[name]!r} in another; with "
                "step='polyak', whose loss is one number, it is one choice"
            )


def excess(loss: Any, group: Mapping[str, Any], home: torch.device | None) -> Tensor:
    """f − f* (f* − f with ``maximize``), which is to come to zero."""
    if loss is None:
        raise RuntimeError(
            "step='polyak' needs the loss: optimizer.step(closure), where the closure "
            "returns it, or optimizer.step(lambda: loss) after loss.backward()"
        )
    value = _number(loss) if group["differentiable"] else _number(loss).detach()
    mean = value if home is None else _mean(value, home)
    gap: Tensor = mean - group["f_star"]
    return -gap if group["maximize"] else gap


def shorten(
    optimizer: Any, gap: Tensor, batches: list[Batch], duals: list[list[Tensor]]
) -> list[list[Tensor]]:
    """Let no step be longer than δ/N†: the ``lr`` of each batch becomes its length."""
    if not any(duals):
        return duals
    order = 2 if batches[0].group["across"] == "l2" else 1
    rows = [counted(b, d) for b, d in zip(batches, duals, strict=True)]
    own = collected([row for row in rows if row])
    dual = torch.linalg.vector_norm(own, order)
    gap = gap.to(own.device, own.dtype, non_blocking=True)
    every = optimizer.over_all(torch.stack([dual, gap]))
    if len(every) > 1:
        dual, gap = torch.linalg.vector_norm(every[:, 0], order), every[:, 1].mean()
    moves = (dual > 0) & ~gap.isnan()
    below = torch.where(moves, dual, 1.0)
    length = torch.where(moves, gap.clamp_min(0.0), 0.0) / below
    for batch in batches:
        if batch.params:
            batch.group = {**batch.group, "lr": _shorter(batch, length)}
    return [[d / below.to(d.device) for d in row] for row in duals]


def _shorter(batch: Batch, length: Tensor) -> Any:
    """The smaller of a batch's rate and a length."""
    lr, own = batch.group["lr"], factor(length, batch)
    if isinstance(own, Tensor):
        return own.clamp_max(lr)
    return lr.clamp_max(own) if isinstance(lr, Tensor) else min(lr, own)


def _number(loss: Any) -> Tensor:
    """One real number as a 0-d tensor, at least float32."""
    if isinstance(loss, Real):
        return torch.tensor(float(loss), dtype=torch.float64)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or loss.is_complex():
        kind = f"a {loss.dtype} of shape " if isinstance(loss, Tensor) else ""
        raise TypeError(
            "step='polyak' needs the loss as one real number, but the closure "
            f"returned {kind}{tuple(loss.shape) if kind else repr(loss)}"
        )
    one: Tensor = loss.full_tensor() if is_sharded(loss) else loss  # type: ignore
    return one.reshape(()).to(torch.promote_types(one.dtype, torch.float32))


def _mean(loss: Tensor, home: torch.device) -> Tensor:
    """The mean of a number over all processes, as DDP takes it of gradients."""
    several = dist.is_available() and dist.is_initialized()
    if not several or dist.get_world_size() == 1:
        return loss
    total = loss.detach().to(home, copy=True)
    dist.all_reduce(total)
    return total / dist.get_world_size()
