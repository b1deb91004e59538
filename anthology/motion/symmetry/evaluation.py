"""A model at some weights, and what of a proposed symmetry holds there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from anthology.motion.models import FixedBatch, Loss
from anthology.motion.symmetry.pieces import Symmetry

# what rounding may leave of an identity in float64; by chance a random gradient
# of d entries is as orthogonal as this with probability 1e-8 √d
TOLERANCE = 1e-8


class Evaluation:
    """Values for all trainable parameters of a model, with loss and gradient there."""

    def __init__(self, batch: FixedBatch, seed: int | None = None) -> None:
        self.batch, self.values = batch, batch.weights()
        if not self.values:
            raise ValueError("no parameter of the model requires a gradient")
        for name, w in self.values.items():
            if w.is_complex():
                raise TypeError(f"{name} must be real, got {w.dtype}")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            for name, w in self.values.items():
                size = max(float(w.square().mean().sqrt()), 0.1)
                self.values[name] = w + 0.3 * size * _normal(w, generator)
        self.loss, self.slope = batch.gradient(self.values)
        if not torch.isfinite(self.loss):
            raise ValueError(f"the loss is {float(self.loss)} and has no symmetries")

    def defects(self, symmetry: Symmetry) -> Tensor:
        """How far the gradient is from the identity, from 0 to 1; NaN if it is 0."""
        g, field = symmetry.pieces(self.slope), symmetry.field(self.values)
        homes = {name.rpartition(".")[0] for name in symmetry.names}
        own = [s for k, s in self.slope.items() if k.rpartition(".")[0] in homes]
        total = torch.stack([s.norm() for s in own]).max()  # of the whole modules
        left, length = (field * g).sum(1), g.norm(dim=1)
        alive, full = length > TOLERANCE * total, length * field.norm(dim=1)
        if symmetry.kind == "translation" and g.shape[1] == 1:
            alive, full = total > 0, total
        return torch.where(alive, left.abs() / full, torch.nan)

    def keeps(self, symmetry: Symmetry) -> bool:
        """Whether a finite change along the symmetry leaves the loss as it is."""
        like = symmetry.coordinate(self.values)
        amount = _normal(like, torch.Generator().manual_seed(2))
        if symmetry.kind != "translation":
            amount = amount.tanh().exp()
        with torch.no_grad():
            moved = {**self.values, **symmetry.moved(self.values, amount)}
            gap = self.batch.value(moved) - self.loss
        return bool(gap.abs() <= TOLERANCE * self.loss.abs())


def finest(symmetry: Symmetry, points: list[Evaluation]) -> Symmetry | None:
    """In as many pieces as the gradients allow; None if there is no such symmetry."""
    vector = points[0].values[symmetry.names[0]].ndim == 1

    def broken(proposed: Symmetry) -> bool | None:
        """None where no piece has any influence."""
        left = torch.stack([point.defects(proposed) for point in points])
        return None if bool(left.isnan().all()) else bool((left > TOLERANCE).any())

    # what holds for pieces holds for their union, so most are settled by one look
    if broken(replace(symmetry, parts=1)):
        return None
    for parts in range(symmetry.most, 0, -1):
        alone = symmetry.kind == "translation" and parts == symmetry.most
        # rows free to move one by one are no symmetry but rows without influence,
        # unless they are biases that something takes out again
        if symmetry.most % parts or (alone and not vector):
            continue
        finer = replace(symmetry, parts=parts)
        if broken(finer) is False:
            return finer
    return None


def doubled(model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
    """A float64 copy of a model, and the loss with its inputs in float64."""

    def wide(net: Callable[..., Any]) -> Tensor:
        return loss(lambda *a, **k: net(*tree_map(_double, a), **tree_map(_double, k)))

    return copy.deepcopy(model).double(), wide


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)
