"""A text that every machine has: the source of Python's own library.

>>> from anthology import lab
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

__all__ = ["Text", "text"]

_SMALL_TEXT = 1_000_000


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
