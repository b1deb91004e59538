"""Weights that are several in one tensor: which rows belong together."""

import re
from typing import Any

from torch import Tensor, nn

from anthology.norms.heads import is_attention
from anthology.norms.places import Place

Parts = int | tuple[int, ...]

_QKV = re.compile(
    r"^(qkv|qkv_(proj|linear)|w_?qkv|to_qkv|c_attn|query_key_value)$", re.IGNORECASE
)
_KV = re.compile(r"^(kv|kv_(proj|linear)|w_?kv|to_kv)$", re.IGNORECASE)
_HALVES = re.compile(
    r"^(gate_up_proj|gate_up|up_gate_proj|gate_and_up_proj|w12|w13|Wi|wi_fused)$"
)
_ROWS = re.compile(
    r"^(w?[qkv]|to_[qkv]|[qkv]_(proj|lin)|query|key|value)$", re.IGNORECASE
)
_COLUMNS = re.compile(
    r"^(w?o|o_proj|out|out_(proj|lin)|to_out|c_proj|proj|dense)$", re.IGNORECASE
)

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
_GROUPS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")
_WIDTH = (
    "head_dim",
    "attention_head_size",
    "head_size",
    "key_value_proj_dim",
    "d_head",
)
_INNER = ("intermediate_size", "d_inner")
_STATE = ("ssm_state_size", "d_state")
_SETS = ("n_groups", "ngroups")
_STEPS = ("time_step_rank", "dt_rank")
_TIMES = ("num_heads", "nheads")


def fused(place: Place, inputs: int, outputs: int) -> tuple[str, Parts, str] | None:
    """How the outputs of a linear layer fall into several layers'."""
    parent, name = place.outer(), place.leaf
    if parent is None:
        return None
    if _QKV.match(name) or (name == "in_proj" and is_attention(parent)):
        parts = _attention(parent, name, inputs, outputs, bool(place.split))
        apart = f", {parts} heads" if isinstance(parts, int) and parts > 3 else ""
        return ("qkv", parts, f"q, k, v fused{apart}") if parts else None
    if _KV.match(name) and outputs % 2 == 0:
        return "qkv", 2, "k, v fused"
    if _HALVES.match(name) and outputs % 2 == 0:
        return "fused", 2, "gate and up fused"
    parts = _mixer(parent, name, outputs)
    return ("fused", parts, "fused") if parts else None


def per_head(place: Place, inputs: int, outputs: int) -> tuple[int, bool, str] | None:
    """How many heads an unfused projection of attention has."""
    parent, name = place.outer(), place.leaf
    rows, columns = bool(_ROWS.match(name)), bool(_COLUMNS.match(name))
    if not place.split or parent is None or not (rows or columns):
        return None
    if not is_attention(parent):  # BERT's: attention.self, attention.output.dense
        parent = getattr(place.outer(2), "self", None)
        if not isinstance(parent, nn.Module) or not is_attention(parent):
            return None
    width = _head_width(place, parent, inputs if columns else outputs)
    size = inputs if columns else outputs
    if not width or size % width or size == width:
        return None
    return size // width, columns, f"{size // width} heads"


def halves(name: str) -> bool:
    """Whether a stack of that name has gate and up in one."""
    return bool(_HALVES.match(name))


def stack_turned(name: str, p: Tensor, module: nn.Module) -> bool:
    """Whether a stack of experts is stored in × out, by the one that comes after."""
    up = own_of(module, ("gate_up_proj", "up_proj"))
    down = own_of(module, ("down_proj",))
    if (
        up is None
        or down is None
        or name not in ("gate_up_proj", "up_proj", "down_proj")
    ):
        return False
    fold = 1 if "gate_up_proj" not in module._parameters else 2
    (a, b), (c, d) = up.shape[-2:], down.shape[-2:]
    return bool(b == fold * c and a == d and not (a == fold * d and b == c))


def own_of(module: nn.Module, names: tuple[str, ...]) -> Tensor | None:
    """The first of several parameters that a module has."""
    found = (module._parameters.get(name) for name in names)
    return next((p for p in found if p is not None and p.ndim > 2), None)


def _attention(
    parent: nn.Module, name: str, inputs: int, outputs: int, apart: bool
) -> Parts | None:
    """Heights of query, key and value; heads apart where they alternate."""
    heads = _number(parent, _HEADS)
    groups = _number(parent, _GROUPS) or heads
    if heads and groups:
        width = _number(parent, _WIDTH) or outputs // (heads + 2 * groups)
        if width * (heads + 2 * groups) == outputs:
            if apart or name == "query_key_value":
                return heads + 2 * groups
            if heads == groups:
                return 3
            return heads * width, groups * width, groups * width
    if outputs == 3 * inputs:
        return 3
    return 2 if name == "c_attn" and outputs == 2 * inputs else None


def _mixer(parent: nn.Module, name: str, outputs: int) -> Parts | None:
    """The parts of Mamba's two input projections."""
    inner, state = _number(parent, _INNER), _number(parent, _STATE)
    if not inner or not state:
        return None
    if name == "x_proj":
        steps = _number(parent, _STEPS)
        fits = steps and steps + 2 * state == outputs
        return (steps, state, state) if fits and steps else None
    if name != "in_proj":
        return None
    if outputs == 2 * inner:
        return 2
    sets, times = _number(parent, _SETS), _number(parent, _TIMES)
    if sets and times and outputs == 2 * inner + 2 * sets * state + times:
        return inner, inner, sets * state, sets * state, times
    return None


def _head_width(place: Place, parent: nn.Module, size: int) -> int:
    """Features of one head; 0 if nobody says."""
    told = _number(parent, _WIDTH)
    if told:
        return told
    heads = _number(parent, _HEADS)
    if not heads and place.split is not True:
        heads = int(place.split)
    if not heads:
        return 0
    query = next(
        (
            m
            for n, m in parent.named_children()
            if re.match(r"^(w?q|q_.*|to_q|query)$", n)
        ),
        None,
    )
    weight = getattr(query, "_parameters", {}).get("weight")
    whole = len(weight) if weight is not None and weight.ndim == 2 else size
    return whole // heads if whole % heads == 0 else 0


def _number(module: nn.Module, names: tuple[str, ...]) -> int:
    """The first positive count that a module, or its ``config``, has under a name."""
    for source in (module, getattr(module, "config", None)):
        for name in names:
            found: Any = getattr(source, name, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return 0
