"""Which weights of a model lie along a symmetry of the loss."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from anthology.motion._arguments import demand
from anthology.motion.models import FixedBatch, Loss
from anthology.motion.symmetry.pieces import Symmetry

# what rounding may leave of an identity in float64; by chance a random gradient
# of d entries is as orthogonal as this with probability 1e-8 √d
TOLERANCE = 1e-8
_EPSILONS = ("eps", "epsilon", "variance_epsilon")
_NORMALISATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
)


def find_symmetries(model: nn.Module, loss: Loss) -> list[Symmetry]:
    """Scale- and translation-invariant weights of a model, found and verified.

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
        In the order of the parameters, each cut as finely as it can be. Only those that
        hold to 1e-8 at two random sets of weights, for the first derivative and for a
        finite change, once the ε of the normalisation layers (attributes called ``eps``,
        ``epsilon`` or ``variance_epsilon``) is made negligible.

    Raises
    ------
    TypeError, ValueError
        For arguments of the wrong kind, if no parameter requires a gradient, or the loss
        is no finite scalar.

    Notes
    -----
    What is proposed, by its derivatives: each parameter of two axes or more along its
    first two, each vector, a weight together with the bias of its module, every number
    of equal pieces, and the thirds of a parameter whose number of rows three divides;
    not those without influence on the loss. Not found are weights that must be scaled
    together across modules, and those before a normalisation that is a function with an ε
    written into the call. A few dozen evaluations of the loss, and three gradients.

    Examples
    --------
    >>> x, y, model = torch.randn(8, 4), torch.arange(8) % 6, nn.Linear(4, 6)
    >>> loss = lambda net: nn.functional.cross_entropy(net(x), y)
    >>> print(find_symmetries(model, loss)[1])
    bias: translation along axis 0; feeds the loss
    """
    demand(model=model, loss=loss)
    twin, wide = doubled(model, loss)
    batch = FixedBatch(twin, wide)
    home, reasons = Evaluation(batch), _consumers(twin, batch)
    for module, name in product(twin.modules(), _EPSILONS):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, getattr(module, name) * TOLERANCE)
    points = [Evaluation(batch, seed) for seed in (0, 1)]
    found = []
    for name in home.values:
        for symmetry in _proposals(name, points):
            if all(point.keeps(symmetry) for point in points):
                reason = reasons.get(name, "verified by test alone")
                defect = float(home.defects(symmetry).nan_to_num(0.0).max())
                found.append(replace(symmetry, reason=reason, defect=defect))
    return found


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
    prefix, dot, last = name.rpartition(".")
    bias = prefix + dot + last.replace("weight", "bias")
    joint = bias != name and bias in values and values[bias].shape == (length,)
    if kind == "scale" and joint:  # the weight together with its bias
        families.append((name, bias))
    third = length // 3
    thirds = [(i * third, (i + 1) * third) for i in range(3)]
    for ranges in ([(0, length)], thirds if length % 3 == 0 else []):
        found: dict[tuple[int, int], Symmetry] = {}
        for (start, stop), names in product(ranges, families):
            cut = Symmetry(kind, names, axis, start, stop, 1, length)
            finest = _finest(cut, points)
            if finest is not None:
                found.setdefault((start, stop), finest)
        if found:
            return list(found.values())
    return []


def _finest(cut: Symmetry, points: list[Evaluation]) -> Symmetry | None:
    channels = cut.stop - cut.start
    vector = points[0].values[cut.names[0]].ndim == 1

    def broken(symmetry: Symmetry) -> bool | None:
        """None where no piece has any influence."""
        left = torch.stack([point.defects(symmetry) for point in points])
        return None if bool(left.isnan().all()) else bool((left > TOLERANCE).any())

    # what holds for pieces holds for their union, so most are settled by one look
    if broken(cut):
        return None
    for parts in range(channels, 0, -1):
        alone = cut.kind == "translation" and parts == channels
        # rows free to move one by one are no symmetry but rows without influence,
        # unless they are biases that something takes out again
        if channels % parts or (alone and not vector):
            continue
        finer = replace(cut, parts=parts)
        if broken(finer) is False:
            return finer
    return None


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


class Evaluation:
    """Values for all trainable parameters of a model, with loss and gradient there."""

    def __init__(self, batch: FixedBatch, seed: int | None = None) -> None:
        self.batch, self.values = batch, batch.weights()
        if not self.values:
            raise ValueError("no parameter of the model requires a gradient")
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            for name, w in self.values.items():
                size = max(float(w.square().mean().sqrt()), 0.1)
                self.values[name] = w + 0.3 * size * _normal(w, generator)
        self.loss, self.slope = batch.gradient(self.values)
        if not torch.isfinite(self.loss):
            raise ValueError(f"the loss is {float(self.loss)} and has no symmetries")

    def defects(self, symmetry: Symmetry) -> Tensor:
        """How far the gradient is from the identity, from 0 to 1; NaN if it is 0."""
        g = symmetry.pieces(self.slope)
        prefix = symmetry.names[0].rpartition(".")[0]
        own = [s for k, s in self.slope.items() if k.rpartition(".")[0] == prefix]
        total = torch.stack([s.norm() for s in own]).max()  # of the whole module
        left, length = g.sum(1), g.norm(dim=1)
        alive, full = length > TOLERANCE * total, length * g.shape[1] ** 0.5
        if symmetry.kind == "scale":
            w = symmetry.pieces(self.values)
            left, full = (w * g).sum(1), w.norm(dim=1) * length
        elif g.shape[1] == 1:
            alive, full = total > 0, total
        return torch.where(alive, left.abs() / full, torch.nan)

    def keeps(self, symmetry: Symmetry) -> bool:
        """Whether a finite change along the symmetry leaves the loss as it is."""
        like = symmetry.coordinate(self.values)
        amount = _normal(like, torch.Generator().manual_seed(2))
        if symmetry.kind == "scale":
            amount = amount.tanh().exp()
        with torch.no_grad():
            moved = {**self.values, **symmetry.moved(self.values, amount)}
            gap = self.batch.value(moved) - self.loss
        return bool(gap.abs() <= TOLERANCE * self.loss.abs())


def doubled(model: nn.Module, loss: Loss) -> tuple[nn.Module, Loss]:
    """A float64 copy of a model, and the loss with its inputs in float64."""

    def wide(net: Callable[..., Any]) -> Tensor:
        return loss(lambda *a, **k: net(*tree_map(_double, a), **tree_map(_double, k)))

    return copy.deepcopy(model).double(), wide


def _double(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return drawn.to(like.device)
