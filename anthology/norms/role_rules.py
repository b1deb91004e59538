"""What a parameter does, told from its module, its name and its shape."""

import re

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from anthology.norms.base import Norm
from anthology.norms.operator import OneToRMS, RMSToInf
from anthology.norms.spectral import Conv, RMSToRMS
from anthology.norms.stored import Split, Transpose
from anthology.norms.vector import RMS, LInf

_GAINS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _NormBase)
# pos_embed, position_embeddings, positional_embedding, class_embedding, position,
# cls_token, mask_tokens, registers …
_POSITION = re.compile(
    r"(^|_)((pos|position|positional|cls|class)_?emb(ed(ding)?)?s?"
    r"|pos(ition)?s?|tokens?|registers?)$",
    re.IGNORECASE,
)
_ROWS = Transpose(OneToRMS())


def norm_by_shape(ndim: int) -> Norm:
    """The norm of a parameter of which only the number of axes is known.

    Up to one axis RMS, two RMSToRMS, more the convolution kernel Conv(ndim − 2).
    """
    if ndim <= 1:
        return RMS()
    return RMSToRMS() if ndim == 2 else Conv(ndim - 2)


def role_of(name: str, p: Tensor, module: nn.Module, head: bool) -> tuple[str, Norm]:
    """The role and the norm of one parameter; see the table of `metrize`.

    Parameters
    ----------
    name : str
        Its name in the module that owns it.
    p : Tensor
        The parameter, of which only the shape counts.
    module : torch.nn.Module
        The owner.
    head : bool
        Whether the owner is the output head.

    Returns
    -------
    tuple
        Role and norm.
    """
    if isinstance(module, _GAINS) and name in ("weight", "bias"):
        return ("gain", LInf()) if name == "weight" else ("bias", RMS())
    if _is_bias(name, p):
        return "bias", RMS()
    match module:
        case _ if name == "weight" and head:
            return "head", RMSToInf()
        case nn.Linear() if name == "weight":
            return "linear", RMSToRMS()
        case nn.Embedding() | nn.EmbeddingBag() if name == "weight":
            return "embedding", Transpose(OneToRMS())
        case _ConvNd() if name == "weight":
            kernel: Norm = Conv(p.ndim - 2)
            kernel = Transpose(kernel) if module.transposed else kernel
            return "conv", _split(kernel, module.groups)
        case nn.MultiheadAttention() if name == "in_proj_weight":
            return "qkv", Split(RMSToRMS(), 3)
        case nn.MultiheadAttention() if name.endswith("_proj_weight"):
            return "linear", RMSToRMS()
        case nn.RNNBase() | nn.RNNCellBase() if name.startswith("weight_"):
            return "recurrent", _split(RMSToRMS(), _gates(name, p, module))
        case _ConvNd() | nn.Bilinear() | ParametrizationList():
            return "other", norm_by_shape(p.ndim)
    return _free(name, p, module)


def _free(name: str, p: Tensor, module: nn.Module) -> tuple[str, Norm]:
    """A parameter that a module of one's own holds, by its shape and its name."""
    if p.ndim in (2, 3) and _POSITION.search(name):
        return "embedding", _ROWS
    if p.ndim > 2 and p.shape[-1] == 1 and p.numel() == max(p.shape):
        return "gain", LInf()
    if "bias" in name and _one_an_expert(p, module):
        return "bias", _ROWS
    if p.ndim != 3 or "conv" in type(module).__name__.lower():
        return "other", norm_by_shape(p.ndim)
    return ("embedding", _ROWS) if len(p) == 1 else ("stack", RMSToRMS())


def _one_an_expert(p: Tensor, module: nn.Module) -> bool:
    """Whether these are rows, as many as the module has matrices in a stack."""
    rows = p.ndim == 2 or (p.ndim == 3 and p.shape[1] == 1)
    others = (x for x in module.parameters(recurse=False) if x is not p)
    return rows and any(x.ndim == 3 and len(x) == len(p) > 1 for x in others)


def is_router(name: str) -> bool:
    """Whether a module's full name says that it chooses among experts.

    Parameters
    ----------
    name : str
        Such as ``"blocks.3.router"``.

    Returns
    -------
    bool
        True for a last part that is ``gate`` or has ``router`` in it.
    """
    last = name.rpartition(".")[2].lower()
    return last == "gate" or "router" in last


def _is_bias(name: str, p: Tensor) -> bool:
    named = name == "bias" or name.startswith("bias_") or name.endswith("_bias")
    return named and p.numel() == max(p.shape, default=1)


def _gates(name: str, p: Tensor, module: nn.RNNBase | nn.RNNCellBase) -> int:
    """How many matrices of hidden_size rows a recurrent weight stacks."""
    if not name.startswith(("weight_ih", "weight_hh")):
        return 1
    return p.shape[0] // module.hidden_size


def _split(norm: Norm, parts: int) -> Norm:
    return Split(norm, parts) if parts > 1 else norm
