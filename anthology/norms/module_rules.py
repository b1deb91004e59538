"""The modular norm of a torch module: a rule for each type, and overrides."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from torch import nn

from anthology.norms.base import weight_of
from anthology.norms.by_hand import Override
from anthology.norms.heads import Head
from anthology.norms.lp import RMS
from anthology.norms.metrized import Row
from anthology.norms.modules import Leaf, Modular, bond, compose, residual, tare
from anthology.norms.roles import metrize
from anthology.norms.spectral import RMSToRMS
from anthology.norms.stored import Split

Values = Mapping[type[nn.Module] | str, float]
Rule = Callable[[Any, "Reader"], Modular]

_RULES: dict[type[nn.Module], Rule] = {}


def module_rule(*types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Teach `modular_norm` a module type (decorator).

    The rule is a function of the module and a `Reader`; ``reader(child)`` is the
    modular norm of a part of it, ``reader.layer(module)`` that of the parameters the
    module owns itself, as one layer. A later rule replaces an earlier one; subclasses
    follow the rule of the nearest parent that has one, unless they have a ``forward``
    of their own.

    >>> from torch import nn
    >>> from anthology.norms import compose, modular_norm, module_rule, residual
    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = nn.Linear(8, 32), nn.Linear(32, 8)
    ...     def forward(self, x):
    ...         return 0.75 * x + 0.25 * self.outer(self.inner(x).relu())
    >>> @module_rule(Block)
    ... def block_rule(block, reader):
    ...     return residual(compose(reader(block.inner), reader(block.outer)), 2)
    >>> modular_norm(nn.Sequential(Block(), Block())).sensitivity
    1.0
    """
    for kind in types:
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise TypeError(f"module_rule needs types of modules, got {kind!r}")

    def keep(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(types, rule))
        return rule

    return keep


def modular_norm(
    model: nn.Module,
    *,
    mass: Values | None = None,
    sensitivity: Values | None = None,
    overrides: Sequence[Override] | None = None,
    head: Head = False,
) -> Modular:
    """The modular norm of a model: how far each weight may move at a time.

    Read off the model type by type. Weights are measured as `metrize` does; each
    layer with weights has mass 1, shared equally among its trainable parameters.

    - ``nn.Sequential``: its parts, composed.
    - ``nn.Linear``, convolutions (not transposed), ``nn.Embedding``: sensitivity 1.
    - Normalisation layers: sensitivity 1, by convention; it is true of layer and RMS
      normalisation where the deviation (the RMS) of the input is 1 or more.
    - ``nn.MultiheadAttention``: queries, keys, values and output have mass 1 each and
      each head is a matrix of its own. With logits q·k/√d, for heads of width d,
      queries and keys have gain √d and the sensitivity is 1 + 2√d (with q·k/d it would
      be 3). For a batch of sequences, measured by the largest RMS of a token.
    - ``nn.TransformerEncoderLayer``, ``nn.TransformerEncoder``: plain shortcuts of
      sensitivity 1 + σ each.
    - Activations: their largest slope. Pooling, dropout (when off), reshaping: how
      much they can enlarge the largest RMS of a position.

    A weight that is used several times is one leaf, in which masses and gains add up;
    where its roles differ (an embedding tied to the head) it is measured in the first
    one, and the bound is proven only as far as its norm in the others is no larger.
    Other modules need a rule (`module_rule`), or, if they hold no weights, an entry in
    ``sensitivity``; or `atom`, `bond`, `compose`, `concat`, `residual` and `tare`.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its frozen parameters are no part of the norm.
    mass : mapping of (module type or glob) to float, optional
        The mass of modules of that type or name, whose parts are scaled in proportion
        (`tare`); or of parameters of that name, at each use. In ``"blocks.*"`` a star
        stays between two dots; ``""`` is the model. The last that fits counts.
    sensitivity : mapping of (module type or glob) to float, optional
        The sensitivity of modules of that type or name.
    overrides : sequence of (selector, Norm or dict), optional
        As for `metrize`. A unit weight of another norm may stretch its input more or
        less than a factor of 1: then set ``sensitivity`` too. Scales cannot be set.
    head : bool, str, list of str or None, optional
        As for `metrize`; default False, where the last layer is as any other.

    Raises
    ------
    TypeError, ValueError
        If there is no rule for a module (the message says what to do); if an entry of
        ``mass`` or ``sensitivity`` fits nothing or is negative, or a scale is set.

    Examples
    --------
    >>> from torch import nn
    >>> from anthology.norms import modular_norm
    >>> model = nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> print(modular_norm(model, mass={"2": 3}))
    name      shape  role    norm        mass  scale
    0.weight  4×9    linear  RMSToRMS()  0.5   8
    0.bias    4      bias    RMS()       0.5   8
    2.weight  2×4    linear  RMSToRMS()  1.5   2.667
    2.bias    2      bias    RMS()       1.5   2.667
    mass 4, sensitivity 1

    Source: Bernstein & Newhouse 2024 (arXiv 2410.21265), Defs 4-7; shares of the
    parameters of a layer, pooling and attention with torch's 1/√d derived here.
    """
    rows = metrize(model, [*_split_heads(model), *(overrides or ())], head=head).rows
    if any(row.scale != 1 for row in rows):
        raise ValueError("scales follow from the masses: set mass, not scale")
    reader = Reader(model, rows, dict(mass or {}), dict(sensitivity or {}))
    result = reader(model)
    for shown in reader.unused.values():
        raise ValueError(f"{shown} fits nothing of the model")
    return result


class Reader:
    """What a rule is given: the way to the modular norms of a module's parts."""

    def __init__(
        self, model: nn.Module, rows: Sequence[Row], mass: Values, sensitivity: Values
    ) -> None:
        self._rows = {id(row.param): row for row in rows}
        self._names: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(id(module), []).append(name)
        self._given = {"mass": mass, "sensitivity": sensitivity}
        self.unused = {}
        for what, values in self._given.items():
            for selector, value in values.items():
                shown = f"{what}[{selector!r}]"
                weight_of(value, shown)
                self.unused[what, selector] = shown

    def __call__(self, module: nn.Module) -> Modular:
        """The modular norm of one part of the model, with what was set by hand."""
        names = self._names.get(id(module), [])
        sensitivity = self._find("sensitivity", names, module)
        kinds: Any = type(module).__mro__
        known = next((kind for kind in kinds if kind in _RULES), None)
        if known is not None and kinds[0].forward is known.forward:
            result = _RULES[known](module, self)
        elif sensitivity is not None and not any(True for _ in module.parameters()):
            result = bond(sensitivity)
        else:
            name = names[0] if names else "outside the model"
            raise TypeError(
                f"no rule for {type(module).__name__} (module {name!r}): write one "
                "with norms.module_rule, or, if it holds no weights, give its "
                "sensitivity"
            )
        if sensitivity is not None:
            result = Modular(sensitivity, result.leaves)
        mass = self._find("mass", names, module) if result.leaves else None
        return result if mass is None else tare(result, mass)

    def layer(self, module: nn.Module, gain: float = 1.0, mass: float = 1.0) -> Modular:
        """The parameters a module owns itself, as one layer of sensitivity ``gain``.

        ``gain`` is how much of a unit change of a weight arrives at the output;
        ``mass`` is shared equally by the trainable parameters.
        """
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        leaves = []
        for row in (self._rows[id(p)] for p in own):
            by_hand = self._find("mass", [row.name, *row.shared])
            share = mass / len(own) if by_hand is None else by_hand
            leaves.append(Leaf(row, share, gain))
        return Modular(gain, tuple(leaves))

    def _find(
        self, what: str, names: Sequence[str], module: nn.Module | None = None
    ) -> float | None:
        """What the last entry that fits says of a module, or of a parameter."""
        value = None
        for selector, candidate in self._given[what].items():
            if isinstance(selector, str):
                fits = any(_matches(name, selector) for name in names)
            else:
                fits = isinstance(module, selector)
            if fits:
                self.unused.pop((what, selector), None)
                value = float(candidate)
        return value


def _split_heads(model: nn.Module) -> Iterator[Override]:
    """The heads of attention apart, so that each gets queries and keys of RMS 1."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.MultiheadAttention):
            fused = (RMSToRMS(), module.in_proj_weight), (RMS(), module.in_proj_bias)
            for norm, weight in fused:
                if weight is not None:
                    whose = lambda name, p, module, weight=weight: p is weight
                    yield whose, Split(norm, 3 * module.num_heads)


def _matches(name: str, selector: str) -> bool:
    """Glob in which a star stays between two dots, as layers nest in layers."""
    parts, globs = name.split("."), selector.split(".")
    if not name or not selector:  # the model itself
        return name == selector
    return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))


# The largest slopes, rounded up: of xΦ(x), of its tanh form, and of x·sigmoid(x).
_GELU, _GELU_TANH, _SILU = 1.128905, 1.129, 1.09984
_SLOPES: dict[Callable[..., Any], float] = {F.relu: 1.0, F.gelu: _GELU, F.silu: _SILU}


def _positions(pool: Any, axes: int) -> int:
    """How many positions a pool sees at a time."""
    size = pool.kernel_size
    return math.prod([size] * axes if isinstance(size, int) else size)


def _mean_of(pool: Any, axes: int) -> float:
    size = _positions(pool, axes)
    return size / abs(int(pool.divisor_override or size))


_LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding),
    *(nn.LayerNorm, nn.RMSNorm, nn.GroupNorm),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
_TAME = (
    *(nn.Identity, nn.Flatten, nn.ReLU, nn.ReLU6, nn.Tanh, nn.Softplus),
    *(nn.Softsign, nn.LogSigmoid, nn.Hardtanh, nn.Tanhshrink, nn.AvgPool1d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
)
# By how much what has no weights can enlarge the largest RMS of a position.
_STRETCHES: dict[type[nn.Module], Callable[[Any], float]] = {
    **dict.fromkeys(_TAME, lambda module: 1.0),
    nn.Sigmoid: lambda module: 0.25,
    nn.GELU: lambda module: _GELU if module.approximate == "none" else _GELU_TANH,
    nn.SiLU: lambda module: _SILU,
    nn.LeakyReLU: lambda module: max(1.0, abs(module.negative_slope)),
    nn.ELU: lambda module: max(1.0, abs(module.alpha)),
    # each channel may take its maximum elsewhere: up to K positions add up
    nn.MaxPool1d: lambda pool: math.sqrt(_positions(pool, 1)),
    nn.MaxPool2d: lambda pool: math.sqrt(_positions(pool, 2)),
    nn.MaxPool3d: lambda pool: math.sqrt(_positions(pool, 3)),
    nn.AvgPool2d: lambda pool: _mean_of(pool, 2),
    nn.AvgPool3d: lambda pool: _mean_of(pool, 3),
}
module_rule(*_LAYERS)(lambda module, reader: reader.layer(module))
module_rule(nn.Sequential)(lambda module, reader: compose(*map(reader, module)))


@module_rule(*_STRETCHES)
def _weightless(module: nn.Module, reader: Reader) -> Modular:
    kind = next(kind for kind in type(module).__mro__ if kind in _STRETCHES)
    return bond(_STRETCHES[kind](module))


@module_rule(nn.MultiheadAttention)
def _attention(module: nn.MultiheadAttention, reader: Reader) -> Modular:
    if module.in_proj_weight is None or module.bias_k is not None:
        raise TypeError(
            "the rule for MultiheadAttention knows neither kdim and vdim nor "
            "add_bias_kv: write one with norms.module_rule"
        )
    # logits q·k/√d of heads with RMS 1 reach √d, and so does their slope
    root = math.sqrt(module.head_dim)
    heads = reader.layer(module, gain=1 + 2 * root, mass=3)
    return compose(heads, reader(module.out_proj))


@module_rule(nn.TransformerEncoderLayer)
def _encoder_layer(module: nn.TransformerEncoderLayer, reader: Reader) -> Modular:
    attention = reader(module.self_attn)
    act = module.activation
    if not isinstance(act, nn.Module) and act not in _SLOPES:
        raise TypeError(
            f"the slope of {act!r} is not known: use relu, gelu, silu or a "
            "module as activation"
        )
    slope = reader(act) if isinstance(act, nn.Module) else bond(_SLOPES[act])
    forward = compose(reader(module.linear1), slope, reader(module.linear2))
    norm1, norm2 = reader(module.norm1), reader(module.norm2)
    if module.norm_first:
        return compose(
            residual(compose(norm1, attention)), residual(compose(norm2, forward))
        )
    return compose(residual(attention), norm1, residual(forward), norm2)


@module_rule(nn.TransformerEncoder)
def _encoder(module: nn.TransformerEncoder, reader: Reader) -> Modular:
    after = [] if module.norm is None else [module.norm]
    return compose(*map(reader, [*module.layers, *after]))
