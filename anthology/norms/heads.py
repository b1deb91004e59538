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
_QUERIES = {"query", "q", "q_proj", "wq", "to_q", "q_lin", "qkv", "qkv_proj", "Wqkv"}
_QUERIES |= {"c_attn", "query_key_value", "to_qkv", "in_proj_qkv"}
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYERS = (
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def find_heads(model: nn.Module, head: Head) -> tuple[dict[int, str], list[str]]:
    """The output heads of a model."""
    if head is False or head is None:
        return {}, []
    if isinstance(head, str):
        head = [head]
    if head is not True:
        return _given(model, head), []
    model = _bare(model)
    if is_linear(model):
        return {id(model): "the model itself"}, []
    tokens = _vocabulary(model) | _tied(model)
    found = tokens | dict(_named(model, _read(model) if tokens else set()))
    return (found, []) if found else _last(model)


def is_router(name: str) -> bool:
    """Whether a module's full name says that it chooses among experts."""
    last = name.rpartition(".")[2].lower()
    return last == "gate" or "router" in last


def is_attention(module: nn.Module) -> bool:
    """Whether a module is attention by its type or the names of its parts."""
    name = type(module).__name__.lower()
    known = isinstance(module, _LAYERS) or "attention" in name or "attn" in name
    return known or _asks(module)


def _asks(module: nn.Module) -> bool:
    """Whether a module has queries of its own."""
    return any(part in _QUERIES for part, _ in module.named_children())


def _bare(model: nn.Module) -> nn.Module:
    """The model inside of what DDP, FSDP or torch.compile put around it."""
    children = dict(model.named_children())
    while len(children) == 1 and set(children) <= {*WRAPPERS, "module"}:
        (model,) = children.values()
        children = dict(model.named_children())
    return model


def _given(model: nn.Module, names: Sequence[str]) -> dict[int, str]:
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


def _tied(model: nn.Module) -> dict[int, str]:
    """Linear layers that share their weight with an embedding table."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        id(m): "tied to an embedding"
        for m in model.modules()
        if is_linear(m) and id(own(m, "weight")) in tables
    }


def _vocabulary(model: nn.Module) -> dict[int, str]:
    """Linear layers, none in a block, with an output for each token of a table."""
    tables = {
        (m.embedding_dim, m.num_embeddings)
        for name, m in model.named_modules()
        if isinstance(m, nn.Embedding) and "pos" not in name.rpartition(".")[2].lower()
    }
    return {
        id(m): "as many outputs as the vocabulary"
        for name, m in _outside(model, "")
        if widths(m) in tables and widths(m)[0] < widths(m)[1]
    }


def _named(module: nn.Module, read: set[int]) -> Iterator[tuple[int, str]]:
    """Layers called heads; or last in what is so called, unless hidden by width."""
    for part, child in module.named_children():
        strong = _STRONG.search(part)
        if strong or (_WEAK.search(part) and not is_attention(module)):
            for end in _ends(child):
                if end is child or widths(end)[1] not in read:
                    yield id(end), f"named {part}"
        elif not _repeated(module, child) and not is_attention(child):
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


def _repeated(parent: nn.Module, child: nn.Module) -> bool:
    """Whether a module is one of several alike in a row, as layers of a trunk are."""
    if not isinstance(parent, _PLAIN) or is_linear(child):
        return False
    alike = [c for c in parent.children() if type(c) is type(child)]
    if isinstance(parent, nn.ModuleList):
        return len(alike) > 1 or len(parent) == 1
    return len(alike) > 1 and not isinstance(child, _PLAIN)


def _outside(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """Linear layers that are in no repeated block and no attention."""
    for part, child in module.named_children():
        name = f"{path}.{part}" if path else part
        if not _counts(name):
            continue
        if is_linear(child):
            yield name, child
        elif not _repeated(module, child) and not is_attention(child):
            yield from _outside(child, name)


def _last(model: nn.Module) -> tuple[dict[int, str], list[str]]:
    """The layer at the end: sure in nn.Sequential, a guess elsewhere."""
    end: nn.Module = model
    while isinstance(end, nn.Sequential) and _weighty(end):
        end = [child for child in end if any(True for _ in child.parameters())][-1]
    if is_linear(end):
        return {id(end): f"last of {kind_of(model)}"}, []
    weighty = _weighty(model)
    outside = dict(_outside(model, ""))
    within = isinstance(model, _LAYERS) or _asks(model)
    if within or not weighty or weighty[-1] not in outside:
        return {}, []
    last = weighty[-1]
    if _FEATURES.search(last):
        return {}, []
    chosen = [last, *_beside(last, weighty[-2::-1], outside, _read(model))]
    said = (
        f"{last!r}, the last linear layer, is taken for the output head, but has as "
        "many outputs as other layers have inputs: say head=None if it is a hidden "
        "layer, or head=[names] of the heads"
    )
    doubtful = widths(outside[last])[1] in _read(model)
    heads = {id(outside[name]): "last linear layer: a guess" for name in chosen}
    return heads, [said] if doubtful else []


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


def _beside(
    last: str, before: list[str], outside: dict[str, nn.Module], read: set[int]
) -> Iterator[str]:
    """Heads next to the last one: same input, and no layer reads their output."""
    parent = last.rpartition(".")[0]
    for name in before:
        module = outside.get(name)
        if module is None or name.rpartition(".")[0] != parent:
            return
        inner, outer = widths(module)
        if inner != widths(outside[last])[0] or outer in read:
            return
        yield name


def _read(model: nn.Module) -> set[int]:
    """How many features layers of the model take in."""
    found = {widths(m)[0] for m in model.modules() if is_linear(m)}
    return found | {m.in_channels for m in model.modules() if isinstance(m, _ConvNd)}
