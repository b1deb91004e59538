"""Where a parameter stands in a model, and what the layers around it say."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from anthology.norms.base import Norm
from anthology.norms.spectral import RMSToRMS
from anthology.norms.stored import Parts, Split, transposed

# of peft, torch.compile, FSDP and activation checkpointing
WRAPPERS = {"base_layer", "_orig_mod"}
WRAPPERS |= {"_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_SIZES = (("in_features", "out_features"), ("nx", "nf"), ("in_dim", "out_dim"))
_QUERIES = re.compile(
    r"^(query|q|wq|q_(proj|lin)|to_q|qkv|qkv_proj|Wqkv|c_attn|query_key_value"
    r"|to_qkv|in_proj_qkv)$"
)
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


class Role(NamedTuple):
    """What a parameter does, how it is measured, and why it was judged so."""

    role: str
    norm: Norm
    why: str


@dataclass(frozen=True)
class Use:
    """One parameter, the module that holds it, and the modules around."""

    name: str
    param: Tensor
    module: nn.Module
    path: str
    modules: Mapping[str, nn.Module]
    heads: Mapping[int, str]
    split: bool | int = False

    @property
    def full(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def kind(self) -> str:
        return kind_of(self.module)

    @property
    def is_line(self) -> bool:
        """Whether all its numbers stand along one axis."""
        return self.param.numel() == max(self.param.shape, default=1)

    def above(self) -> Iterator[tuple[str, nn.Module | None]]:
        """The owner's name and what it is a part of; that one's …; no wrappers."""
        path = self.path
        while path:
            path, _, last = path.rpartition(".")
            if last not in WRAPPERS:
                yield last, self.modules.get(path)


def kind_of(module: nn.Module) -> str:
    """A module's type, with "nn." before those of torch."""
    kinds = type(module).__mro__
    kind = next(k for k in kinds if not k.__name__.startswith(("Parametrized", "FSDP")))
    torchs = kind.__module__.startswith("torch.nn.")
    return f"nn.{kind.__name__}" if torchs else kind.__name__


def own(module: nn.Module, name: str) -> Any:
    """A parameter that a module holds itself, parametrized or not; or None."""
    part = getattr(module._modules.get("parametrizations"), name, None)
    held = module._parameters.get
    # the last two are of the hooks before parametrizations
    found = [held(name), *(getattr(part, k, None) for k in ("original", "original1"))]
    found += [held(f"{name}_orig"), held(f"{name}_v")]
    return next((p for p in found if p is not None), None)


def _told(module: nn.Module) -> tuple[str, tuple[int, int]] | None:
    """Inputs and outputs that a module names, and what it calls the first."""
    for inner, outer in _SIZES:
        sizes = getattr(module, inner, None), getattr(module, outer, None)
        if isinstance(sizes[0], int) and isinstance(sizes[1], int):
            return inner, (sizes[0], sizes[1])
    return None


def why_turned(module: nn.Module, p: Tensor) -> str:
    """Why a matrix is stored in × out, or nothing if it is stored out × in."""
    if isinstance(module, nn.Linear):
        return ""
    if any(kind.__name__ == "Conv1D" for kind in type(module).__mro__):  # of GPT-2
        return "in × out"
    rows, columns = p.shape
    if told := _told(module):
        inner, sizes = told
        there = sizes == (rows, columns) and rows != columns
        return f"in × out by its {inner}" if there else ""
    bias = own(module, "bias")
    along = bias is not None and bias.ndim == 1 and len(bias) == columns != rows
    return "in × out by its bias" if along else ""


def widths(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer of any package; None if it is none."""
    weight = own(module, "weight")
    matrix = weight is not None and weight.ndim == 2
    if isinstance(module, nn.Linear) and not matrix:  # sharded flat, or packed
        return module.in_features, module.out_features
    names = [kind.__name__ for kind in type(module).__mro__]
    called = any(n.endswith(("Linear", "LMHead")) or n == "Conv1D" for n in names)
    known = called or _told(module) is not None
    if not matrix or not known or isinstance(module, nn.Embedding):
        return None
    rows, columns = weight.shape
    return (rows, columns) if why_turned(module, weight) else (columns, rows)


def is_linear(module: nn.Module) -> bool:
    return widths(module) is not None


def is_router(name: str) -> bool:
    """Whether a module's full name says that it chooses among experts."""
    last = name.rpartition(".")[2].lower()
    return last == "gate" or "router" in last


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention by its type or the names of its parts."""
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name or asks(module)


def asks(module: nn.Module) -> bool:
    """Whether a module is one of torch's with attention, or has queries of its own."""
    of_torch = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer
    asks = any(_QUERIES.match(part) for part, _ in module.named_children())
    return asks or isinstance(module, of_torch | nn.MultiheadAttention)


def of_linear(use: Use, inputs: int, outputs: int) -> tuple[str, Norm, str]:
    """Role and norm of a linear layer stored out × in, and how it falls into parts."""
    name, parent = next(use.above(), ("", None))
    plain, parts, halves = RMSToRMS(), None, None if outputs % 2 else 2
    if parent is None:
        return "linear", plain, ""
    role, said = "fused", "fused"
    if _QKV.match(name) or (name == "in_proj" and is_attention(parent)):
        parts = _queries(parent, name, inputs, outputs, bool(use.split))
        many = f", {parts} heads" if isinstance(parts, int) and parts > 3 else ""
        role, said = "qkv", f"q, k, v fused{many}"
    elif _KV.match(name):
        role, said, parts = "qkv", "k, v fused", halves
    elif HALVES.match(name):
        said, parts = "gate and up fused", halves
    elif name in ("in_proj", "x_proj"):
        parts = _mamba(parent, name, outputs)
    if parts:
        return role, Split(plain, parts), said
    along = bool(_COLUMNS.match(name))
    apart = use.split and (along or _ROWS.match(name))
    count = _head_count(use, parent, inputs if along else outputs) if apart else 0
    if not count:
        return "linear", plain, ""
    each = Split(transposed(plain, along), count)
    return "linear", transposed(each, along), f"{count} heads"


def stack_turned(name: str, module: nn.Module) -> bool:
    """Whether a stack of experts is stored in × out, by the one that comes after."""
    held = module._parameters
    sides = {n: p.shape[-2:] for n, p in held.items() if p is not None and p.ndim > 2}
    up = sides.get("gate_up_proj") or sides.get("up_proj")
    down = sides.get("down_proj")
    if not up or not down or name not in ("gate_up_proj", "up_proj", "down_proj"):
        return False
    fold = 2 if "gate_up_proj" in held else 1
    (a, b), (c, d) = up, down
    return b == fold * c and a == d and not (a == fold * d and b == c)


def _queries(
    parent: nn.Module, name: str, inputs: int, outputs: int, apart: bool
) -> Parts | None:
    """Heights of query, key and value; heads apart where they alternate."""
    heads = _named_count(parent, _HEADS)
    groups = _named_count(parent, _GROUPS) or heads
    if heads:
        width = _named_count(parent, _WIDTH) or outputs // (heads + 2 * groups)
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
    inner = _named_count(parent, "intermediate_size d_inner")
    state = _named_count(parent, "ssm_state_size d_state")
    if not inner or not state:
        return None
    if name == "x_proj":
        steps = _named_count(parent, "time_step_rank dt_rank")
        fits = steps and steps + 2 * state == outputs
        return (steps, state, state) if fits else None
    if outputs == 2 * inner:
        return 2
    sets = state * _named_count(parent, "n_groups ngroups")
    times = _named_count(parent, "num_heads nheads")
    fits = sets and times and outputs == 2 * inner + 2 * sets + times
    return (inner, inner, sets, sets, times) if fits else None


def _head_count(use: Use, parent: nn.Module, size: int) -> int:
    """Into how many heads the outputs (or inputs) of a projection fall; 0 if none."""
    if not is_attention(parent):  # BERT's: attention.self, attention.output.dense
        around = [module for _, module in use.above()]
        found = getattr(around[1], "self", None) if len(around) > 1 else None
        if not isinstance(found, nn.Module) or not is_attention(found):
            return 0
        parent = found
    width = _named_count(parent, _WIDTH)
    if not width:
        heads = _named_count(parent, _HEADS)
        heads = heads or (int(use.split) if use.split is not True else 0)
        queries = (
            module._parameters.get("weight")
            for name, module in parent.named_children()
            if re.match(r"^(w?q|q_.*|to_q|query)$", name)
        )
        weight = next(queries, None)
        whole = len(weight) if weight is not None and weight.ndim == 2 else size
        width = whole // heads if heads and whole % heads == 0 else 0
    return size // width if width and size % width == 0 and size != width else 0


def _named_count(module: nn.Module, names: str) -> int:
    """The first positive count that a module, or its ``config``, has under a name."""
    for source in (module, getattr(module, "config", None)):
        for name in names.split():
            found = getattr(source, name, None)
            if isinstance(found, int) and not isinstance(found, bool) and found > 0:
                return found
    return 0
