"""Shapes, layouts and number types."""

from __future__ import annotations

import torch
from torch import Tensor

from ..check import Checks
from ..subject import Subject, descend, draw, feed, finite, require, same, weight

TENSORS = Checks()


def _descends(subject: Subject, *shape: int, dtype: torch.dtype) -> None:
    # From zero, where even bfloat16 resolves a small step.
    p = torch.zeros(shape, dtype=dtype).requires_grad_()
    before, after = descend(subject, p, 30)
    require(p.dtype == dtype, f"the parameter became {p.dtype}")
    require(after < before, f"30 steps did not lower a quadratic on shape {shape}")


@TENSORS
def scalar_parameter(subject: Subject) -> None:
    """Temperatures and other learned scalars cannot be trained."""
    _descends(subject, dtype=torch.float32)


@TENSORS
def vector_parameter(subject: Subject) -> None:
    """Biases and gains cannot be trained: a second optimizer is needed."""
    _descends(subject, 5, dtype=torch.float32)


@TENSORS
def matrix_parameter(subject: Subject) -> None:
    """Linear layers cannot be trained."""
    _descends(subject, 4, 3, dtype=torch.float32)


@TENSORS
def three_axes(subject: Subject) -> None:
    """Stacked experts and one-dimensional convolutions cannot be trained."""
    _descends(subject, 2, 3, 4, dtype=torch.float32)


@TENSORS
def four_axes(subject: Subject) -> None:
    """Convolutions cannot be trained."""
    _descends(subject, 4, 3, 2, 2, dtype=torch.float32)


@TENSORS
def empty_parameter(subject: Subject) -> None:
    """A model with an empty tensor (a sharded or pruned layer) crashes."""
    p, empty = weight(), torch.empty(0, 3).requires_grad_()
    optimizer = subject.on([p, empty])
    for _ in range(2):
        feed(optimizer, (p, draw(p)), (empty, torch.empty(0, 3)))
    require(finite([p.detach()]), "an empty tensor made its neighbour NaN")
    require(not same(p, torch.ones(4, 3)), "an empty tensor stopped its neighbour")


@TENSORS
def non_contiguous_parameter(subject: Subject) -> None:
    """Transposed or sliced weights are trained with permuted numbers."""
    start, gradients = torch.randn(4, 6), [torch.randn(4, 6) for _ in range(3)]
    transposed = start.t().contiguous().t().requires_grad_()
    sliced = torch.stack([start, start], -1)[..., 0].requires_grad_()
    plain = start.clone().requires_grad_()
    for p in (plain, transposed, sliced):
        optimizer = subject.on([p])
        for g in gradients:
            feed(optimizer, (p, g.t().contiguous().t()))
        moved = p.detach() - plain.detach()
        require(bool(moved.abs().max() < 1e-5), f"strides {p.stride()} change the step")


@TENSORS
def bfloat16_parameter(subject: Subject) -> None:
    """Models in bfloat16 crash, change their dtype or do not train."""
    _descends(subject, 4, 3, dtype=torch.bfloat16)


@TENSORS
def float64_parameter(subject: Subject) -> None:
    """Double precision is asked for and single precision is computed."""
    _descends(subject, 4, 3, dtype=torch.float64)
    p = weight(dtype=torch.float64)
    optimizer = subject.on([p])
    feed(optimizer, (p, draw(p)))
    for name, value in optimizer.state[p].items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim():
            require(value.dtype == torch.float64, f"state {name} is {value.dtype}")


@TENSORS
def complex_parameter(subject: Subject) -> None:
    """Spectral layers and wave models crash or lose their imaginary part."""
    p = (weight() * (1 + 2j)).detach().requires_grad_()
    before, after = descend(subject, p, 30)
    require(p.dtype == torch.complex64, f"the parameter became {p.dtype}")
    require(after < before, "30 steps did not lower a quadratic")
    moved = (p.detach() - (1 + 2j)).imag
    require(bool(moved.abs().max() > 0), "the imaginary part did not move")


@TENSORS
def sparse_gradient(subject: Subject) -> None:
    """A sparse embedding fails with a message about something else, or silently."""
    text = "does not support sparse gradients"
    dense, sparse = weight(), weight()
    g = torch.zeros(4, 3)
    g[1] = 1.0
    feed(subject.on([dense]), (dense, g))
    optimizer = subject.on([sparse])
    sparse.grad = g.to_sparse()
    try:
        optimizer.step()
    except RuntimeError as error:
        require(text in str(error), f"the error does not say '{text}': {error}")
        require(same(sparse, torch.ones(4, 3)), "the parameter moved before the error")
    else:
        gap = (dense - sparse).detach().abs().max()
        require(bool(gap < 1e-6), "a sparse gradient gives another step than a dense")
