"""What a parameter does, told from its module, its name and its shape."""

import re
from collections.abc import Callable
from dataclasses import replace

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from anthology.norms.base import Norm
from anthology.norms.fused import Parts, fused, halves, per_head, stack_turned
from anthology.norms.heads import is_router
from anthology.norms.operator import RMSToInf
from anthology.norms.places import Place, Role, is_linear, kind_of, turned
from anthology.norms.role_names import (
    ROWS,
    by_name,
    norm_by_shape,
    of_adapter,
    of_entries,
    of_norm,
)
from anthology.norms.role_registry import registered
from anthology.norms.spectral import Conv, RMSToRMS
from anthology.norms.stored import Split, Transpose
from anthology.norms.vector import RMS, LInf

_GAINS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
_KERNEL = 15  # no kernel of a convolution is wider, both ways
_EXPERTS = re.compile(r"expert|(^|_|\.)moe($|_|\.)", re.IGNORECASE)


def role_of(place: Place) -> Role:
    """The role and the norm of one parameter; see the table of `metrize`."""
    for rule in _RULES:
        found = rule(place)
        if found is not None:
            return found
    return Role("other", norm_by_shape(place.param.ndim), "by shape alone")


def _parametrized(place: Place) -> Role | None:
    """What `torch.nn.utils.parametrizations` holds, as what it is made into."""
    path, made, name = place.path.rpartition("parametrizations.")
    if isinstance(place.module, ParametrizationList) and made:
        path, several = path.rstrip("."), place.name != "original"
    else:
        name, _, which = place.name.rpartition("_")
        path, several = place.path, which in ("g", "v")
        pair = {f"{name}_g", f"{name}_v"} <= set(place.module._parameters)
        if not pair and which != "orig":
            return None
    base, p = place.modules[path], place.param
    if several and p.numel() == max(p.shape, default=1):
        return Role("gain", LInf(), f"lengths of {kind_of(base)}")
    found = role_of(replace(place, name=name, module=base, path=path))
    return found._replace(why=f"{found.why}, parametrized")


def _gain(place: Place) -> Role | None:
    if not isinstance(place.module, _GAINS) or place.name not in ("weight", "bias"):
        return None
    if place.name == "weight":
        return Role("gain", LInf(), place.kind)
    return Role("bias", RMS(), place.kind)


def _bias(place: Place) -> Role | None:
    name, p = place.name, place.param
    named = name == "bias" or name.startswith("bias_") or name.endswith("_bias")
    if named and p.numel() == max(p.shape, default=1):
        return Role("bias", RMS(), place.kind)
    return None


def _linear(place: Place) -> Role | None:
    """The weight of a linear layer, of a head, or of what a name calls a head."""
    p, module = place.param, place.module
    if place.name != "weight" or p.ndim != 2:
        return None
    stored, router = turned(module, p), is_router(f"{place.path}.{place.kind}")
    router = router or is_router(place.path)
    if not (is_linear(module) or place.head or stored or router):
        return None
    outputs, inputs = p.shape[::-1] if stored else p.shape
    kinds = (place.kind, stored, "a router" if router else "")
    why = ", ".join(filter(None, kinds))
    if place.head:
        return Role("head", _turn(RMSToInf(), stored), place.head)
    known = fused(place, inputs, outputs)
    if known:
        role, parts, said = known
        return Role(role, _turn(Split(RMSToRMS(), parts), stored), f"{why}, {said}")
    heads = per_head(place, inputs, outputs)
    if heads:
        count, along, said = heads
        norm: Norm = RMSToRMS()
        norm = _turn(Split(_turn(norm, along), count), along)
        return Role("linear", _turn(norm, stored), f"{why}, {said}")
    return Role("linear", _turn(RMSToRMS(), stored), why)


def _table(place: Place) -> Role | None:
    known = isinstance(place.module, nn.Embedding | nn.EmbeddingBag)
    named = "embedding" in type(place.module).__name__.lower() and place.param.ndim == 2
    if place.name == "weight" and (known or named):
        return Role("embedding", ROWS, place.kind)
    return None


def _conv(place: Place) -> Role | None:
    module, p = place.module, place.param
    if not isinstance(module, _ConvNd) or place.name != "weight":
        return None
    kernel: Norm = _turn(Conv(p.ndim - 2), module.transposed)
    norm = _split(kernel, module.groups)
    if module.groups == module.in_channels > 1:
        return Role("depthwise", norm, f"{place.kind}, depthwise")
    return Role("conv", norm, place.kind)


def _attention(place: Place) -> Role | None:
    name, module = place.name, place.module
    if not isinstance(module, nn.MultiheadAttention):
        return None
    if name == "in_proj_weight":
        parts = 3 * module.num_heads if place.split else 3
        said = "q, k, v fused" + (f", {parts} heads" if place.split else "")
        return Role("qkv", Split(RMSToRMS(), parts), f"{place.kind}, {said}")
    if name.endswith("_proj_weight"):
        parts = module.num_heads if place.split else 1
        said = f", {parts} heads" if place.split else ""
        return Role("linear", _split(RMSToRMS(), parts), f"{place.kind}{said}")
    return None


def _recurrent(place: Place) -> Role | None:
    """Gates on top of each other: of torch's cells and of those named like them."""
    name, p, module = place.name, place.param, place.module
    if p.ndim != 2 or not re.match(r"weight_(ih|hh|hr)", name):
        return None
    state = re.sub("^weight_(ih|hr)", "weight_hh", name)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        size = module.hidden_size
    else:
        other = module._parameters.get(state)
        size = other.shape[1] if other is not None else len(p)
    gates = 1 if name.startswith("weight_hr") or len(p) % size else len(p) // size
    said = f", {gates} gates" if gates > 1 else ""
    return Role("recurrent", _split(RMSToRMS(), gates), f"{place.kind}{said}")


def _of_torch(place: Place) -> Role | None:
    """Weights of torch's layers that have no norm of their own."""
    if isinstance(place.module, _ConvNd | nn.Bilinear | ParametrizationList):
        return Role("other", norm_by_shape(place.param.ndim), f"{place.kind}, by shape")
    return None


def _fused_table(place: Place) -> Role | None:
    """``in_proj_weight`` in a module of one's own."""
    p = place.param
    if place.name == "in_proj_weight" and p.ndim == 2 and len(p) == 3 * p.shape[1]:
        return Role("qkv", Split(RMSToRMS(), 3), f"named {place.name}")
    return None


def _stack(place: Place) -> Role | None:
    """More than two axes in a module of one's own: experts, gains, kernels."""
    p = place.param
    if p.ndim < 3:
        return None
    if p.shape[-1] == 1 and p.numel() == max(p.shape):
        return Role("gain", LInf(), "one entry a channel")
    if "conv" in type(place.module).__name__.lower():
        return None
    if p.ndim == 3 and len(p) == 1:
        return Role("embedding", ROWS, "rows, 1×n×d")
    around = f"{place.path}.{place.name}.{type(place.module).__name__}"
    if p.ndim > 3 and not _EXPERTS.search(around) and min(p.shape[-2:]) <= _KERNEL:
        return None
    stored = stack_turned(place.name, p, place.module)
    parts: Parts = 1
    if halves(place.name) and not place.kind.startswith("GptOss"):
        parts = 2 if p.shape[-1 if stored else -2] % 2 == 0 else 1
    said = ", in × out" if stored else ""
    said += ", gate and up fused" if parts != 1 else ""
    return Role("stack", _turn(_split(RMSToRMS(), parts), stored), f"matrices{said}")


def _turn(norm: Norm, stored: bool | str) -> Norm:
    if not stored:
        return norm
    return norm.base if isinstance(norm, Transpose) else Transpose(norm)


def _split(norm: Norm, parts: Parts) -> Norm:
    return norm if parts == 1 else Split(norm, parts)


_RULES: tuple[Callable[[Place], Role | None], ...] = (
    registered,
    _parametrized,
    of_adapter,
    _gain,
    of_norm,
    of_entries,
    _bias,
    _attention,
    _recurrent,
    _table,
    _conv,
    _linear,
    _of_torch,
    _fused_table,
    by_name,
    _stack,
)
