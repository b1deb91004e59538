"""The norm each parameter of a model deserves, by what it does there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from anthology.norms.base import Norm, positive
from anthology.norms.metrized import Metrized, Row
from anthology.norms.role_rules import is_router, role_of
from anthology.norms.vector import RMS

Selector = type[nn.Module] | str | Callable[[str, Tensor, nn.Module], bool]
Override = tuple[Selector, Norm | dict[str, Any]]

_HEADLESS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


@dataclass
class _Found:
    """One parameter and every place that owns it, the first one leading."""

    param: Tensor
    owners: list[tuple[str, nn.Module]]


def metrize(
    model: nn.Module,
    overrides: Sequence[Override] | None = None,
    *,
    head: bool | str = True,
) -> Metrized:
    """Give every trainable parameter of a model the norm that fits its role.

    ==========  ================================================  ==================
    role        parameters                                        norm
    ==========  ================================================  ==================
    linear      ``nn.Linear`` weights                             RMSToRMS()
    head        the weight of the last ``nn.Linear``              RMSToInf()
    embedding   ``nn.Embedding``, ``nn.EmbeddingBag`` weights;    Transpose(OneToRMS())
                positions and class tokens, a row each: 1×n×d,
                or two axes and such a name (``pos_embed``,
                ``position``, ``cls_token`` …)
    conv        convolution kernels with N spatial axes; each     Conv(N)
                group of a grouped one on its own; transposed
                ones, stored in × out, read the right way round
    gain        weights of layer, RMS, group, batch and instance  LInf()
                normalisation; a scale for each channel, C×1×1
    qkv         fused projections of ``nn.MultiheadAttention``:   Split(RMSToRMS(), 3)
                three matrices in one tensor
    recurrent   weights of RNN, GRU and LSTM, one matrix a gate   Split(RMSToRMS(), k)
    stack       a parameter of three axes that no module above    RMSToRMS()
                owns: one matrix (d_out, d_in) for each expert
    bias        every bias; one bias an expert: each on its own,  RMS()
                the largest counts                                Transpose(OneToRMS())
    other       anything else, by its shape alone: up to one      RMS(), RMSToRMS(),
                axis, two axes, more axes                         Conv(N)
    ==========  ================================================  ==================

    The norms of the first rows follow Bernstein & Newhouse 2024 (arXiv 2410.21265)
    and Pethick et al. 2025 (arXiv 2502.07529), the parts of fused weights the
    maximum over layers of Bernstein & Newhouse 2024 (arXiv 2409.20325), Prop. 7.

    Shape alone cannot tell which axis of a stack is the input's: where experts are
    stored in × out, say ``("*.experts.*", Transpose(RMSToRMS()))``. Nor can it tell a
    stack from the kernels of a convolution of your own: a module with "conv" in the
    name of its type keeps kernels. A router ``nn.Linear`` (``router``, ``gate``) is
    "linear", also where it comes last. Kernels as one flat matrix are
    ``(nn.Conv2d, FlatConv(2))`` or ``FlatSpectral(2)``.

    Parameters
    ----------
    model : torch.nn.Module
        Every parameter must have its shape already (run lazy modules once).
    overrides : sequence of (selector, Norm or dict), optional
        A selector is a module type (all parameters such modules own), a glob on the
        parameter's name such as ``"blocks.*.weight"``, or a function ``(name, param,
        module) -> bool``. A norm replaces the norm; a dict may set ``norm``,
        ``role``, ``scale`` and any option of the optimizer, such as ``lr``. Applied
        in order, later ones win. A norm that needs more axes than a parameter
        has passes it by.
    head : bool or str
        True finds the output head: the last ``nn.Linear`` in the order of
        registration that is no router and not inside an attention module or a layer
        of ``nn.Transformer``. False treats it as any other layer; a string names the module.

    Returns
    -------
    Metrized
        Groups in order of first appearance. Each trainable parameter is in exactly
        one. A tied weight is taken once, in its first role, and the table names its
        other places; frozen parameters are in the table only.

    Raises
    ------
    TypeError
        If an argument has the wrong type.
    ValueError
        If an override changes nothing, or ``head`` names no module with a weight
        matrix, or a parameter has no shape yet.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"metrize needs a torch.nn.Module, got {type(model).__name__}")
    found = _collect(model)
    chosen = _head(model, head)
    rows = [_row(entry, chosen) for entry in found]
    for selector, change in _checked(overrides or ()):
        hits = [i for i, entry in enumerate(found) if _selects(selector, entry)]
        hits = [i for i in hits if _fits(change, rows[i])]
        if not hits:
            raise ValueError(
                f"the override ({selector!r}, {change!r}) fits no parameter of the "
                f"model (names: {', '.join(row.name for row in rows[:8])}, …)"
            )
        for i in hits:
            rows[i] = _changed(rows[i], change)
    return Metrized(rows)


def _collect(model: nn.Module) -> list[_Found]:
    found: dict[int, _Found] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, param in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if is_lazy(param):
                raise ValueError(f"{full} has no shape yet: run the model once first")
            entry = found.setdefault(id(param), _Found(param, []))
            entry.owners.append((full, module))
    return list(found.values())


def _row(entry: _Found, head: nn.Module | None) -> Row:
    (name, module), *others = entry.owners
    role, norm = role_of(name.rpartition(".")[2], entry.param, module, module is head)
    return Row(
        name=name,
        param=entry.param,
        role=role,
        norm=norm,
        shared=tuple(other for other, _ in others),
        trainable=entry.param.requires_grad,
    )


def _head(model: nn.Module, head: bool | str) -> nn.Module | None:
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    if isinstance(head, str):
        named = dict(model.named_modules(remove_duplicate=False))
        weight = getattr(named.get(head), "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            raise ValueError(
                f"head={head!r} names no module with a weight matrix "
                f"(linear layers: {', '.join(linear) or 'none'})"
            )
        found: nn.Module = named[head]
        return found
    if not isinstance(head, bool):
        raise TypeError(f"head must be True, False or a module's name, got {head!r}")
    inside = {
        id(part)
        for module in model.modules()
        if isinstance(module, _HEADLESS)
        for part in module.modules()
    }
    inside |= {id(module) for name, module in linear.items() if is_router(name)}
    free = [module for module in linear.values() if id(module) not in inside]
    return free[-1] if head and free else None


def _checked(overrides: Sequence[Override]) -> Sequence[Override]:
    for override in overrides:
        if not isinstance(override, tuple | list) or len(override) != 2:
            raise TypeError(
                f"an override is a pair (selector, Norm or dict), got {override!r}"
            )
        selector, change = override
        if isinstance(selector, type):
            known = issubclass(selector, nn.Module)
        else:
            known = isinstance(selector, str) or callable(selector)
        if not known:
            raise TypeError(
                "a selector is a module type, a glob or a function "
                f"(name, param, module), got {selector!r}"
            )
        norm = change.get("norm", RMS()) if isinstance(change, dict) else change
        if not isinstance(norm, Norm):
            raise TypeError(f"an override needs a Norm or a dict, got {change!r}")
        if isinstance(change, dict) and {"params", "param_names"} & set(change):
            raise ValueError("an override cannot set the parameters of a group")
    return overrides


def _selects(selector: Selector, entry: _Found) -> bool:
    if isinstance(selector, str):
        return any(fnmatchcase(name, selector) for name, _ in entry.owners)
    if isinstance(selector, type):
        return any(isinstance(module, selector) for _, module in entry.owners)
    return any(selector(name, entry.param, module) for name, module in entry.owners)


def _fits(change: Norm | dict[str, Any], row: Row) -> bool:
    norm = change.get("norm") if isinstance(change, dict) else change
    return norm is None or norm.ndim <= max(1, row.param.ndim)


def _changed(row: Row, change: Norm | dict[str, Any]) -> Row:
    settings: dict[str, Any] = (
        dict(change) if isinstance(change, dict) else {"norm": change}
    )
    norm = settings.pop("norm", row.norm)
    if norm.ndim > 1:
        norm._check(row.param)
    return replace(
        row,
        norm=norm,
        role=settings.pop("role", row.role),
        scale=positive(settings.pop("scale", row.scale), "scale"),
        settings={**row.settings, **settings},
    )
