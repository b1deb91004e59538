"""Norms of weights that are stored turned over, or several in one tensor."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from anthology.norms.base import Norm, Scaled, _Around

Parts = int | tuple[int, ...]
Back = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True, repr=False)
class Transpose(_Around):
    """‖Wᵀ‖: for weights that are stored the other way round.

    The first two axes of a point of ``base``, a norm on matrices or kernels, are
    exchanged: ``Transpose(OneToRMS())`` for embedding tables, tokens × width, and
    ``Transpose(Conv(2))`` for kernels of transposed convolutions, in × out × space.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base.ndim < 2:
            raise ValueError(f"Transpose needs a norm on matrices, got {self.base!r}")

    def _blocks(self, x: Tensor) -> list[Tensor]:
        return [self._turn(x)]

    def _turn(self, x: Tensor) -> Tensor:
        return x.transpose(-self.ndim, -self.ndim + 1)

    def _norm(self, x: Tensor) -> Tensor:
        return self.base._norm(self._turn(x))

    def _dual(self, g: Tensor) -> Tensor:
        return self.base._dual(self._turn(g))

    def _dualize(self, g: Tensor) -> Tensor:
        return self._turn(self.base._dualize(self._turn(g)))


@dataclass(frozen=True, repr=False)
class Split(_Around):
    """max over the blocks that one tensor stacks along its first axis.

    ``base`` is the norm of a block, ``parts`` how many there are, all equal, which must
    divide the first axis of a point; or a tuple of their sizes, which must sum to it.

    Fused weights are several weights in one tensor: query, key and value of
    attention, the gates of a recurrent cell, the groups of a convolution. Dual norm:
    the sum of the blocks' dual norms. Steepest step: each block dualized on its own.

    Other axes are reached by `Transpose`: ``Transpose(Split(RMSToRMS(), 3))`` is three
    weights side by side, each stored in × out; ``Transpose(Split(Transpose(RMSToRMS()),
    8))`` is one, stored out × in, whose input comes in eight pieces, such as heads.
    """

    parts: Parts

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.parts
        sizes = tuple(parts) if isinstance(parts, list | tuple) else ()
        for n in sizes or (parts,):
            if isinstance(n, bool) or not isinstance(n, int):
                raise TypeError(
                    f"parts must be an integer or a tuple of integers, got {parts!r}"
                )
            if n < 1:
                raise ValueError(f"parts must be at least 1, got {parts}")
        object.__setattr__(self, "parts", sizes or parts)

    def _blocks(self, x: Tensor) -> list[Tensor]:
        """Equal blocks as one tensor with an axis more, others one by one."""
        size, parts = x.shape[-self.ndim], self.parts
        if isinstance(parts, tuple):
            if sum(parts) != size:
                raise ValueError(
                    f"Split into {parts}, {sum(parts)} in all, does not fit an axis of "
                    f"size {size} (shape {tuple(x.shape)})"
                )
            return list(x.split(parts, -self.ndim))
        if size % parts:
            raise ValueError(
                f"Split cannot divide an axis of size {size} into "
                f"{parts} equal parts (shape {tuple(x.shape)})"
            )
        return [x.unflatten(-self.ndim, (parts, -1))]

    def _each(self, values: list[Tensor]) -> Tensor:
        """What was measured of the blocks, along the last axis."""
        return values[0] if isinstance(self.parts, int) else torch.stack(values, -1)

    def _norm(self, x: Tensor) -> Tensor:
        return self._each([self.base._norm(b) for b in self._blocks(x)]).amax(-1)

    def _dual(self, g: Tensor) -> Tensor:
        return self._each([self.base._dual(b) for b in self._blocks(g)]).sum(-1)

    def _dualize(self, g: Tensor) -> Tensor:
        steps = [self.base._dualize(b) for b in self._blocks(g)]
        if isinstance(self.parts, tuple):
            return torch.cat(steps, -self.ndim)
        return steps[0].flatten(-self.ndim - 1, -self.ndim)


def transposed(norm: Norm, stored: bool | str) -> Norm:
    """The same norm of a weight that is stored the other way round, if it is."""
    if not stored:
        return norm
    return norm.base if isinstance(norm, Transpose) else Transpose(norm)


def in_parts(norm: Norm, parts: Parts) -> Norm:
    """The norm of a weight that is so many in one tensor, or one alone."""
    return norm if parts == 1 else Split(norm, parts)


def split_up(x: Tensor, norm: Norm) -> tuple[list[Tensor], Norm, Back]:
    """What a norm measures one by one, the norm of each, and the way back."""
    if isinstance(norm, Scaled):
        points, own, back = split_up(x, norm.base)
        return points, Scaled(own, norm.s), back
    if isinstance(norm, Transpose):
        points, own, back = split_up(norm._turn(x), norm.base)
        return points, own, lambda ys: norm._turn(back(ys))
    if not isinstance(norm, Split):
        return [x], norm, lambda ys: ys[0]
    each = [split_up(block, norm.base) for block in norm._blocks(x)]
    at = x.ndim - norm.ndim

    def joined(ys: list[Tensor]) -> Tensor:
        rest = iter(ys)
        blocks = [back([next(rest) for _ in own]) for own, _, back in each]
        one = isinstance(norm.parts, int)
        return blocks[0].flatten(at, at + 1) if one else torch.cat(blocks, at)

    return [y for own, _, _ in each for y in own], each[0][1], joined
