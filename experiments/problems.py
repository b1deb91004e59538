"""The book's two problems, small: what every race of optimizers runs on.

`digits`: a perceptron with two hidden layers on handwritten digits, each at a new
place of a larger canvas every time; `text`: a causal transformer of one block on the
bytes of Python's standard library. Both are measured by the cross-entropy, in nats,
of data that the training does not see. `digits-wide` and `digits-batch` are `digits`
with four times the width, or four times the batch: where a rate goes then.

>>> p = problem("digits")
>>> net = p.model(seed=0)
>>> optimizer = torch.optim.AdamW(net.parameters())
>>> lab.fit(net, optimizer, p.batches(seed=0), p.steps, evaluate=p.evaluate(net))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anthology import lab

CANVAS = 12
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """What is trained, on what, for how long, and what it was worth."""

    name: str
    steps: int
    terms: int  # how many terms the loss averages: `batch_size` of the root-free
    model: Callable[..., nn.Module]  # of seed=
    batches: Callable[..., Batches]  # of seed=
    test: tuple[Tensor, Tensor]

    def evaluate(self, model: nn.Module) -> Callable[[], float]:
        """The cross-entropy of the test data, as `lab.fit` calls it."""
        return lambda: lab.mean_loss(model, *self.test)


def problem(name: str, device: torch.device | str = "cpu") -> Problem:
    """A problem by its name, one of `PROBLEMS`."""
    return PROBLEMS[name](name, device)


def paste(x: Tensor, generator: torch.Generator) -> Tensor:
    """Digits (n, 1, 8, 8) at random places of canvases (n, 1, 12, 12)."""
    corner = torch.randint(CANVAS - 7, (2, len(x), 1), generator=generator)
    rows, columns = corner + torch.arange(8)
    n = torch.arange(len(x))[:, None, None]
    out = x.new_zeros(len(x), 1, CANVAS, CANVAS)
    out[n, 0, rows[:, :, None], columns[:, None, :]] = x[:, 0]
    return out


def _digits(width: int = 64, size: int = 64) -> Callable[..., Problem]:
    def build(name: str, device: torch.device | str) -> Problem:
        data, widths = lab.digits(), [CANVAS**2, width, width, 10]

        def model(seed: int) -> nn.Module:
            return lab.mlp(widths, seed=seed).to(device)

        def batches(seed: int) -> Batches:
            places = torch.Generator().manual_seed(seed)
            for x, y in data.batches(size, seed):
                yield paste(x, places).to(device), y.to(device)

        places = torch.Generator().manual_seed(1)
        x, y = paste(data.x_test.repeat(4, 1, 1, 1), places), data.y_test.repeat(4)
        test = x.to(device), y.to(device)
        return Problem(name, 400, size, model, batches, test)

    return build


def _text(width: int = 32, size: int = 16, context: int = 32) -> Callable[..., Problem]:
    def build(name: str, device: torch.device | str) -> Problem:
        data = lab.text(device)

        def model(seed: int) -> nn.Module:
            net = lab.transformer(width=width, depth=1, context=context, seed=seed)
            return net.to(device)

        def batches(seed: int) -> Batches:
            return data.batches(size, context, seed)

        test = data.test_batch(256, context)
        return Problem(name, 300, size * context, model, batches, test)

    return build


PROBLEMS = {
    "digits": _digits(),
    "text": _text(),
    "digits-wide": _digits(width=256),
    "digits-batch": _digits(size=256),
}
