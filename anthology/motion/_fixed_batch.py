"""The loss on a fixed batch, seen from outside a training run.

Nothing here leaves a trace: parameters enter as detached copies, buffers as clones,
the random numbers of the loss come from a seed of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Model = Callable[..., Any]
Values = dict[str, Tensor]


class FixedBatch:
    """A deterministic function of the parameters of a model in training."""

    def __init__(self, model: nn.Module, loss: Callable[[Model], Tensor]) -> None:
        self._model, self._loss = model, loss

    def gradient(self) -> tuple[Tensor, Values]:
        """Loss and gradient at the weights now; shapes of the parameters."""
        with torch.enable_grad():
            leaves = {k: p.requires_grad_() for k, p in self._weights().items()}
            value = self._value(leaves)
            slopes = torch.autograd.grad(
                value, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        pairs = zip(leaves, slopes, strict=True)
        return value.detach(), {k: g.detach() for k, g in pairs}

    def around(
        self, scales: Mapping[str, Tensor | float], sign: float = 1.0
    ) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The loss as a function of a flat vector z, weights = now + scale · z."""
        now = self._weights()
        moving = {k: now[k] for k in scales if k in now}
        sizes = [p.numel() for p in moving.values()]

        def f(z: Tensor) -> Tensor:
            values = dict(now)
            pieces = torch.split(z, sizes)
            for (name, p), piece in zip(moving.items(), pieces, strict=True):
                values[name] = p + scales[name] * piece.reshape(p.shape).to(p.dtype)
            return sign * self._value(values).to(z.dtype)

        first = next(iter(now.values()))
        fine = any(p.dtype == torch.float64 for p in now.values())
        dtype = torch.float64 if fine else torch.float32
        return f, torch.zeros(sum(sizes), dtype=dtype, device=first.device)

    def _weights(self) -> Values:
        found = self._model.named_parameters()
        return {k: p.detach() for k, p in found if p.requires_grad and p.numel()}

    def _value(self, values: Values) -> Tensor:
        buffers = {k: b.clone() for k, b in self._model.named_buffers()}

        def net(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self._model, {**buffers, **values}, args, kwargs)

        with _own_randomness(next(iter(values.values())).device):
            value = self._loss(net)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value)
            raise ValueError(f"loss must return a scalar Tensor, got {what}")
        return value.reshape(())


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the kernel that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The same random numbers at each call, and none taken from the training run."""
    if device.type != "cuda":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
        return
    with torch.random.fork_rng(devices=[device]), torch.cuda.device(device):
        torch.default_generator.manual_seed(0)
        torch.cuda.manual_seed(0)
        yield
