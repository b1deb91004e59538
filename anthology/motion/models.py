"""The loss of a model as a function of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from anthology.motion._arguments import Field, demand, require_one_device

Loss: TypeAlias = Callable[[Callable[..., Any]], Tensor]
Values: TypeAlias = dict[str, Tensor]


def ravel_model(model: nn.Module, loss: Loss) -> tuple[Field, Tensor]:
    """Loss of a model as a function of one flat float64 vector.

    Parameters
    ----------
    model : torch.nn.Module
        Left untouched: a float64 copy is used. Parameters that require no gradient stay
        constant; tied ones appear once. Let its activations be smooth (tanh, GELU): a
        ReLU network has no second derivative at its kinks, and steps cross them.
    loss : callable
        Given a function to be called like the model, it returns a scalar:
        ``lambda net: cross_entropy(net(x), y)`` with x in float64.

    Returns
    -------
    f : callable
        Vector of shape (d,) ↦ scalar, as often differentiable as the model; its gradient
        is ``torch.func.grad(f)``.
    w0 : Tensor
        The parameters now, shape (d,), float64, on the model's device, in
        the order of ``model.named_parameters()``.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind; if nothing in the model requires a gradient,
        parameters are on several devices, or a layer in training mode makes the loss
        random or stateful (dropout, batch statistics): call ``model.eval()`` first.
    """
    demand(model=model, loss=loss)
    for name, module in model.named_modules():
        if module.training and _is_random_or_stateful(module):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} in training mode, "
                "so the loss is not a function of the parameters alone; "
                "call model.eval() first"
            )
    twin = copy.deepcopy(model).double()
    found = {k: p.detach() for k, p in twin.named_parameters() if p.requires_grad}
    if not found:
        raise ValueError("no parameter of the model requires a gradient")
    require_one_device(found.values())

    def f(w: Tensor) -> Tensor:
        return loss(_with(twin, _unravelled(w, found)))

    return f, torch.cat([p.reshape(-1) for p in found.values()])


class FixedBatch:
    """A loss on a fixed batch, seen from outside a training run: no trace is left."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self._model, self._loss = model, loss

    def weights(self) -> Values:
        """What of the model requires a gradient, as it is now."""
        found = self._model.named_parameters()
        return {k: p.detach() for k, p in found if p.requires_grad and p.numel()}

    def value(self, values: Values) -> Tensor:
        """The loss at these weights, without axes."""
        buffers = {k: b.clone() for k, b in self._model.named_buffers()}
        with _own_randomness(next(iter(values.values())).device):
            value = self._loss(_with(self._model, {**buffers, **values}))
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value)
            raise ValueError(f"loss must return a scalar Tensor, got {what}")
        return value.reshape(())

    def gradient(self, values: Values | None = None) -> tuple[Tensor, Values]:
        """Loss and gradient at these weights, or at the weights now."""
        given = self.weights() if values is None else values
        leaves = {k: p.detach().requires_grad_() for k, p in given.items()}
        with torch.enable_grad():
            value = self.value(leaves)
        slopes = torch.autograd.grad(
            value, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return value.detach(), dict(zip(leaves, slopes, strict=True))

    def around(
        self, scales: Mapping[str, Tensor | float], sign: float = 1.0
    ) -> tuple[Field, Tensor]:
        """The loss as a function of a flat vector z, weights = now + scale · z."""
        now = self.weights()
        moving = {k: now[k] for k in scales if k in now}

        def f(z: Tensor) -> Tensor:
            shifts = _unravelled(z, moving)
            moved = {k: p + scales[k] * shifts[k].to(p) for k, p in moving.items()}
            return sign * self.value({**now, **moved}).to(z.dtype)

        fine = any(p.dtype == torch.float64 for p in now.values())
        size, first = sum(p.numel() for p in moving.values()), next(iter(now.values()))
        dtype = torch.float64 if fine else torch.float32
        return f, torch.zeros(size, dtype=dtype, device=first.device)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the kernel that has a second derivative."""
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        yield


def _with(model: nn.Module, values: Values) -> Callable[..., Any]:
    """The model as a function, with these parameters and buffers."""
    return lambda *args, **kwargs: functional_call(model, values, args, kwargs)


def _unravelled(z: Tensor, like: Values) -> Values:
    pieces = z.split([p.numel() for p in like.values()])
    pairs = zip(like.items(), pieces, strict=True)
    return {name: piece.reshape(p.shape) for (name, p), piece in pairs}


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """The same random numbers at each call, and none taken from the training run."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(0)
        if not on_cuda:
            yield
            return
        with torch.cuda.device(device):
            torch.cuda.manual_seed(0)
            yield


def _is_random_or_stateful(module: nn.Module) -> bool:
    """In training mode: batch statistics, random slopes, a dropout rate above 0."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.RReLU):
        return True
    # attention and recurrent layers keep their rate under the other name
    is_dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    rate = getattr(module, "p" if is_dropout else "dropout", 0.0)
    return isinstance(rate, int | float) and rate > 0
