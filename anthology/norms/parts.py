"""Weights that are several in one tensor: which rows belong together."""

import re

from torch import Tensor, nn

from anthology.norms.base import Norm
from anthology.norms.heads import is_attention
from anthology.norms.places import Place
from anthology.norms.spectral import RMSToRMS
from anthology.norms.stored import Parts, Split, transposed

_QKV = re.compile(
    r"^(qkv|qkv_(proj|linear)|w_?qkv|to_qkv|c_attn|query_key_value)$", re.IGNORECASE
)
_KV = re.compile(r"^(kv|kv_(proj|linear)|w_?kv|to_kv)$", re.IGNORECASE)
HALVES = re.compile(
    r"^(gate_up_proj|gate_up|up_gate_proj|gate_and_up_proj|w12|w13|Wi|wi_fused)$"
)
_ROWS = re.compile(
    r"^(w?[qkv]|to_[qkv]|[qkv]_(proj|lin)|query|key|value)$", re.IGNORECASE
)
_COLUMNS = re.compile(
    r"^(w?o|o_proj|out|out_(proj|lin)|to_out|c_proj|proj|dense)$", re.IGNORECASE
)
_HEADS = "num_heads num_attention_heads n_heads n_head nhead heads"
_GROUPS = "num_key_value_heads num_kv_heads n_kv_heads n_kv_head kv_heads"
_WIDTH = "head_dim attention_head_size head_size key_value_proj_dim d_head"


def of_linear(place: Place, inputs: int, outputs: int) -> tuple[str, Norm, str]:
    """Role and norm of a linear layer stored out × in, and how it falls into parts."""
    name, parent = next(place.above(), ("", None))
    parts: Parts | None = None
    role, said, plain = "linear", "", RMSToRMS()
    if parent is None:
        return role, plain, said
    if _QKV.match(name) or (name == "in_proj" and is_attention(parent)):
        parts = _queries(parent, name, inputs, outputs, bool(place.split))
        apart = f", {parts} heads" if isinstance(parts, int) and parts > 3 else ""
        role, said = "qkv", f"q, k, v fused{apart}"
    elif _KV.match(name):
        role, said, parts = "qkv", "k, v fused", None if outputs % 2 else 2
    elif HALVES.match(name):
        role, said, parts = "fused", "gate and up fused", None if outputs % 2 else 2
    elif name in ("in_proj", "x_proj"):
        role, said, parts = "fused", "fused", _mamba(parent, name, outputs)
    if parts:
        return role, Split(plain, parts), said
    along = bool(_COLUMNS.match(name))
    count = 0
    if place.split and (along or _ROWS.match(name)):
        count = _heads(place, parent, inputs if along else outputs)
    if not count:
        return "linear", plain, ""
    each = Split(transposed(plain, along), count)
    return "linear", transposed(each, along), f"{count} heads"


def stack_turned(name: str, module: nn.Module) -> bool:
    """Whether a stack of experts is stored in × out, by the one that comes after."""
    held = module._parameters

    def sides(*names: str) -> Tensor | None:
        found = (held.get(n) for n in names)
        return next((p for p in found if p is not None and p.ndim > 2), None)

    up, down = sides("gate_up_proj", "up_proj"), sides("down_proj")
    if name not in ("gate_up_proj", "up_proj", "down_proj"):
        return False
    if up is None or down is None:
        return False
    fold = 2 if "gate_up_proj" in held else 1
    (a, b), (c, d) = up.shape[-2:], down.shape[-2:]
    return bool(b == fold * c and a == d and not (a == fold * d and b == c))


def _queries(
    parent: nn.Module, name: str, inputs: int, outputs: int, apart: bool
) -> Parts | None:
    """Heights of query, key and value; heads apart where they alternate."""
    heads = _number(parent, _HEADS)
    groups = _number(parent, _GROUPS) or heads
    if heads:
        width = _number(parent, _WIDTH) or outputs // (heads + 2 * groups)
        if width * (heads + 2 * groups) == outputs:
            if apart or name == "query_key_value":
                return heads + 2 * groups
            one = groups * width
            return 3 if heads == groups else (heads * width, one, one)
    if outputs == 3 * inputs:
        return 3
    return 2 if name == "c_attn" and outputs == 2 * inputs else None


def _mamba(parent: nn.Module, name: str, outputs: int) -> Parts | None:
    """The parts of Mamba's two input projections."""
    inner = _number(parent, "intermediate_size d_inner")
    state = _number(parent, "ssm_state_size d_state")
    if not inner or not state:
        return None
    if name == "x_proj":
        steps = _number(parent, "time_step_rank dt_rank")
        fits = steps and steps + 2 * state == outputs
        return (steps, state, state) if fits else None
    if outputs == 2 * inner:
        return 2
    sets = state * _number(parent, "n_groups ngroups")
    times = _number(parent, "num_heads nheads")
    fits = sets and times and outputs == 2 * inner + 2 * sets + times
    return (inner, inner, sets, sets, times) if fits else None


def _heads(place: Place, parent: nn.Module, size: int) -> int:
    """Into how many heads the outputs (or inputs) of a projection fall; 0 if none."""
    if not is_attention(parent):  # BERT's: attention.self, attention.output.dense
        around = [module for _, module in place.above()]
        found = getattr(around[1], "self", None) if len(around) > 1 else None
        if not isinstance(found, nn.Module) or not is_attention(found):
            return 0
        parent = found
    width = _number(parent, _WIDTH)
    if not width:
        heads = _number(parent, _HEADS)
        heads = heads or (int(place.split) if place.split is not True else 0)
        queries = (
            getattr(module, "_parameters", {}).get("weight")
            for name, module in parent.named_children()
            if re.match(r"^(w?q|q_.*|to_q|query)$", name)
        )
        weight = next(queries, None)
        whole = len(weight) if weight is not None and weight.ndim == 2 else size
        width = whole // heads if heads and whole % heads == 0 else 0
    return size // width if width and size % width == 0 and size != width else 0


def _number(module: nn.Module, names: str) -> int:
    """The first positive count that a module, or its ``config``, has under a name."""
    for source in (module, getattr(module, "config", None)):
        for name in names.split():
            found = getattr(source, name, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return 0
