r"""Which weights of a model lie along a symmetry of the loss.

:func:`find_symmetries` proposes, by their own derivatives, the ways in which
pieces of each parameter may be scaled or shifted, and keeps those under which
the loss does not change, at weights other than those of the model too.

>>> import torch
>>> from torch import nn
>>> from torch.nn.functional import cross_entropy
>>> from anthology.motion import find_symmetries
>>> _ = torch.manual_seed(0)
>>> model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.LayerNorm(6), nn.Linear(6, 3))
>>> x, y = torch.randn(8, 4), torch.randint(3, (8,))
>>> for s in find_symmetries(model, lambda net: cross_entropy(net(x), y)):
...     print(s)
0.weight: scale; feeds 1 (LayerNorm)
0.weight: translation along axis 0; feeds 1 (LayerNorm)
2.weight: translation along axis 0; feeds the loss
2.bias: translation along axis 0; feeds the loss
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from anthology.motion._arguments import require_callable
from anthology.motion.symmetry.consumers import consumers
from anthology.motion.symmetry.pieces import Symmetry
from anthology.motion.symmetry.places import (
    TOLERANCE,
    Place,
    double,
    shrink_epsilons,
    widened,
)

__all__ = ["find_symmetries"]

Loss = Callable[[Callable[..., Any]], Tensor]


def find_symmetries(model: nn.Module, loss: Loss) -> list[Symmetry]:
    """Scale- and translation-invariant weights of a model, found and verified.

    Parameters
    ----------
    model : torch.nn.Module
        Left untouched: a float64 copy, in the mode of the model, is used. Batch
        normalisation is invariant in training mode only.
    loss : callable
        A loss on fixed data, given a function to be called like the model:
        ``lambda net: cross_entropy(net(x), y)``. Floating-point inputs are
        converted.

    Returns
    -------
    list of Symmetry
        In the order of the parameters, each cut as finely as it can be. Only
        symmetries that hold to 1e-8 at two random sets of weights, for the first
        derivative and for a finite change, once the ε of the normalisation layers
        (attributes called ``eps``, ``epsilon`` or ``variance_epsilon``) is made
        negligible.

    Raises
    ------
    TypeError
        If ``model`` is not a module or ``loss`` not callable.
    ValueError
        If no parameter requires a gradient, or the loss is no scalar or not finite.

    Notes
    -----
    What is proposed: each parameter of two axes or more along its first two axes,
    each vector, a weight together with the bias of its module, every number of
    equal pieces, and the thirds of a parameter whose number of rows three divides.
    Parameters without influence on the loss are passed over. Not found are weights
    that must be scaled together across modules, and those before a normalisation
    that is a function with an ε written into the call. A few dozen evaluations of
    the loss, and three gradients.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    require_callable("loss", loss, "a function of the model")
    twin = double(model)
    wide = widened(loss)
    home = Place(twin, wide)
    reasons = consumers(twin, wide)
    shrink_epsilons(twin)
    places = [Place(twin, wide, seed) for seed in (0, 1)]
    found = []
    for name in home.values:
        for symmetry in _proposals(name, places):
            if all(place.keeps(symmetry) for place in places):
                reason = reasons.get(name, "verified by test alone")
                defect = float(home.defects(symmetry).nan_to_num(0.0).max())
                found.append(replace(symmetry, reason=reason, defect=defect))
    return found


def _proposals(name: str, places: list[Place]) -> Iterator[Symmetry]:
    shape = places[0].values[name].shape
    axes = range(min(len(shape), 2)) if shape else ()
    by_axis = [_cuts("scale", name, axis, places) for axis in axes]
    # a common factor of all entries is the same along both axes: the finer cut
    yield from max(by_axis, key=_most, default=[])
    for axis in axes:
        yield from _cuts("translation", name, axis, places)


def _most(cuts: list[Symmetry]) -> int:
    return max((cut.parts for cut in cuts), default=0)


def _cuts(kind: str, name: str, axis: int, places: list[Place]) -> list[Symmetry]:
    """The finest pieces of all rows, or else of each third of them."""
    length = places[0].values[name].shape[axis]
    whole = [(0, length)]
    third = length // 3
    thirds = [(i * third, (i + 1) * third) for i in range(3)]
    families = _families(kind, name, axis, places)
    for ranges in (whole, thirds if length % 3 == 0 else []):
        found: dict[tuple[int, int], Symmetry] = {}
        for (start, stop), names in product(ranges, families):
            cut = Symmetry(kind, names, axis, start, stop, 1, length)
            finest = _finest(cut, places)
            if finest is not None:
                found.setdefault((start, stop), finest)
        if found:
            return list(found.values())
    return []


def _families(
    kind: str, name: str, axis: int, places: list[Place]
) -> list[tuple[str, ...]]:
    """The parameter alone, and for scales the weight together with its bias."""
    values = places[0].values
    prefix, dot, last = name.rpartition(".")
    partner = prefix + dot + last.replace("weight", "bias")
    joint = partner != name and partner in values
    if (
        kind == "scale"
        and joint
        and values[partner].shape == (values[name].shape[axis],)
    ):
        return [(name,), (name, partner)]
    return [(name,)]


def _finest(cut: Symmetry, places: list[Place]) -> Symmetry | None:
    channels = cut.stop - cut.start
    vector = places[0].values[cut.names[0]].ndim == 1
    # what holds for pieces holds for their union, so most are settled by one look
    coarse = _of_all(cut, places)
    if bool((coarse > TOLERANCE).any()):
        return None
    for parts in range(channels, 0, -1):
        alone = cut.kind == "translation" and parts == channels
        # rows free to move one by one are no symmetry but rows without influence,
        # unless they are biases that something takes out again
        if channels % parts or (alone and not vector):
            continue
        finer = replace(cut, parts=parts)
        defects = _of_all(finer, places)
        if bool((defects <= TOLERANCE).any()) and not bool((defects > TOLERANCE).any()):
            return finer
    return None


def _of_all(cut: Symmetry, places: list[Place]) -> Tensor:
    return torch.stack([place.defects(cut) for place in places])
