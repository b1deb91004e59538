"""A model's loss and gradient at chosen weights, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from anthology.motion._fixed_batch import FixedBatch
from anthology.motion.symmetry.pieces import Symmetry

Loss = Callable[[Callable[..., Any]], Tensor]

# what rounding may leave of an identity in float64; by chance a random gradient
# of d entries is as orthogonal as this with probability 1e-8 √d
TOLERANCE = 1e-8
_EPSILONS = ("eps", "epsilon", "variance_epsilon")


class Place:
    """Values for all trainable parameters of a model, with loss and gradient there."""

    def __init__(self, model: nn.Module, loss: Loss, seed: int | None = None) -> None:
        self._batch = FixedBatch(model, loss)
        named = model.named_parameters()
        self._live = {k: p for k, p in named if p.requires_grad and p.numel()}
        if not self._live:
            raise ValueError("no parameter of the model requires a gradient")
        self.values = {k: p.detach().clone() for k, p in self._live.items()}
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            for value in self.values.values():
                value += 0.3 * _size(value) * _normal(value, generator)
        self.loss, self.slope = self.at(self.values)
        if not torch.isfinite(self.loss):
            raise ValueError(f"the loss is {float(self.loss)} and has no symmetries")

    def at(self, values: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradient with these values in place of this place's own."""
        with self._holding(values):
            return self._batch.gradient()

    def loss_at(self, values: Mapping[str, Tensor]) -> Tensor:
        """The loss alone."""
        with self._holding(values), torch.no_grad():
            f, zero = self._batch.around({next(iter(self.values)): 1.0})
            return f(zero)

    @contextmanager
    def _holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        own = {k: p.detach().clone() for k, p in self._live.items()}
        try:
            self._set({**self.values, **values})
            yield
        finally:
            self._set(own)

    def _set(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, p in self._live.items():
                p.copy_(values[name])

    def scale(self, name: str) -> Tensor:
        """The length of the gradient of the whole module."""
        prefix = name.rpartition(".")[0]
        own = [g for k, g in self.slope.items() if k.rpartition(".")[0] == prefix]
        return torch.stack([g.norm() for g in own]).max()

    def defects(self, symmetry: Symmetry) -> Tensor:
        """How far the gradient is from the identity, from 0 to 1; NaN if it is 0."""
        g = symmetry.pieces(self.slope)
        total = self.scale(symmetry.names[0])
        if symmetry.kind == "scale":
            w = symmetry.pieces(self.values)
            left, full = (w * g).sum(1), w.norm(dim=1) * g.norm(dim=1)
            alive = g.norm(dim=1) > TOLERANCE * total
        elif g.shape[1] == 1:
            left, full, alive = g[:, 0], total.expand(g[:, 0].shape), total > 0
        else:
            left, full = g.sum(1), g.norm(dim=1) * g.shape[1] ** 0.5
            alive = g.norm(dim=1) > TOLERANCE * total
        return torch.where(alive, left.abs() / full, torch.nan)

    def keeps(self, symmetry: Symmetry) -> bool:
        """Whether a finite change along the symmetry leaves the loss as it is."""
        like = symmetry.coordinate(self.values)
        amount = _normal(like, torch.Generator().manual_seed(2))
        if symmetry.kind == "scale":
            amount = amount.tanh().exp()
        loss = self.loss_at(symmetry.moved(self.values, amount))
        return bool((loss - self.loss).abs() <= TOLERANCE * self.loss.abs())


def double(model: nn.Module) -> nn.Module:
    """A float64 copy."""
    return copy.deepcopy(model).double()


def widened(loss: Loss) -> Loss:
    """The loss with floating-point inputs of the model in float64."""

    def wide(net: Callable[..., Any]) -> Tensor:
        def call(*args: Any, **kwargs: Any) -> Any:
            return net(*tree_map(_wide, args), **tree_map(_wide, kwargs))

        return loss(call)

    return wide


def _wide(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def shrink_epsilons(model: nn.Module) -> None:
    for module in model.modules():
        for name in _EPSILONS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, getattr(module, name) * TOLERANCE)


def _size(x: Tensor) -> float:
    return max(float(x.square().mean().sqrt()), 0.1)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)
