"""Weights that may be multiplied if others are divided: only their product counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from anthology.motion.symmetry.evaluation import TOLERANCE, Evaluation, finest
from anthology.motion.symmetry.pieces import Cut, Symmetry

Side = tuple[Cut, ...]
# two numbers of about 1e-8 of what they are sums of, and rounded at 1e-16 of it
_ALIKE = 1e-6
_POWERS = (1, 2)  # two in front of a squared activation


def exchanges(
    points: list[Evaluation],
    siblings: Iterable[tuple[str, ...]],
    scales: Iterable[Symmetry],
) -> Iterator[Symmetry]:
    """Those that hold, none that follows from others and the scales.

    ``siblings`` are weights that read the same values. Where a product is all that
    counts, ⟨a, ∂f/∂a⟩ = ⟨b, ∂f/∂b⟩ at all weights: pairs for which it is so.
    """
    known: list[tuple[Cut, Cut]] = []
    powers = [_powers(scale) for scale in scales]
    for symmetry in sorted(_cut_pairs(points, siblings), key=_first):
        new = _powers(symmetry)
        grown, shrunk = ([c for c in new if new[c] * sign > 0] for sign in (1, -1))
        a, b = grown[0], shrunk[0]
        if any(_inside(a, x) and _inside(b, y) for x, y in known):
            continue
        if not all(point.keeps(symmetry) for point in points):
            continue
        known += [*product(grown, shrunk), *product(shrunk, grown)]
        if not _follows(new, powers):
            powers.append(new)
            yield symmetry


def ranges(length: int) -> Iterator[tuple[int, int]]:
    """All rows, and the halves and thirds of which fused layers are made."""
    for parts in (1, 2, 3):
        if length % parts == 0:
            size = length // parts
            yield from ((i * size, (i + 1) * size) for i in range(parts))


def bias_of(name: str, length: int, values: Mapping[str, Tensor]) -> str | None:
    """The bias of the module of a weight, if it has as many rows."""
    prefix, dot, last = name.rpartition(".")
    bias = prefix + dot + last.replace("weight", "bias")
    fits = bias != name and bias in values and values[bias].shape == (length,)
    return bias if fits else None


def _sides(
    values: dict[str, Tensor], siblings: Iterable[tuple[str, ...]]
) -> list[Side]:
    found: list[Side] = []
    for name, w in values.items():
        for axis in range(min(w.ndim, 2)):
            length = w.shape[axis]
            bias = bias_of(name, length, values)
            for start, stop in ranges(length):
                side = (Cut(name, axis, start, stop, length),)
                found.append(side)
                if bias:
                    found.append((*side, Cut(bias, 0, start, stop, length)))
    for names in siblings:
        for axis in (0, 1):
            lengths = {values[name].shape[axis] for name in names}
            if len(lengths) == 1:
                length = lengths.pop()
                found.append(tuple(Cut(n, axis, 0, length, length) for n in names))
    return found


def _cut_pairs(
    points: list[Evaluation], siblings: Iterable[tuple[str, ...]]
) -> Iterator[Symmetry]:
    """Pairs of sides whose ⟨w, g⟩ agree at all points, in their finest pieces."""
    live, sums = [], []
    for side in _sides(points[0].values, siblings):
        total, size = torch.stack([_pairing(side, point) for point in points]).T
        if bool((total.abs() > TOLERANCE * size).all()):
            live.append(side)
            sums.append(total)
    if not sums:
        return
    totals = torch.stack(sums).cpu()
    first, order = totals[:, 0].contiguous().sort()
    for power in _POWERS:
        for i, total in enumerate(totals / power):
            margin = _ALIKE * total[0].abs()
            low, high = (
                int(torch.searchsorted(first, total[0] + s * margin)) for s in (-1, 1)
            )
            for j in sorted(order[low:high].tolist()):  # not as rounding has it
                alike = (totals[j] - total).abs() <= _ALIKE * total.abs()
                if (power == 1 and j <= i) or not alike.all():
                    continue
                symmetry = _paired(live[i], live[j], power)
                found = symmetry and finest(symmetry, points)
                if found:
                    yield found


def _pairing(side: Side, point: Evaluation) -> Tensor:
    """⟨w, g⟩ and the size of what it is a sum of."""
    pairs = [(cut.rows(point.values), cut.rows(point.slope)) for cut in side]
    total = torch.stack([(w * g).sum() for w, g in pairs]).sum()
    return torch.stack([total, sum((w.norm() * g.norm() for w, g in pairs), 0 * total)])


def _paired(a: Side, b: Side, power: int) -> Symmetry | None:
    for x in a:
        for y in b:
            apart = x.axis == y.axis and (x.stop <= y.start or y.stop <= x.start)
            if x.name == y.name and not apart:
                return None
    cuts = (*a, *(replace(cut, power=-power) for cut in b))
    return Symmetry("exchange", cuts, 1, "only the product counts")


def _first(symmetry: Symmetry) -> tuple[float, int, int]:
    """The widest, then the finest, then those of the fewest tensors come first."""
    width = sum((cut.stop - cut.start) / cut.length for cut in symmetry.cuts[:1])
    return -width, -symmetry.parts, len(symmetry.cuts)


def _powers(symmetry: Symmetry) -> dict[Cut, int]:
    """Of each cut; all of a parameter is the same along each axis."""
    found = {}
    for cut in symmetry.cuts:
        whole = cut.stop - cut.start == cut.length
        key = Cut(cut.name, 0, 0, 1, 1) if whole else replace(cut, power=1)
        found[key] = cut.power
    return found


def _follows(new: dict[Cut, int], known: list[dict[Cut, int]]) -> bool:
    """Whether powers are a combination of others."""
    if not known:
        return False
    keys = dict.fromkeys(cut for powers in (*known, new) for cut in powers)
    table = [[float(p.get(cut, 0)) for cut in keys] for p in (*known, new)]
    rows = torch.tensor(table, dtype=torch.float64)
    before, after = (torch.linalg.matrix_rank(x) for x in (rows[:-1], rows))
    return bool(before == after)


def _inside(small: Cut, large: Cut) -> bool:
    if small.name != large.name or large.length == 1:
        return small.name == large.name
    same = small.axis == large.axis and small.length == large.length
    return same and large.start <= small.start and small.stop <= large.stop
