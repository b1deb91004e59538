"""A word about tensors that have had no finite gradient for long.

The counters of skipped steps are looked at only now and then, and on a CUDA device
not waited for: a copy of them sets out, and is read once it has arrived.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .names import named

# So many steps in a row without one. It takes at most twice as many to be noticed.
LONG = 25


class Watch:
    """Warns once of the tensors of one optimizer that are skipped at every step."""

    def __init__(self) -> None:
        self._steps = 0
        self._told = False
        self._last: WeakTensorKeyDictionary | None = None
        self._coming: list[tuple[list[Tensor], Tensor, Any]] | None = None

    def look(self, optimizer: Any) -> int:
        """To be called before a step; before how many next ones it need not be."""
        if self._told:
            return LONG
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return 0  # a CUDA graph takes no copy to the host
        if self._steps % LONG == 0:
            if self._coming is not None:  # still on its way, so the next is too far on
                self._last = None
            self._coming = _sent(optimizer)
        self._steps += 1
        if self._coming is not None:
            if not all(event is None or event.query() for *_, event in self._coming):
                return 0
            self._compare(optimizer)
        left = -self._steps % LONG
        self._steps += left
        return left

    def _compare(self, optimizer: Any) -> None:
        """Hold the numbers that have come against those before, and warn."""
        now = WeakTensorKeyDictionary()
        for params, counts, _ in self._coming or ():
            for p, count in zip(params, counts.tolist(), strict=True):
                now[p] = count
        last, self._last, self._coming = self._last, now, None
        if last is None:
            return
        stuck = {p for p, n in now.items() if n - last.get(p, 0.0) >= LONG}
        names = [x for x, p in named(optimizer.param_groups) if p in stuck]
        if names:
            self._told, self._last = True, None
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            warnings.warn(
                f"no finite gradient in {LONG} steps in a row, so these tensors, or "
                f"entries of them, stand still: {', '.join(names[:5])}{more}. Look for an overflow in the loss "
                "or in its scale, or for a NaN in the data; optimizer.skipped counts "
                "such steps, and this is said only once",
                RuntimeWarning,
                stacklevel=5,
            )


def _sent(optimizer: Any) -> list[tuple[list[Tensor], Tensor, Any]]:
    """By device: tensors, how often each was skipped, what says that it has arrived."""
    alike: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
    for _, p in named(optimizer.param_groups):
        count = optimizer.state.get(p, {}).get("skipped")
        if isinstance(count, Tensor) and not count.is_meta:
            alike.setdefault(count.device, []).append((p, count.detach()))
    sent = []
    for device, pairs in alike.items():
        params, counts = zip(*pairs, strict=True)
        cuda = device.type == "cuda"
        here = torch.stack(counts).to("cpu", non_blocking=cuda)
        event = torch.cuda.Event() if cuda else None
        if event is not None:
            event.record(torch.cuda.current_stream(device))
        sent.append((list(params), here, event))
    return sent
