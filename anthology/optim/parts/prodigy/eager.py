"""The two passes of Prodigy by operations of PyTorch, piece by piece in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers of a piece: long enough that what an operation costs beside its work does not
# count, and few enough that the last level of cache holds it until the next operation.
PIECE = 2**20


def first_eager(
    p: Tensor,
    g: Tensor,
    start: Tensor,
    averages: dict[str, Tensor],
    numbers: list[float],
) -> Tensor:
    """The first pass over a line of numbers, or over several tensors, a row each."""
    beta1, share, beta2, d, rest2, beta3, weight = numbers
    trusted = 1e-15 < abs(d) < 1e15  # its square
    sums: list[list[Tensor]] = [[], []]
    pieces = _pieces([p, g, start, *averages.values()])
    room = torch.empty_like(pieces[0][0])
    for x, y, z, *parts in pieces:
        kept, part = dict(zip(averages, parts, strict=True)), room[: x.shape[0]]
        torch.sub(z, x, out=part)
        flat = x.ndim == 1
        product = torch.dot(part, y) if flat else part.mul_(y).sum(1)
        if "exp_avg" in kept:
            kept["exp_avg"].mul_(beta1).add_(y, alpha=share)
        v = kept["exp_avg_sq"].mul_(beta2)
        if trusted:
            v.addcmul_(y, y, value=rest2 * d * d)
        else:
            torch.mul(y, d, out=part)
            v.addcmul_(part, part, value=rest2)
        summed = kept["s"].mul_(beta3).add_(y, alpha=weight) if "s" in kept else y
        sums[0].append(product)
        sums[1].append(torch.abs(summed, out=part).sum(-1))
    if p.ndim > 1:
        return torch.stack([torch.cat(xs) for xs in sums])
    return torch.stack([torch.stack(xs).sum() for xs in sums])


def second_eager(
    p: Tensor, v: Tensor, m: Tensor, keep: float, rate: float, least: float
) -> None:
    """The second pass: w ← keep·w − rate·m/(√v + least)."""
    pieces = _pieces([p.view(-1), v.view(-1), m.view(-1)])
    room = torch.empty_like(pieces[0][0])
    for x, y, z in pieces:
        below = torch.sqrt(y, out=room[: x.shape[0]]).add_(least)
        if keep != 1:
            x.mul_(keep)
        x.addcdiv_(z, below, value=-rate)


def _pieces(lines: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Parts of all along the first axis, of about as many numbers as a piece has."""
    many, numbers = lines[0].shape[0], lines[0].numel()
    if numbers <= PIECE:
        return [tuple(lines)]
    length = max(1, PIECE * many // numbers)
    return list(zip(*(torch.split(x, length) for x in lines), strict=True))
