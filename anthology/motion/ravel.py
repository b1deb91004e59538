"""A model as a loss on one flat vector, for the functions of this package."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from anthology.motion._arguments import require_callable

__all__ = ["ravel_model"]

Model = Callable[..., Any]


def ravel_model(
    model: nn.Module, loss: Callable[[Model], Tensor]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Loss of a model as a function of one flat float64 vector.

    Parameters
    ----------
    model : torch.nn.Module
        Left untouched: a float64 copy of it is used. Parameters that do not
        require a gradient stay constant; tied ones appear once.
    loss : callable
        Given a function to be called like the model, it returns a scalar:
        ``lambda net: cross_entropy(net(x), y)`` with x in float64.

    Returns
    -------
    f : callable
        Vector of shape (d,) ↦ scalar; differentiable any number of times if
        the model is, so ``torch.func.grad(f)`` is the gradient the rest of
        the package asks for.
    w0 : Tensor
        The parameters now, shape (d,), float64, on the model's device, in
        the order of ``model.named_parameters()``.

    Raises
    ------
    TypeError
        If ``model`` is not a module or ``loss`` not callable.
    ValueError
        If nothing in the model requires a gradient, parameters are on
        several devices, or a layer in training mode makes the loss random or
        stateful (dropout, random slopes, batch statistics): call
        ``model.eval()`` first.

    Notes
    -----
    Use smooth activations (tanh, softplus, GELU): a ReLU network has no
    second derivative at its kinks, and steps cross them.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    require_callable("loss", loss, "a function of the model")
    _require_deterministic(model)
    twin = copy.deepcopy(model).double()
    parameters = {k: p for k, p in twin.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("no parameter of the model requires a gradient")
    devices = {p.device for p in parameters.values()}
    if len(devices) > 1:
        raise ValueError(
            f"parameters are on several devices: {sorted(map(str, devices))}"
        )
    shapes = {name: p.shape for name, p in parameters.items()}
    sizes = [p.numel() for p in parameters.values()]
    w0 = torch.cat([p.detach().reshape(-1) for p in parameters.values()])

    def f(w: Tensor) -> Tensor:
        pieces = w.split(sizes)
        values = {
            name: piece.reshape(shape)
            for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }

        def net(*args: Any, **kwargs: Any) -> Any:
            return functional_call(twin, values, args, kwargs)

        return loss(net)

    return f, w0


def _require_deterministic(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training and _is_random_or_stateful(module):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} in training mode, "
                "so the loss is not a function of the parameters alone; "
                "call model.eval() first"
            )


def _is_random_or_stateful(module: nn.Module) -> bool:
    """In training mode: batch statistics, random slopes, a dropout rate above 0."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.RReLU):
        return True
    # attention and recurrent layers keep their rate under the other name
    is_dropout = isinstance(module, nn.modules.dropout._DropoutNd)
    rate = getattr(module, "p" if is_dropout else "dropout", 0.0)
    return isinstance(rate, int | float) and rate > 0
