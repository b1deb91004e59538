"""Real data that every machine has: handwritten digits and Python's own source.

>>> from anthology import lab
>>> data = lab.digits(device="cpu")
>>> x, y = next(data.batches(64, seed=0))     # (64, 1, 8, 8) and (64,)
>>> words = lab.text(device="cpu")
>>> x, y = next(words.batches(16, context=64, seed=0))   # both (16, 64)
"""

from __future__ import annotations

import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anthology.lab.device import budget
from anthology.lab.optional import optional

__all__ = ["Images", "Text", "cifar10", "digits", "images", "text"]

_SMALL_TEXT = 1_000_000


@dataclass(frozen=True)
class Images:
    """Labelled images, split into a training and a test part.

    Attributes
    ----------
    x, y : Tensor
        Training images, float32 in [0, 1], shape (n, channels, height, width),
        and their labels, int64, shape (n,).
    x_test, y_test : Tensor
        The test part, alike.
    classes : int
        How many labels there are: 0 … classes − 1.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @property
    def test(self) -> tuple[Tensor, Tensor]:
        """The test part as a pair (images, labels)."""
        return self.x_test, self.y_test

    def batches(self, size: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches without end, in a new seeded order each epoch.

        Parameters
        ----------
        size : int
            Images in a batch; a remainder at the end of an epoch is dropped,
            so every batch has exactly this size.
        seed : int
            Seed of the order; the same on every device.

        Yields
        ------
        tuple of Tensor
            Images (size, channels, height, width) and labels (size,).

        Raises
        ------
        ValueError
            If size is not between 1 and the number of training images.
        """
        count = len(self.y)
        if not 1 <= size <= count:
            raise ValueError(f"size is {size}; it must be in 1 … {count}")
        return self._epochs(size, torch.Generator().manual_seed(seed))

    def _epochs(
        self, size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.y)
        while True:
            order = torch.randperm(count, generator=generator).to(self.y.device)
            for first in range(0, count - size + 1, size):
                chosen = order[first : first + size]
                yield self.x[chosen], self.y[chosen]


def digits(device: torch.device | str | None = None, *, seed: int = 0) -> Images:
    """Handwritten digits, 8 × 8 pixels (scikit-learn's; no download).

    Parameters
    ----------
    device : torch.device or str, optional
        Where the tensors live; CPU by default.
    seed : int
        Seed of the split into 1437 training and 360 test images.

    Returns
    -------
    Images
        Shapes (1437, 1, 8, 8) and (360, 1, 8, 8), ten classes.
    """
    datasets = optional("sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.as_tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x, y = x[order].to(device), y[order].to(device)
    cut = len(y) * 4 // 5
    return Images(x[:cut], y[:cut], x[cut:], y[cut:], classes=10)


def cifar10(root: str | Path, device: torch.device | str | None = None) -> Images:
    """CIFAR-10, through torchvision, which downloads it into ``root`` once.

    Returns
    -------
    Images
        Shapes (50000, 3, 32, 32) and (10000, 3, 32, 32), ten classes.

    Raises
    ------
    ImportError
        If torchvision is not installed.
    """
    datasets = optional("torchvision.datasets", "torchvision")

    def part(train: bool) -> tuple[Tensor, Tensor]:
        data = datasets.CIFAR10(str(root), train=train, download=True)
        x = torch.as_tensor(data.data).permute(0, 3, 1, 2).float() / 255
        return x.to(device), torch.as_tensor(data.targets).to(device)

    return Images(*part(True), *part(False), classes=10)


def images(
    device: torch.device | str | None = None, *, root: str | Path | None = None
) -> Images:
    """The images that fit the budget: CIFAR-10 if it is large, else digits.

    CIFAR-10 is used only on a large budget, with torchvision installed and a
    folder ``root`` to keep it in; otherwise nothing is downloaded.
    """
    if root is None or budget() == "small":
        return digits(device)
    try:
        return cifar10(root, device)
    except ImportError:
        return digits(device)


@dataclass(frozen=True)
class Text:
    """A text as bytes, split into a training and a test part.

    Attributes
    ----------
    train, test : Tensor
        The bytes as int64 in 0 … 255, shape (n,).
    vocabulary : int
        256.
    """

    train: Tensor
    test: Tensor
    vocabulary: int = 256

    def batches(
        self, size: int, context: int, seed: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Random windows of the training part, without end.

        Parameters
        ----------
        size : int
            Windows in a batch.
        context : int
            Bytes in a window.
        seed : int
            Seed of the positions; the same on every device.

        Yields
        ------
        tuple of Tensor
            Bytes and, one position on, the bytes to predict; both of shape
            (size, context).

        Raises
        ------
        ValueError
            If a number is below 1 or the text shorter than a window.
        """
        self._check(self.train, size, context)
        return self._windows(size, context, torch.Generator().manual_seed(seed))

    def _windows(
        self, size: int, context: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        last = len(self.train) - context
        while True:
            starts = torch.randint(last, (size,), generator=generator)
            yield _cut(self.train, starts, context)

    def test_batch(self, size: int, context: int) -> tuple[Tensor, Tensor]:
        """The same evenly spread test windows at every call; shapes as above."""
        self._check(self.test, size, context)
        last = len(self.test) - context - 1
        starts = torch.arange(size) * last // max(size - 1, 1)
        return _cut(self.test, starts, context)

    @staticmethod
    def _check(part: Tensor, size: int, context: int) -> None:
        if size < 1 or context < 1:
            raise ValueError(
                f"size is {size}, context is {context}; both must be at least 1"
            )
        if len(part) <= context:
            raise ValueError(
                f"the text has {len(part)} bytes; context must be below that"
            )


def text(device: torch.device | str | None = None, *, size: int | None = None) -> Text:
    """CPython's standard library as text: about a million bytes of Python.

    The files are the modules at the top of the library, in an order fixed by
    a checksum of their names (so no letter of the alphabet is favoured); the
    last tenth is the test part. The text differs between versions of Python,
    and with it every loss: compare runs on one machine only, and print
    tolerances rather than losses.

    Parameters
    ----------
    device : torch.device or str, optional
        Where the tensors live; CPU by default.
    size : int, optional
        Bytes to take; 1,000,000 on a small budget, the whole library (about
        four million) on a large one.

    Raises
    ------
    FileNotFoundError
        If this Python came without the source of its library.
    ValueError
        If ``size`` is below 10.
    """
    if size is None:
        size = _SMALL_TEXT if budget() == "small" else 2**62
    if size < 10:
        raise ValueError(f"size is {size}; it must be at least 10")
    raw = bytearray()
    for path in _library():
        raw += path.read_bytes()
        if len(raw) >= size:
            break
    data = torch.frombuffer(raw[:size], dtype=torch.uint8).long().to(device)
    cut = len(data) * 9 // 10
    return Text(data[:cut], data[cut:])


def _library() -> list[Path]:
    folder = Path(sysconfig.get_path("stdlib"))
    # names with an underscore in front include files written at build time
    paths = [p for p in folder.glob("*.py") if not p.name.startswith("_")]
    if not paths:
        raise FileNotFoundError(
            f"no Python source in {folder}: this Python came without it"
        )
    return sorted(paths, key=lambda p: (zlib.crc32(p.name.encode()), p.name))


def _cut(data: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    index = starts.unsqueeze(-1) + torch.arange(context + 1)
    window = data[index.to(data.device)]
    return window[:, :-1], window[:, 1:]
