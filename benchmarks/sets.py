"""Sets of parameters: the shapes of models, filled with noise."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ParameterSet:
    """Shapes of a model, told apart by what they are.

    Attributes
    ----------
    name : str
        For the command line and the results.
    title : str
        What it stands for.
    matrices : tuple of shape
        Weights that a matrix method orthogonalises; kernels as (out, in, *space).
    others : tuple of shape
        Embeddings, gains and biases.
    cuda_only : bool
        Whether it is too large for a CPU.
    """

    name: str
    title: str
    matrices: tuple[Shape, ...]
    others: tuple[Shape, ...] = ()
    cuda_only: bool = False

    def shapes(self, flat: bool) -> list[Shape]:
        """All shapes, or, flat, those of the matrices with two axes each."""
        if flat:
            return [(s[0], prod(s[1:])) for s in self.matrices]
        return [*self.matrices, *self.others]


def fill(shapes: list[Shape], device: str) -> list[Tensor]:
    """Parameters of standard normal noise, with gradients of the same kind."""
    torch.manual_seed(0)
    made = []
    for shape in shapes:
        p = torch.randn(shape, device=device).requires_grad_()
        p.grad = torch.randn(shape, device=device)
        made.append(p)
    return made


def _gpt(layers: int, width: int, tokens: int, context: int) -> tuple[list[Shape], ...]:
    block: list[Shape] = [(3 * width, width), (width, width), (4 * width, width)]
    block += [(width, 4 * width)]
    others: list[Shape] = [(tokens, width), (context, width)]
    return block * layers, others + [(width,)] * (4 * layers + 2)


def _resnet18() -> tuple[list[Shape], ...]:
    convolutions: list[Shape] = [(64, 3, 7, 7)]
    before = 64
    for width in (64, 128, 256, 512):
        convolutions += [(width, before, 3, 3), *[(width, width, 3, 3)] * 3]
        convolutions += [(width, before, 1, 1)] if width != before else []
        before = width
    gains: list[Shape] = [(s[0],) for s in convolutions for _ in range(2)]
    return [*convolutions, (1000, 512)], [*gains, (1000,)]


def _made(
    name: str, title: str, parts: tuple[list[Shape], ...], cuda_only: bool = False
) -> ParameterSet:
    return ParameterSet(name, title, tuple(parts[0]), tuple(parts[1]), cuda_only)


_MLP: tuple[list[Shape], ...] = (
    [(1024, 784), (1024, 1024), (10, 1024)],
    [(1024,), (1024,), (10,)],
)
SETS = {
    s.name: s
    for s in (
        _made("mlp", "MLP 784-1024-1024-10", _MLP),
        _made("gpt", "GPT, 6 layers of width 384", _gpt(6, 384, 4096, 256)),
        _made("resnet18", "ResNet-18", _resnet18()),
        _made("small", "500 matrices of 64 × 64", ([(64, 64)] * 500, [])),
        _made(
            "gpt2-medium",
            "GPT-2 medium, 24 layers of width 1024",
            _gpt(24, 1024, 50257, 1024),
            True,
        ),
        _made("1e8", "10⁸ numbers in 100 tensors", ([(1000, 1000)] * 100, []), True),
        _made("1e9", "10⁹ numbers in 250 tensors", ([(2000, 2000)] * 250, []), True),
        _made("quick", "a few small tensors", ([(32, 16)] * 4, [(32,)] * 4)),
    )
}
