"""Addresses of many tensors on the device, so that one launch serves them all.

A table is made once for each list of addresses and kept while it is used: parameters
and state stay where they are, and gradients come back to few places. Making one does
not wait for the device, but it copies from the host, which a CUDA graph would do
again at every replay; while a graph is captured only tables that are there are used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 32  # lists of addresses; the tables of each are some kilobytes


@dataclass(frozen=True)
class AddressTable:
    """Addresses and lengths, and for each program its row and its place."""

    rows: Tensor
    owners: Tensor
    aligned: bool


_tables: OrderedDict[Hashable, list[AddressTable]] = OrderedDict()
_captured: list[list[AddressTable]] = []  # graphs read these for as long as they live


def known(key: Hashable, device: torch.device) -> list[AddressTable] | None:
    """The tables of a list of addresses, if they are there."""
    found = _tables.get(key)
    if found is not None:
        _tables.move_to_end(key)
        if is_capturing(device):
            _captured.append(found)
    return found


def made(
    key: Hashable, rows: Iterable[tuple[int, ...]], block: int, device: torch.device
) -> list[AddressTable]:
    """New tables, of what is aligned and of what is not."""
    parts: dict[bool, list[tuple[int, ...]]] = {}
    for row in rows:
        if row[-1]:
            aligned = all(x % 16 == 0 for x in (*row[:-2], row[-1]))
            parts.setdefault(aligned, []).append(row)
    tables = [_table(part, block, device, aligned) for aligned, part in parts.items()]
    _tables[key] = tables
    if len(_tables) > KEPT:
        _tables.popitem(last=False)
    return tables


def is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _table(
    rows: list[tuple[int, ...]], block: int, device: torch.device, aligned: bool
) -> AddressTable:
    counts = [range(-(-row[-1] // block)) for row in rows]
    owners = [(row, place) for row, places in enumerate(counts) for place in places]
    both = torch.tensor([x for row in (*rows, *owners) for x in row])
    if device.type == "cuda":  # from memory that the device reads by itself
        both = both.pin_memory().to(device, non_blocking=True)
    first, second = both.split([len(rows) * len(rows[0]), 2 * len(owners)])
    return AddressTable(first.view(len(rows), -1), second.view(len(owners), 2), aligned)
