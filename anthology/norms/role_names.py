"""What names say: positions, gains, tables of numbers, adapters."""

import re

from torch import Tensor, nn

from anthology.norms.base import Norm
from anthology.norms.operator import OneToRMS, RMSToInf
from anthology.norms.places import Place, Role
from anthology.norms.spectral import Conv, RMSToRMS
from anthology.norms.stored import Transpose
from anthology.norms.vector import RMS, LInf

ROWS = Transpose(OneToRMS())

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
    r"^(A_logs?|A_log_.*|log_A.*|A_real|A_imag|(log_|inv_)?dt(_bias)?|Ds?|sinks|recurrent_param"
    r"|time_(decay|first|faaaa|maa|mix).*|.*bias_table)$"
)
_NORM = re.compile(r"norm(gated|layer|\dd)?$|rms_?norm|layer_?norm", re.IGNORECASE)
_NORM_GAINS = ("weight", "scale", "gamma", "gain", "g", "a_2")
_NORM_BIASES = ("bias", "beta", "b", "b_2", "shift")


def of_norm(place: Place) -> Role | None:
    """Gain or bias of a normalisation layer of any package, by its type's name."""
    if not _NORM.search(type(place.module).__name__) or place.param.ndim > 2:
        return None
    if place.name in _NORM_GAINS:
        return Role("gain", LInf(), place.kind)
    if place.name in _NORM_BIASES:
        return Role("bias", RMS(), place.kind)
    return None


def of_adapter(place: Place) -> Role | None:
    """The factors of LoRA and of its kin, as in peft."""
    full = f"{place.path}.{place.name}"
    found = re.search(
        r"(?:^|\.)(lora_(?:embedding_)?[AB]|lora_magnitude_vector)\.", full
    )
    if not found or place.name == "bias":
        return None
    which, p = found.group(1), place.param
    if which.endswith("vector"):
        return Role("gain", LInf(), "DoRA's lengths")
    if which == "lora_embedding_A":
        return Role("embedding", OneToRMS(), "LoRA of a table, r × tokens")
    outer = place.modules.get(full[: found.start()])
    base = getattr(outer, "base_layer", None)
    if which == "lora_B" and p.ndim == 2 and id(base) in place.heads:
        return Role("head", RMSToInf(), "LoRA of the head")
    norm = norm_by_shape(p.ndim)
    return Role("lora", norm, f"LoRA, {which[-1]}")


def of_entries(place: Place) -> Role | None:
    """A parameter each entry of which stands for itself."""
    alone = place.name in ("D", "Ds", "dt") and not _states(place.module)
    if _ENTRYWISE.match(place.name) and not alone:
        return Role("entrywise", LInf(), f"named {place.name}")
    return None


def by_name(place: Place) -> Role | None:
    """A parameter that a module of one's own holds, by its name."""
    name, p = place.name, place.param
    if p.ndim in (1, 2, 3) and _TABLE.search(name):
        norm = ROWS if p.ndim > 1 else RMS()
        return Role("embedding", norm, f"named {name}")
    one = p.numel() == max(p.shape, default=1)
    if _GAIN.search(name) and (one or _one_an_expert(p, place.module)):
        return Role("gain", LInf(), f"named {name}")
    if "bias" in name.lower().split("_") and p.ndim > 1:
        if _one_an_expert(p, place.module):
            return Role("bias", ROWS, "a row for each expert")
        return Role("entrywise", LInf(), f"named {name}, no row")
    return None


def norm_by_shape(ndim: int) -> Norm:
    """The norm of a parameter of which only the number of axes is known.

    Up to one axis RMS, two RMSToRMS, more the convolution kernel Conv(ndim − 2).
    """
    if ndim <= 1:
        return RMS()
    return RMSToRMS() if ndim == 2 else Conv(ndim - 2)


def _states(module: nn.Module) -> bool:
    """Whether a module is a state space, which has A beside its D."""
    return any(name.startswith(("A_", "log_A")) for name in module._parameters)


def _one_an_expert(p: Tensor, module: nn.Module) -> bool:
    """Whether these are rows, as many as the module has matrices in a stack."""
    if p.ndim < 2:
        return False
    lead = p.shape[:-2] if p.shape[-2] == 1 and p.ndim > 2 else p.shape[:-1]
    others = (x for x in module.parameters(recurse=False) if x is not p)
    return p.numel() > p.shape[-1] and any(
        x.ndim > 2 and x.shape[:-2] == lead for x in others
    )
