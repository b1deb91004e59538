"""Sums of several batches together, wherever they lie."""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from anthology.optim.core import batch as batching
from anthology.optim.core.batch import Batch


def one_by_one(batch: Batch) -> list[Batch]:
    """An open batch as batches of one tensor, not to be closed themselves."""
    parts = []
    for index in range(len(batch.params)):
        part = copy(batch)
        for name in ("tensors", "params", "grads", "states", "steps", "finite"):
            values = getattr(batch, name)
            setattr(part, name, values and [values[index]])
        parts.append(part)
    return parts


def thinned(x: Tensor, every: int) -> Tensor:
    """Every p-th number of a tensor, flattened; all of it, as it is, for p = 1."""
    return x if every == 1 else x.reshape(-1)[::every]


def top_rate(scope: list[Batch]) -> Any:
    """The largest learning rate of a scope, as a float where all are."""
    rates = [batch.group["lr"] for batch in scope]
    if not any(isinstance(rate, Tensor) for rate in rates):
        return max(rates)
    home = scope[0].tensors[0].device
    return torch.stack([torch.as_tensor(rate, device=home) for rate in rates]).max()


def factor(value: Any, batch: Batch) -> Any:
    """A 0-d tensor as a float where reading it is free, else where the batch is."""
    if not isinstance(value, Tensor):
        return value
    x = batch.params[0]
    if batch.group["differentiable"] or not batching.reads_flags_for_free(x.device):
        return value.to(x.device, x.dtype, non_blocking=True)
    return float(value)


def counted(batch: Batch, values: list[Tensor]) -> list[Tensor]:
    """0-d values, zero for tensors that sit this step out or do not move at all."""
    lr = batch.group["lr"]
    if not batch.counts or (not isinstance(lr, Tensor) and lr <= 0):
        return [torch.zeros_like(value) for value in values]
    if batch.finite is not None:
        pairs = zip(batch.finite, values, strict=True)
        values = [torch.where(flag, value, 0.0) for flag, value in pairs]
    if isinstance(lr, Tensor):
        return [torch.where(lr > 0, value, 0.0) for value in values]
    return values


def collected(rows: list[list[Tensor]], home: torch.device | None = None) -> Tensor:
    """0-d tensors of several batches as one vector, on the device of the first."""
    home = home or rows[0][0].device
    every = [x for row in rows for x in row]
    if any(x.device != home for x in every):
        every = [x.to(home, non_blocking=True) for x in every]
    return torch.stack(every)


class Sums:
    """Sums as tensors on a device, the same tensor for the same plain numbers."""

    def __init__(self, kind: torch.dtype, home: torch.device) -> None:
        self.kind, self.home = kind, home
        self._kept: dict[Any, Tensor] = {}

    def of(self, values: list[Any]) -> Tensor:
        """One tensor of plain numbers and 0-d tensors on the device."""
        if not any(isinstance(x, Tensor) for x in values):
            key = tuple(values)
            if key not in self._kept:
                self._kept[key] = torch.tensor(
                    values, dtype=self.kind, device=self.home
                )
            return self._kept[key]
        parts = [
            x.to(self.kind)
            if isinstance(x, Tensor)
            else torch.full((), x, dtype=self.kind, device=self.home)
            for x in values
        ]
        return torch.stack(parts)
