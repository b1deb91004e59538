"""Which weights of a model lie along a symmetry of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import chain, product
from typing import Any

from torch import Tensor, nn

from anthology.motion._arguments import demand
from anthology.motion.models import FixedBatch, Loss
from anthology.motion.symmetry.evaluation import (
    TOLERANCE,
    Evaluation,
    doubled,
    finest,
)
from anthology.motion.symmetry.exchange import bias_of, exchanges
from anthology.motion.symmetry.pieces import Cut, Symmetry

_EPSILONS = ("eps", "epsilon", "variance_epsilon")
_NORMALISATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
)


def find_symmetries(model: nn.Module, loss: Loss) -> list[Symmetry]:
    """What of a model's weights the loss cannot see, found and verified.

    Parameters
    ----------
    model : torch.nn.Module
        Left untouched: a float64 copy, in the mode of the model, is used. Batch
        normalisation is invariant in training mode only.
    loss : callable
        A loss on fixed data, given a function to be called like the model, e.g.
        ``lambda net: cross_entropy(net(x), y)``. Floating-point inputs are converted.

    Returns
    -------
    list of Symmetry
        Scales and translations in the order of the parameters, then exchanges: weights that
        may be multiplied if others are divided, like those of queries and keys. Each is cut
        as finely as it can be; none that follows from others. Only those that
        hold to 1e-8 at two random sets of weights, for the first derivative and for a
        finite change, once the ε of the normalisation layers (attributes called ``eps``,
        ``epsilon`` or ``variance_epsilon``) is made negligible.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, if no parameter requires a gradient, one is
        complex, or the loss is no finite scalar.

    Notes
    -----
    What is proposed, by its derivatives: each parameter of two axes or more along its
    first two, each vector, a weight together with the bias of its module, every number
    of equal pieces, and the thirds of a parameter whose number of rows three divides;
    not those without influence on the loss. Exchanges are proposed between two of these
    (or halves of fused layers, or the weights of all layers that read the same values),
    where ⟨w, g⟩ is equal, or twice the other. Not found are weights of several modules
    that must be scaled together (all that write into a residual stream), pieces whose
    rows are interleaved, and weights before a normalisation that is a function with an ε
    written into the call. Dropout and the like draw the same numbers each time. A few
    dozen evaluations of the loss, and three gradients.

    Examples
    --------
    >>> import torch
    >>> x, y = torch.randn(8, 4), torch.arange(8) % 3
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> loss = lambda net: nn.functional.cross_entropy(net(x), y)
    >>> for symmetry in find_symmetries(model, loss):
    ...     print(symmetry)
    2.weight: translation along axis 0; feeds the loss
    2.bias: translation along axis 0; feeds the loss
    0.weight + 0.bias against 2.weight: exchange, 6 pieces; only the product counts
    """
    demand(model=model, loss=loss)
    twin, wide = doubled(model, loss)
    batch = FixedBatch(twin, wide)
    home, reasons = Evaluation(batch), _consumers(twin, batch)
    for module, name in product(twin.modules(), _EPSILONS):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, getattr(module, name) * TOLERANCE)
    points = [Evaluation(batch, seed) for seed in (0, 1)]
    proposed = chain.from_iterable(_proposals(name, points) for name in home.values)
    found = [
        replace(
            symmetry, reason=reasons.get(symmetry.names[0], "verified by test alone")
        )
        for symmetry in proposed
        if all(point.keeps(symmetry) for point in points)
    ]
    scales = [symmetry for symmetry in found if symmetry.kind == "scale"]
    found += exchanges(points, _siblings(twin, batch), scales)
    defects = [home.defects(symmetry).nan_to_num(0.0).max() for symmetry in found]
    return [replace(s, defect=float(d)) for s, d in zip(found, defects, strict=True)]


def _proposals(name: str, points: list[Evaluation]) -> Iterator[Symmetry]:
    axes = range(min(points[0].values[name].ndim, 2))
    scales = [_finest_cuts("scale", name, axis, points) for axis in axes]
    # a common factor of all entries is the same along both axes: the finer cut
    yield from max(
        scales, key=lambda c: max((s.parts for s in c), default=0), default=[]
    )
    for axis in axes:
        yield from _finest_cuts("translation", name, axis, points)


def _finest_cuts(
    kind: str, name: str, axis: int, points: list[Evaluation]
) -> list[Symmetry]:
    """The finest pieces of all rows, or else of each third of them."""
    values = points[0].values
    length = values[name].shape[axis]
    families: list[tuple[str, ...]] = [(name,)]
    bias = bias_of(name, length, values)
    if kind == "scale" and bias:  # the weight together with its bias
        families.append((name, bias))
    third = length // 3
    thirds = [(i * third, (i + 1) * third) for i in range(3)]
    for ranges in ([(0, length)], thirds if length % 3 == 0 else []):
        found: dict[tuple[int, int], Symmetry] = {}
        for (start, stop), names in product(ranges, families):
            cuts = tuple(Cut(n, axis, start, stop, length) for n in names)
            best = finest(Symmetry(kind, cuts, 1), points)
            if best is not None:
                found.setdefault((start, stop), best)
        if found:
            return list(found.values())
    return []


def _siblings(model: nn.Module, batch: FixedBatch) -> list[tuple[str, ...]]:
    """Names of weights that read the same values."""
    read: dict[int, tuple[Any, list[str]]] = {}
    known = {name for name, w in batch.weights().items() if w.ndim > 1}

    def reads(weight: str, module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            # the tensor is kept, so that no other takes its address
            read.setdefault(id(args[0]), (args[0], []))[1].append(weight)

    handles = [
        module.register_forward_pre_hook(partial(reads, weight))
        for name, module in model.named_modules()
        if (weight := f"{name}.weight".lstrip(".")) in known
    ]
    try:
        batch.value(batch.weights())
    finally:
        for handle in handles:
            handle.remove()
    groups = (tuple(dict.fromkeys(names)) for _, names in read.values())
    return [names for names in groups if len(names) > 1]


def _consumers(model: nn.Module, batch: FixedBatch) -> dict[str, str]:
    """By name of a parameter, the normalisation or the loss that its layer feeds."""
    makers: dict[Any, str] = {}
    fed: dict[str, str] = {}

    def feeds(what: str, value: Any) -> None:
        node = value.grad_fn if isinstance(value, Tensor) else None
        while node is not None and node not in makers:
            sources = [x for x, _ in node.next_functions if x is not None]
            node = sources[0] if len(sources) == 1 else None
        if node is not None:
            fed.setdefault(makers[node], what)

    def makes(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            makers[output.grad_fn] = name

    def takes(what: str, module: nn.Module, args: Any, *_: Any) -> None:
        if args:
            feeds(what, args[0])

    handles = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(partial(makes, name)))
        if name and (isinstance(module, _NORMALISATIONS) or "Norm" in kind):
            hook = partial(takes, f"feeds {name} ({kind})")
            handles.append(module.register_forward_pre_hook(hook))
    # after the makers: the last layer may be the model itself
    last = model.register_forward_hook(lambda m, a, out: feeds("feeds the loss", out))
    try:
        batch.gradient()
    finally:
        for handle in (*handles, last):
            handle.remove()
    homes = {name: name.rpartition(".")[0] for name, _ in model.named_parameters()}
    return {name: fed[home] for name, home in homes.items() if home in fed}
