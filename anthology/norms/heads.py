"""Which layers are the output heads of a model: by name, by ties, by position."""

import re
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from anthology.norms import layers
from anthology.norms.layers import is_attention, is_linear, widths

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
_PLAIN = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def find_heads(model: nn.Module, head: Head) -> tuple[dict[int, str], list[str]]:
    """Why each head is one, by the module's id; and what is to be warned of."""
    if head is False or head is None:
        return {}, []
    if head is not True:
        return _by_request(model, [head] if isinstance(head, str) else head), []
    children = dict(model.named_children())
    while len(children) == 1 and set(children) <= {*layers.WRAPPERS, "module"}:
        (model,) = children.values()  # in what DDP, FSDP, torch.compile put around it
        children = dict(model.named_children())
    if is_linear(model):
        return {id(model): "the model itself"}, []
    tokens = _of_tables(model)
    found = tokens | dict(_named(model, _inputs_read(model) if tokens else set()))
    return (found, []) if found else _last(model)


def _by_request(model: nn.Module, names: Sequence[str]) -> dict[int, str]:
    """What the user calls heads."""
    several = isinstance(names, list | tuple | set)
    if not several or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "head must be True, False, None, a module's name or a list of names, "
            f"got {names!r}"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    found = {}
    for name in names:
        module = modules.get(name)
        module = getattr(module, "base_layer", module)
        weight = None if module is None else layers.own(module, "weight")
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
        key: "as many outputs as the vocabulary"
        for key, *ends in _outside(model, "").values()
        if (*ends,) in sizes and ends[0] < ends[1]
    }
    return found | {
        id(m): "tied to an embedding"
        for m in model.modules()
        if is_linear(m) and id(layers.own(m, "weight")) in tied
    }


def _named(module: nn.Module, read: set[int]) -> Iterator[tuple[int, str]]:
    """Layers called heads; or last in what is so called, unless hidden by width."""
    for part, child in module.named_children():
        weak = _WEAK.search(part) and not is_attention(module)
        if weak or _STRONG.search(part):
            for end in _last_layers(child):
                ends = widths(end)
                if ends and (end is child or ends[1] not in read):
                    yield id(end), f"named {part}"
        elif not _is_block(module, child):
            yield from _named(child, read)


def _last_layers(module: nn.Module) -> list[nn.Module]:
    """The layer at the end if it is linear, or that of each member of a list."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return [end for child in module.children() for end in _last_layers(child)]
    matrices = _weighty(module)
    if is_attention(module) or not matrices:
        return []
    return [module.get_submodule(matrices[-1])]


def _can_be(name: str) -> bool:
    return "lora_" not in name and not layers.is_router(name)


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


def _outside(module: nn.Module, path: str) -> dict[str, tuple[int, int, int]]:
    """Id, inputs and outputs of linear layers that are in no block, by name."""
    found: dict[str, tuple[int, int, int]] = {}
    for part, child in module.named_children():
        name, ends = f"{path}.{part}" if path else part, widths(child)
        if ends and _can_be(name):
            found[name] = (id(child), *ends)
        elif _can_be(name) and not _is_block(module, child):
            found |= _outside(child, name)
    return found


def _last(model: nn.Module) -> tuple[dict[int, str], list[str]]:
    """The layer at the end: sure in nn.Sequential, a guess elsewhere."""
    end: nn.Module = model
    while isinstance(end, nn.Sequential) and _weighty(end):
        end = [child for child in end if any(True for _ in child.parameters())][-1]
    if is_linear(end):
        return {id(end): f"last of {layers.kind_of(model)}"}, []
    *before, last = _weighty(model) or [""]
    outside = _outside(model, "")
    if layers.asks(model) or last not in outside or _FEATURES.search(last):
        return {}, []
    read, (key, inputs, outputs) = _inputs_read(model), outside[last]
    chosen = [key]
    for name in reversed(before):  # heads beside it: on the same input, read by none
        key, come, go = outside.get(name, (0, 0, 0))
        beside = key and name.rpartition(".")[0] == last.rpartition(".")[0]
        if not beside or come != inputs or go in read:
            break
        chosen.append(key)
    said = (
        f"{last!r}, the last linear layer, is taken for the output head, but has as "
        "many outputs as other layers have inputs: say head=None if it is a hidden "
        "layer, or head=[names] of the heads"
    )
    heads = dict.fromkeys(chosen, "last linear layer: a guess")
    return heads, [said] if outputs in read else []


def _weighty(model: nn.Module) -> list[str]:
    """Names of modules that hold matrices, tables and routers left out."""
    names = []
    for name, module in model.named_modules():
        part = name.rpartition(".parametrizations")[0] or name
        matrices = any(p.ndim > 1 for p in module.parameters(recurse=False))
        table = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        if matrices and not table and _can_be(part):
            names.append(part)
    return names


def _inputs_read(model: nn.Module) -> set[int]:
    """How many features layers of the model take in."""
    found = {ends[0] for m in model.modules() if (ends := widths(m))}
    return found | {m.in_channels for m in model.modules() if isinstance(m, _ConvNd)}
