"""Three small networks: a perceptron, a convolutional net, a transformer.

Each is built on the CPU from its own seed (by torch's default initialisation), the
same on every device, and leaves the global random state alone. None has dropout or
batch statistics. What is out of bounds raises a ValueError.

>>> from anthology import lab
>>> net = lab.mlp([64, 32, 10])                      # (..., 1, 8, 8) → (..., 10)
>>> net = lab.conv_net(channels=(16, 32), seed=1)    # (n, 1, 8, 8) → (n, 10)
>>> net = lab.transformer(width=64, depth=2)         # (n, t) → (n, t, 256)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would seed every device as well
        torch.default_generator.manual_seed(seed)
        yield


def mlp(
    widths: Sequence[int],
    *,
    activation: type[nn.Module] = nn.ReLU,
    bias: bool = True,
    seed: int = 0,
) -> nn.Sequential:
    """A multi-layer perceptron that flattens its input.

    ``widths`` are the sizes from input to output, two at least: ``[64, 32, 10]`` has
    one hidden layer. ``activation`` stands between the layers; ``nn.Tanh`` is smooth.
    """
    if len(widths) < 2:
        raise ValueError(f"widths is {list(widths)}; give input and output at least")
    with _seeded(seed):
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [activation(), nn.Linear(before, after, bias=bias)]
    return nn.Sequential(nn.Flatten(), *layers[1:])


def conv_net(
    channels: Sequence[int] = (16, 32),
    *,
    inputs: int = 1,
    classes: int = 10,
    seed: int = 0,
) -> nn.Sequential:
    """A plain convolutional network: conv 3 × 3, group norm, ReLU, in stages.

    The first stage keeps the resolution, each later one halves it; a global mean and
    a linear head follow. ``channels`` are the widths of the stages, multiples of 8 (the
    group size), ``inputs`` those of the images, which have 8 × 8 pixels at least.
    """
    if not channels or any(c < 8 or c % 8 for c in channels):
        raise ValueError(f"channels is {list(channels)}; give multiples of 8")
    with _seeded(seed):
        layers: list[nn.Module] = []
        for before, width in pairwise((inputs, *channels)):
            stride = 2 if layers else 1
            conv = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(width // 8, width), nn.ReLU()]
        head = nn.Linear(channels[-1], classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


class _Block(nn.Module):
    """Causal attention, then a perceptron; each behind a norm, on a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class Transformer(nn.Module):
    """A causal pre-norm transformer; build it with :func:`transformer`."""

    def __init__(
        self,
        vocabulary: int,
        width: int,
        depth: int,
        heads: int,
        context: int,
        tied: bool,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for table in (self.token, self.position):
            nn.init.normal_(table.weight, std=0.02)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, t), t ≤ context, to logits (n, t, vocabulary)."""
        places = torch.arange(tokens.shape[-1], device=tokens.device)
        x = self.token(tokens) + self.position(places)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


def transformer(
    *,
    vocabulary: int = 256,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    context: int = 64,
    tied: bool = False,
    seed: int = 0,
) -> Transformer:
    """A small causal transformer for bytes, and sequences of up to ``context``.

    With ``depth`` blocks of ``heads`` heads (a divisor of the width); ``tied`` if the
    head shares the weight of the token embedding.
    """
    if heads < 1 or width % heads:
        raise ValueError(f"width is {width}; it must be a multiple of heads={heads}")
    with _seeded(seed):
        return Transformer(vocabulary, width, depth, heads, context, tied)
