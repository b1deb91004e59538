"""A model's loss and gradient at chosen weights, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from anthology.motion.models import FixedBatch, Loss
from anthology.motion.symmetry.pieces import Symmetry

# what rounding may leave of an identity in float64; by chance a random gradient
# of d entries is as orthogonal as this with probability 1e-8 √d
TOLERANCE = 1e-8


class Place:
    """Values for all trainable parameters of a model, with loss and gradient there."""

    def __init__(self, batch: FixedBatch, seed: int | None = None) -> None:
        self.batch, self.values = batch, batch.weights()
        if not self.values:
            raise ValueError("no parameter of the model requires a gradient")
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
        g = symmetry.pieces(self.slope)
        prefix = symmetry.names[0].rpartition(".")[0]
        own = [s for k, s in self.slope.items() if k.rpartition(".")[0] == prefix]
        total = torch.stack([s.norm() for s in own]).max()  # of the whole module
        if symmetry.kind == "translation" and g.shape[1] == 1:
            left, full, alive = g[:, 0], total.expand(g[:, 0].shape), total > 0
        else:
            length = g.norm(dim=1)
            alive = length > TOLERANCE * total
            if symmetry.kind == "scale":
                w = symmetry.pieces(self.values)
                left, full = (w * g).sum(1), w.norm(dim=1) * length
            else:
                left, full = g.sum(1), length * g.shape[1] ** 0.5
        return torch.where(alive, left.abs() / full, torch.nan)

    def keeps(self, symmetry: Symmetry) -> bool:
        """Whether a finite change along the symmetry leaves the loss as it is."""
        like = symmetry.coordinate(self.values)
        amount = _normal(like, torch.Generator().manual_seed(2))
        if symmetry.kind == "scale":
            amount = amount.tanh().exp()
        with torch.no_grad():
            moved = {**self.values, **symmetry.moved(self.values, amount)}
            gap = self.batch.value(moved) - self.loss
        return bool(gap.abs() <= TOLERANCE * self.loss.abs())


def doubled(model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
    """A float64 copy of a model, and the loss with its inputs in float64."""

    def wide(net: Callable[..., Any]) -> Tensor:
        return loss(lambda *a, **k: net(*tree_map(_wide, a), **tree_map(_wide, k)))

    return copy.deepcopy(model).double(), wide


def _wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)
