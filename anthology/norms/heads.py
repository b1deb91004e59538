"""Which layers are the output heads of a model: by name, by ties, by position."""

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from anthology.norms.places import WRAPPERS, is_linear, kind_of, own, widths

Head = bool | str | Sequence[str] | None

_STRONG = re.compile(
    r"((^|_)(heads?|classifiers?|unembed(ding)?|logits(_proj)?|lm_loss)"
    r"|^(cls|score|embed_out|proj_out|qa_outputs|fc_out|output_layer))$",
    re.IGNORECASE,
)
# these are heads only outside of attention
_WEAK = re.compile(
    r"^(out|outputs?|final|policy|value|actor|critic|predictor)$", re.IGNORECASE
)
# what a model without a head ends with
_FEATURES = re.compile(r"(projection|(^|\.)pool(er|ing)(\.[^.]*)?)$", re.IGNORECASE)
_QUERIES = re.compile(
    r"^(query|q|wq|q_(proj|lin)|to_q|qkv|qkv_proj|Wqkv|c_attn|query_key_value"
    r"|to_qkv|in_proj_qkv)$"
)
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def find_heads(model: nn.Module, head: Head) -> tuple[dict[int, str], list[str]]:
    """Why each head is one, by the module's id; and what is to be warned of."""
    if head is False or head is None:
        return {}, []
    if head is not True:
        return _by_request(model, [head] if isinstance(head, str) else head), []
    children = dict(model.named_children())
    while len(children) == 1 and set(children) <= {*WRAPPERS, "module"}:
        (model,) = children.values()  # in what DDP, FSDP, torch.compile put around it
        children = dict(model.named_children())
    if is_linear(model):
        return {id(model): "the model itself"}, []
    tokens = _of_tables(model)
    found = tokens | dict(_named(model, _read(model) if tokens else set()))
    return (found, []) if found else _last(model)


def is_router(name: str) -> bool:
    """Whether a module's full name says that it chooses among experts."""
    last = name.rpartition(".")[2].lower()
    return last == "gate" or "router" in last


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention by its type or the names of its parts."""
    name = type(module).__name__.lower()
    return "attention" in name or "attn" in name or _asks(module)


def _asks(module: nn.Module) -> bool:
    """Whether a module is one of torch's with attention, or has queries of its own."""
    asks = any(_QUERIES.match(part) for part, _ in module.named_children())
    return asks or isinstance(module, _LAYERS)


def _by_request(model: nn.Module, names: Sequence[str]) -> dict[int, str]:
    """What the user calls heads."""
    if not isinstance(names, list | tuple | set) or not all(
        isinstance(name, str) for name in names
    ):
        raise TypeError(
            "head must be True, False, None, a module's name or a list of names, "
            f"got {names!r}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for name in names:
        module = modules.get(name)
        module = getattr(module, "base_layer", module)
        weight = None if module is None else own(module, "weight")
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            linear = ", ".join(n for n, m in modules.items() if is_linear(m))
            raise ValueError(
                f"head={name!r} names no module with a weight matrix "
                f"(linear layers: {linear or 'none'})"
            )
        found[id(module)] = "head by request"
    return found


def _of_tables(model: nn.Module) -> dict[int, str]:
    """Linear layers, none in a block, with an output a token; or tied to a table."""
    tables = {n: m for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    tied = {id(table.weight) for table in tables.values()}
    sizes = {
        (table.embedding_dim, table.num_embeddings)
        for name, table in tables.items()
        if "pos" not in name.rpartition(".")[2].lower()
    }
    found = {
        id(m): "as many outputs as the vocabulary"
        for m in _outside(model, "").values()
        if widths(m) in sizes and widths(m)[0] < widths(m)[1]
    }
    return found | {
        id(m): "tied to an embedding"
        for m in model.modules()
        if is_linear(m) and id(own(m, "weight")) in tied
    }


def _named(module: nn.Module, read: set[int]) -> Iterator[tuple[int, str]]:
    """Layers called heads; or last in what is so called, unless hidden by width."""
    for part, child in module.named_children():
        weak = _WEAK.search(part) and not is_attention(module)
        if weak or _STRONG.search(part):
            for end in _ends(child):
                if end is child or widths(end)[1] not in read:
                    yield id(end), f"named {part}"
        elif not _is_block(module, child):
            yield from _named(child, read)


def _ends(module: nn.Module) -> list[nn.Module]:
    """The layer at the end if it is linear, or that of each member of a list."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [end for child in module.children() for end in _ends(child)]
    matrices = _weighty(module)
    if is_attention(module) or not matrices:
        return []
    last = module.get_submodule(matrices[-1])
    return [last] if is_linear(last) else []


def _counts(name: str) -> bool:
    """Whether a layer of that name can be a head at all."""
    return "lora_" not in name and not is_router(name)


def _is_block(parent: nn.Module, child: nn.Module) -> bool:
    """Whether a module is attention, or one of several alike, as in a trunk."""
    if is_attention(child):
        return True
    if not isinstance(parent, _PLAIN) or is_linear(child):
        return False
    alike = [c for c in parent.children() if type(c) is type(child)]
    if isinstance(parent, nn.ModuleList):
        return len(alike) > 1 or len(parent) == 1
    return len(alike) > 1 and not isinstance(child, _PLAIN)


def _outside(module: nn.Module, path: str) -> dict[str, nn.Module]:
    """Linear layers that are in no block, by name."""
    found: dict[str, nn.Module] = {}
    for part, child in module.named_children():
        name = f"{path}.{part}" if path else part
        if _counts(name) and is_linear(child):
            found[name] = child
        elif _counts(name) and not _is_block(module, child):
            found |= _outside(child, name)
    return found


def _last(model: nn.Module) -> tuple[dict[int, str], list[str]]:
    """The layer at the end: sure in nn.Sequential, a guess elsewhere."""
    end: nn.Module = model
    while isinstance(end, nn.Sequential) and _weighty(end):
        end = [child for child in end if any(True for _ in child.parameters())][-1]
    if is_linear(end):
        return {id(end): f"last of {kind_of(model)}"}, []
    *before, last = _weighty(model) or [""]
    outside = _outside(model, "")
    if _asks(model) or last not in outside or _FEATURES.search(last):
        return {}, []
    read, (inputs, outputs) = _read(model), widths(outside[last])
    chosen = [last]
    for name in reversed(before):  # heads beside it: on the same input, read by none
        beside = name.rpartition(".")[0] == last.rpartition(".")[0] and name in outside
        if not beside or widths(outside[name])[0] != inputs:
            break
        if widths(outside[name])[1] in read:
            break
        chosen.append(name)
    said = (
        f"{last!r}, the last linear layer, is taken for the output head, but has as "
        "many outputs as other layers have inputs: say head=None if it is a hidden "
        "layer, or head=[names] of the heads"
    )
    heads = {id(outside[name]): "last linear layer: a guess" for name in chosen}
    return heads, [said] if outputs in read else []


def _weighty(model: nn.Module) -> list[str]:
    """Names of modules that hold matrices, tables and routers left out."""
    names = []
    for name, module in model.named_modules():
        part = name.rpartition(".parametrizations")[0] or name
        table = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if table or not _counts(part):
            continue
        if any(p.ndim > 1 for p in module.parameters(recurse=False)):
            names.append(part)
    return names


def _read(model: nn.Module) -> set[int]:
    """How many features layers of the model take in."""
    found = {widths(m)[0] for m in model.modules() if is_linear(m)}
    return found | {m.in_channels for m in model.modules() if isinstance(m, _ConvNd)}
