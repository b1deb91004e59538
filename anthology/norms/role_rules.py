"""What a parameter does, told from its module, its name and its shape."""

import re
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from anthology.norms import layers
from anthology.norms.base import Norm
from anthology.norms.by_hand import by_a_users_rule
from anthology.norms.layers import Role, Use
from anthology.norms.lp import RMS, LInf, OneToRMS, RMSToInf
from anthology.norms.spectral import Conv, RMSToRMS
from anthology.norms.stored import Transpose, in_parts, transposed

_ROWS = Transpose(OneToRMS())
_TORCHS_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
_NORM = re.compile(r"norm(gated|layer|\dd)?$|rms_?norm|layer_?norm", re.IGNORECASE)
_NORM_GAINS = ("weight", "scale", "gamma", "gain", "g", "a_2")
_NORM_BIASES = ("bias", "beta", "b", "b_2", "shift")
_LORA = re.compile(r"(?:^|\.)(lora_(?:embedding_)?[AB]|lora_magnitude_vector)\.")
# pos_embed, position_embeddings, positional_embedding, class_embedding, position,
# cls_token, mask_tokens, registers, rel_pos_h, wte, token_embedding …
_TABLE = re.compile(
    r"(^|_)((pos|position|positional|cls|class|tok|token|word|char|vocab|patch|level)?"
    r"_?emb(ed(ding)?)?s?(_(weight|table))?|rel_pos(_[a-z])?|wte|wpe"
    r"|pos(ition)?s?|tokens?|registers?)$",
    re.IGNORECASE,
)
_GAIN = re.compile(
    r"(^|_)(gamma|gain|scale|scaling|layer_?scale|lambda|magnitude_vector)"
    r"_?\d*(_parameter)?$|^ia3_l$",
    re.IGNORECASE,
)
# state spaces, RWKV, tables added to the logits of attention
_ENTRYWISE = re.compile(
    r"^(A_logs?|A_log_.*|log_A.*|A_real|A_imag|(log_|inv_)?dt(_bias)?|Ds?|sinks"
    r"|recurrent_param|time_(decay|first|faaaa|maa|mix).*|.*bias_table)$"
)
_EXPERTS = re.compile(r"expert|(^|_|\.)moe($|_|\.)", re.IGNORECASE)
_KERNEL = 15  # no kernel of a convolution is wider, both ways


def role_of(use: Use) -> Role:
    """The role and the norm of one parameter; see the table of `metrize`."""
    found = (rule(use) for rule in _RULES)
    by_shape = Role("other", norm_by_shape(use.param.ndim), "by shape alone")
    return next((role for role in found if role is not None), by_shape)


def norm_by_shape(ndim: int) -> Norm:
    """The norm of a parameter of which only the number of axes is known.

    Up to one axis RMS, two RMSToRMS, more the convolution kernel Conv(ndim − 2).
    """
    if ndim <= 1:
        return RMS()
    return RMSToRMS() if ndim == 2 else Conv(ndim - 2)


def _parametrized(use: Use) -> Role | None:
    """What `torch.nn.utils.parametrizations` holds, as what it is made into."""
    path, made, name = use.path.rpartition("parametrizations.")
    if isinstance(use.module, ParametrizationList) and made:
        path, several = path.rstrip("."), use.name != "original"
    else:
        name, _, which = use.name.rpartition("_")
        path, several = use.path, which in ("g", "v")
        pair = {f"{name}_g", f"{name}_v"} <= set(use.module._parameters)
        if not pair and which != "orig":
            return None
    base = use.modules[path]
    if several and use.is_line:
        return Role("gain", LInf(), f"lengths of {layers.kind_of(base)}")
    found = role_of(replace(use, name=name, module=base, path=path))
    return found._replace(why=f"{found.why}, parametrized")


def _adapter(use: Use) -> Role | None:
    """The factors of LoRA and of its kin, as in peft."""
    full = f"{use.path}.{use.name}"
    found = _LORA.search(full)
    if not found or use.name == "bias":
        return None
    which = found.group(1)
    if which.endswith("vector"):
        return Role("gain", LInf(), "DoRA's lengths")
    if which == "lora_embedding_A":
        return Role("embedding", OneToRMS(), "LoRA of a table, r × tokens")
    base = getattr(use.modules.get(full[: found.start()]), "base_layer", None)
    if which == "lora_B" and use.param.ndim == 2 and id(base) in use.heads:
        return Role("head", RMSToInf(), "LoRA of the head")
    return Role("lora", norm_by_shape(use.param.ndim), f"LoRA, {which[-1]}")


def _of_lines(use: Use) -> Role | None:
    """Gains and biases of normalisation layers, entries alone, and biases."""
    name, module = use.name, use.module
    named = _NORM.search(type(module).__name__) and use.param.ndim <= 2
    if named or isinstance(module, _TORCHS_NORMS):
        if name in _NORM_GAINS:
            return Role("gain", LInf(), use.kind)
        if name in _NORM_BIASES:
            return Role("bias", RMS(), use.kind)
    # a state space has A beside its D
    states = any(key.startswith(("A_", "log_A")) for key in module._parameters)
    if _ENTRYWISE.match(name) and (states or name not in ("D", "Ds", "dt")):
        return Role("entrywise", LInf(), f"named {name}")
    if use.is_line and (name.startswith("bias_") or f"_{name}".endswith("_bias")):
        return Role("bias", RMS(), use.kind)
    return None


def _of_torch(use: Use) -> Role | None:
    """Attention, recurrent cells, tables and convolutions; and those named so."""
    name, p, module, kind = use.name, use.param, use.module, use.kind
    if isinstance(module, nn.MultiheadAttention) and name.endswith("_proj_weight"):
        role, why, parts = "linear", kind, 1
        if name == "in_proj_weight":
            role, why, parts = "qkv", f"{kind}, q, k, v fused", 3
        if use.split:
            parts *= module.num_heads
            why += f", {parts} heads"
        return Role(role, in_parts(RMSToRMS(), parts), why)
    if p.ndim == 2 and re.match(r"weight_(ih|hh|hr)", name):
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            size = module.hidden_size
        else:
            state = re.sub("^weight_(ih|hr)", "weight_hh", name)
            other = module._parameters.get(state)
            size = other.shape[1] if other is not None else len(p)
        gates = 1 if name.startswith("weight_hr") or len(p) % size else len(p) // size
        why = f"{kind}, {gates} gates" if gates > 1 else kind
        return Role("recurrent", in_parts(RMSToRMS(), gates), why)
    if name != "weight":
        return None
    named = "embedding" in type(module).__name__.lower() and p.ndim == 2
    if named or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return Role("embedding", _ROWS, kind)
    if isinstance(module, _ConvNd):
        norm = in_parts(transposed(Conv(p.ndim - 2), module.transposed), module.groups)
        if module.groups == module.in_channels > 1:
            return Role("depthwise", norm, f"{kind}, depthwise")
        return Role("conv", norm, kind)
    return None


def _linear(use: Use) -> Role | None:
    """The weight of a linear layer, of a head, or of what a name calls a head."""
    p, module = use.param, use.module
    if use.name != "weight" or p.ndim != 2:
        return None
    stored, head = layers.why_turned(module, p), use.heads.get(id(module))
    router = any(map(layers.is_router, (use.path, use.kind)))
    if not (layers.is_linear(module) or head or stored or router):
        return None
    if head:
        return Role("head", transposed(RMSToInf(), stored), head)
    outputs, inputs = p.shape[::-1] if stored else p.shape
    role, norm, parts = layers.of_linear(use, inputs, outputs)
    said = use.kind, stored, "a router" if router else "", parts
    return Role(role, transposed(norm, stored), ", ".join(filter(None, said)))


def _by_name(use: Use) -> Role | None:
    """A parameter that a module of one's own holds, by its name."""
    name, p, said = use.name, use.param, f"named {use.name}"
    if isinstance(use.module, _ConvNd | nn.Bilinear | ParametrizationList):
        return Role("other", norm_by_shape(p.ndim), f"{use.kind}, by shape")
    if name == "in_proj_weight" and p.ndim == 2 and len(p) == 3 * p.shape[1]:
        return Role("qkv", in_parts(RMSToRMS(), 3), said)
    if p.ndim in (1, 2, 3) and _TABLE.search(name):
        return Role("embedding", _ROWS if p.ndim > 1 else RMS(), said)
    if _GAIN.search(name) and (use.is_line or _one_an_expert(p, use.module)):
        return Role("gain", LInf(), said)
    if "bias" in name.lower().split("_") and p.ndim > 1:
        if _one_an_expert(p, use.module):
            return Role("bias", _ROWS, "a row for each expert")
        return Role("entrywise", LInf(), f"{said}, no row")
    return None


def _one_an_expert(p: Tensor, module: nn.Module) -> bool:
    """Whether these are rows, as many as the module has matrices in a stack."""
    if p.ndim < 2:
        return False
    lead = p.shape[:-2] if p.shape[-2] == 1 and p.ndim > 2 else p.shape[:-1]
    others = (x for x in module.parameters(recurse=False) if x is not p)
    return p.numel() > p.shape[-1] and any(
        x.ndim > 2 and x.shape[:-2] == lead for x in others
    )


def _of_stack(use: Use) -> Role | None:
    """More than two axes in a module of one's own: experts, gains, kernels."""
    name, p, module = use.name, use.param, use.module
    if p.ndim < 3:
        return None
    if p.shape[-1] == 1 and use.is_line:
        return Role("gain", LInf(), "one entry a channel")
    if "conv" in type(module).__name__.lower():
        return None
    if p.ndim == 3 and len(p) == 1:
        return Role("embedding", _ROWS, "rows, 1×n×d")
    experts = _EXPERTS.search(f"{use.path}.{name}.{type(module).__name__}")
    if p.ndim > 3 and not experts and min(p.shape[-2:]) <= _KERNEL:
        return None
    stored = layers.stack_turned(name, module)
    why, parts = "matrices, in × out" if stored else "matrices", 1
    fused = layers.HALVES.match(name) and not use.kind.startswith("GptOss")
    if fused and p.shape[-1 if stored else -2] % 2 == 0:
        why, parts = f"{why}, gate and up fused", 2
    return Role("stack", transposed(in_parts(RMSToRMS(), parts), stored), why)


_RULES: tuple[Callable[[Use], Role | None], ...] = (
    by_a_users_rule,
    _parametrized,
    _adapter,
    _of_lines,
    _of_torch,
    _linear,
    _by_name,
    _of_stack,
)
