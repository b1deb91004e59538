"""The modular norm of a torch module: a rule for each type, and overrides."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from torch import Tensor, nn

from anthology.norms.combine import bond, tare
from anthology.norms.heads import Head
from anthology.norms.metrized import Row
from anthology.norms.modules import Leaf, Modular, weight_of
from anthology.norms.overrides import Override
from anthology.norms.roles import metrize
from anthology.norms.spectral import RMSToRMS
from anthology.norms.stored import Split
from anthology.norms.vector import RMS

Values = Mapping[type[nn.Module] | str, float]
Rule = Callable[[Any, "Reader"], Modular]

_RULES: dict[type[nn.Module], Rule] = {}


def module_rule(*types: type[nn.Module]) -> Callable[[Rule], Rule]:
    """Teach `modular_norm` a module type (decorator).

    The rule is a function of the module and a reader; ``reader(child)`` is the
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
      each head is a matrix of its own. Its logits are q·k/√d for heads of width d,
      so that queries and keys have gain √d and the sensitivity is 1 + 2√d (with q·k/d
      it would be 3). For a batch of sequences, measured by the largest RMS of a token.
    - ``nn.TransformerEncoderLayer`` and ``nn.TransformerEncoder``: plain shortcuts,
      x + block(x), of sensitivity 1 + σ each.
    - Activations: their largest slope. Pooling, dropout (when off), reshaping: how
      much they can enlarge the largest RMS of a position.

    A weight that is used several times is one leaf, in which masses and gains of its
    uses add up. If its roles differ (an embedding tied to the head) it is measured in
    the first one, and the bound on the output is proven only as far as its norm in
    the others is no larger.

    Other modules need a rule (`module_rule`), or, if they hold no weights, an entry in
    ``sensitivity``; or the norm is put together by hand with `atom`, `bond`,
    `compose`, `concat`, `residual` and `tare`.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    mass : mapping of (module type or glob) to float, optional
        The mass of modules of that type, or of that name, whose parts are scaled in
        proportion (`tare`); or of parameters of that name, at each use. In a name
        such as ``"blocks.*"`` a star stays between two dots; ``""`` is the model. Of
        several that fit, the last counts.
    sensitivity : mapping of (module type or glob) to float, optional
        The sensitivity of modules of that type or name.
    overrides : sequence of (selector, Norm or dict), optional
        As for `metrize`: norms (and settings of groups) of parameters. A unit weight
        of another norm may stretch its input more or less than a factor of 1: then
        set ``sensitivity`` too. Scales are worked out here and cannot be set.
    head : bool, str, list of str or None, optional
        As for `metrize`; default False, where the last layer is as any other.

    Returns
    -------
    Modular
        Frozen parameters are no part of it.

    Raises
    ------
    TypeError
        If there is no rule for a module; the message says what to do.
    ValueError
        If an entry of ``mass`` or ``sensitivity`` fits nothing or is negative, or an
        override sets a scale.

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
    found = metrize(model, [*_heads(model), *(overrides or ())], head=head)
    rows = found.rows
    if any(row.scale != 1 for row in rows):
        raise ValueError("scales follow from the masses: set mass, not scale")
    reader = Reader(model, rows, dict(mass or {}), dict(sensitivity or {}))
    result = reader(model)
    reader.all_used()
    return result


class Reader:
    """What a rule is given: the way to the modular norms of a module's parts."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        mass: dict[type[nn.Module] | str, float],
        sensitivity: dict[type[nn.Module] | str, float],
    ) -> None:
        self._rows = {id(row.param): row for row in rows}
        self._names: dict[int, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self._names.setdefault(id(module), []).append(name)
        self._given = {"mass": mass, "sensitivity": sensitivity}
        for what, values in self._given.items():
            for selector, value in values.items():
                weight_of(value, f"{what}[{selector!r}]")
        self._used: set[tuple[str, type[nn.Module] | str]] = set()

    def __call__(self, module: nn.Module) -> Modular:
        """The modular norm of one part of the model, with what was set by hand."""
        sensitivity = self._find("sensitivity", module)
        rule = _rule(type(module))
        if rule is not None:
            result = rule(module, self)
        elif sensitivity is not None and not any(True for _ in module.parameters()):
            result = bond(sensitivity)
        else:
            raise TypeError(
                f"no rule for {type(module).__name__} (module {self._name(module)!r}):"
                " write one with norms.module_rule, or, if it holds no weights, give "
                "its sensitivity"
            )
        if sensitivity is not None:
            result = Modular(sensitivity, result.leaves)
        mass = self._find("mass", module) if result.leaves else None
        return result if mass is None else tare(result, mass)

    def layer(self, module: nn.Module, gain: float = 1.0, mass: float = 1.0) -> Modular:
        """The parameters a module owns itself, as one layer of sensitivity ``gain``.

        Parameters
        ----------
        module : torch.nn.Module
            The module.
        gain : float, optional
            How much of a unit change of a weight arrives at the output; default 1.
        mass : float, optional
            Shared equally by the trainable parameters; default 1.
        """
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        leaves = []
        for row in (self._rows[id(p)] for p in own):
            by_hand = self._find("mass", row)
            share = mass / len(own) if by_hand is None else by_hand
            leaves.append(Leaf(row, share, gain))
        return Modular(gain, tuple(leaves))

    def all_used(self) -> None:
        """ValueError for an override that fits nothing."""
        for what, values in self._given.items():
            for selector in values:
                if (what, selector) not in self._used:
                    raise ValueError(f"{what}[{selector!r}] fits nothing of the model")

    def _find(self, what: str, of: nn.Module | Row) -> float | None:
        if isinstance(of, Row):
            names = [of.name, *of.shared]
        else:
            names = self._names.get(id(of), [])
        value = None
        for selector, candidate in self._given[what].items():
            if isinstance(selector, str):
                fits = any(_matches(name, selector) for name in names)
            else:
                fits = isinstance(of, selector)
            if fits:
                self._used.add((what, selector))
                value = float(candidate)
        return value

    def _name(self, module: nn.Module) -> str:
        return self._names.get(id(module), ["outside the model"])[0]


def _heads(model: nn.Module) -> list[Override]:
    """The heads of attention apart, so that each gets queries and keys of RMS 1."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [
        (partial(_is, id(p)), Split(norm, 3 * module.num_heads))
        for module in modules
        if isinstance(module, nn.MultiheadAttention)
        for norm, p in (
            (RMSToRMS(), module.in_proj_weight),
            (RMS(), module.in_proj_bias),
        )
        if p is not None
    ]


def _is(key: int, name: str, param: Tensor, module: nn.Module) -> bool:
    return id(param) == key


def _matches(name: str, selector: str) -> bool:
    """Glob in which a star stays between two dots, as layers nest in layers."""
    parts, globs = name.split("."), selector.split(".")
    if not name or not selector:  # the model itself
        return name == selector
    return len(parts) == len(globs) and all(map(fnmatchcase, parts, globs))


def _rule(kind: type[nn.Module]) -> Rule | None:
    for parent in kind.__mro__:
        if parent in _RULES:
            return _RULES[parent] if kind.forward is parent.forward else None
    return None
