"""Optimizers and their references, taken along the same random gradients."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def weights(
    shapes: Iterable[Sequence[int]], dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    return [torch.randn(tuple(s), dtype=dtype).requires_grad_() for s in shapes]


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in params]


def train(
    optimizer: torch.optim.Optimizer,
    params: Sequence[Tensor],
    steps: int,
    seed: int = 1,
) -> None:
    """Steps along random gradients, the same for the same seed."""
    torch.manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn_like(p)
        optimizer.step()


def moves(
    optimizer: torch.optim.Optimizer, w: Tensor, gradients: Iterable[Tensor]
) -> Tensor:
    """What each step did to a tensor, one a gradient."""
    found = []
    for g in gradients:
        before = w.detach().clone()
        w.grad = g.clone()
        optimizer.step()
        found.append(w.detach() - before)
    return torch.stack(found)


def gap(params: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """The largest difference of an entry."""
    pairs = zip(params, others, strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def relative(x: Tensor, y: Tensor) -> float:
    """‖x − y‖/‖y‖."""
    return float((x - y).norm() / y.norm())
