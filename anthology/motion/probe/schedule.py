"""When a probe measures what, and what that costs."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping

FREE = ("steps", "penalty", "symmetry")
ON_THE_BATCH = ("turn", "sharpness")
ASKED_FOR = ("blocks",)
_BATCH = "a loss on a fixed batch"
PARTS = (*FREE, *ON_THE_BATCH, *ASKED_FOR)


class Schedule:
    """The steps at which each part is due."""

    def __init__(
        self,
        every: int | Mapping[str, int],
        parts: Collection[str] | None,
        has_loss: bool,
        has_symmetries: bool,
    ) -> None:
        lacking = {"symmetry": "symmetries"} if not has_symmetries else {}
        if not has_loss:
            lacking |= dict.fromkeys((*ON_THE_BATCH, *ASKED_FOR), _BATCH)
        chosen = _chosen(parts, lacking)
        given = every if isinstance(every, Mapping) else dict.fromkeys(PARTS, every)
        for part, count in given.items():
            _must_be_known(part)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"every must be a positive integer, got {count!r}")
        self._every = {part: given.get(part, 1) for part in chosen}

    def due(self, part: str, step: int) -> bool:
        """Whether a part is to be measured at a step, counted from 1."""
        return part in self._every and (step - 1) % self._every[part] == 0


class Clock:
    """Seconds inside and outside of something that comes again and again."""

    def __init__(self) -> None:
        self._first, self._inside, self._last = math.nan, 0.0, math.nan

    def __enter__(self) -> None:
        self._start = time.perf_counter()
        if math.isnan(self._first):
            self._first = self._start

    def __exit__(self, *_: object) -> None:
        self._last = time.perf_counter()
        self._inside += self._last - self._start

    @property
    def share(self) -> float:
        """Seconds inside per second outside, from the first to the last."""
        outside = self._last - self._first - self._inside
        return self._inside / outside if outside > 0 else math.nan


def _chosen(
    parts: Collection[str] | None, lacking: Mapping[str, str]
) -> tuple[str, ...]:
    if parts is None:
        return tuple(p for p in PARTS if p not in lacking and p not in ASKED_FOR)
    if isinstance(parts, str) or not isinstance(parts, Collection):
        raise TypeError(f"parts must be a collection of names, got {parts!r}")
    for part in parts:
        _must_be_known(part)
        if part in lacking:
            raise ValueError(f"the part {part!r} needs {lacking[part]}")
    return tuple(part for part in PARTS if part in parts)


def _must_be_known(part: str) -> None:
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
