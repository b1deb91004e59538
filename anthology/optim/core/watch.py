"""A word about tensors that have had no finite gradient for long.

The counters of skipped steps are looked at only now and then, and on a CUDA device
not waited for: a copy of them sets out, and is read once it has arrived.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .names import named

# So many steps in a row without one. It takes at most twice as many to be noticed.
LONG = 25


class _Counts:
    """How often each tensor was skipped, on its way to the host."""

    def __init__(self, state: Any, params: Iterable[Tensor]) -> None:
        self._copies: list[tuple[list[Tensor], Tensor]] = []
        self._events: list[Any] = []
        alike: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for p in params:
            count = state.get(p, {}).get("skipped")
            if isinstance(count, Tensor) and not count.is_meta:
                alike.setdefault(count.device, []).append((p, count))
        for device, pairs in alike.items():
            counts = torch.stack([count.detach() for _, count in pairs])
            here = counts.to("cpu", non_blocking=device.type == "cuda")
            self._copies.append(([p for p, _ in pairs], here))
            if device.type == "cuda":
                event = torch.cuda.Event()
                event.record(torch.cuda.current_stream(device))
                self._events.append(event)

    @property
    def arrived(self) -> bool:
        """Whether reading them makes nobody wait."""
        return all(event.query() for event in self._events)

    def read(self) -> WeakTensorKeyDictionary:
        """The numbers, by parameter; none is kept alive by them."""
        found = WeakTensorKeyDictionary()
        for params, counts in self._copies:
            for p, count in zip(params, counts.tolist(), strict=True):
                found[p] = count
        return found


class Watch:
    """Warns once of the tensors of one optimizer that are skipped at every step."""

    def __init__(self) -> None:
        self._steps = 0
        self._told = False
        self._last: WeakTensorKeyDictionary | None = None
        self._coming: _Counts | None = None

    def look(self, optimizer: Any) -> int:
        """To be called before a step; before how many next ones it need not be."""
        if self._told:
            return LONG
        if _capturing():
            return 0
        if self._steps % LONG == 0:
            if self._coming is not None:  # still on its way, so the next is too far on
                self._last = None
            params = [p for _, p in named(optimizer.param_groups)]
            self._coming = _Counts(optimizer.state, params)
        self._steps += 1
        if self._coming is not None and not self._coming.arrived:
            return 0
        self._compare(optimizer)
        left = -self._steps % LONG
        self._steps += left
        return left

    def _compare(self, optimizer: Any) -> None:
        if self._coming is None:
            return
        now, self._coming = self._coming.read(), None
        last, self._last = self._last, now
        if last is not None:
            stuck = {p for p, n in now.items() if n - last.get(p, 0.0) >= LONG}
            self._tell([x for x, p in named(optimizer.param_groups) if p in stuck])

    def _tell(self, names: list[str]) -> None:
        if not names:
            return
        self._told, self._last = True, None
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        warnings.warn(
            f"no finite gradient in {LONG} steps in a row, so these tensors stand "
            f"still: {', '.join(names[:5])}{more}. Look for an overflow in the loss or "
            "in its scale, or for a NaN in the data; optimizer.skipped counts such "
            "steps, and this is said only once",
            RuntimeWarning,
            stacklevel=6,
        )


def _capturing() -> bool:
    """Whether the step becomes part of a CUDA graph, which takes no copy to the host."""
    if not torch.cuda.is_initialized():
        return False
    return bool(torch.cuda.is_current_stream_capturing())
