"""Where a parameter stands in a model, and what its surroundings say of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from anthology.norms.base import Norm


class Role(NamedTuple):
    """What a parameter does, how it is measured, and why it was judged so."""

    role: str
    norm: Norm
    why: str


@dataclass(frozen=True)
class Place:
    """One parameter, the module that holds it, and the modules around."""

    name: str
    param: Tensor
    module: nn.Module
    path: str
    modules: Mapping[str, nn.Module]
    heads: Mapping[int, str]
    split: bool | int = False

    @property
    def head(self) -> str:
        """Why the owner is an output head; empty if it is none."""
        return self.heads.get(id(self.module), "")

    @property
    def kind(self) -> str:
        """The owner's type, as people write it."""
        return kind_of(self.module)

    @property
    def leaf(self) -> str:
        """The owner's own name, without what packages wrap around a layer."""
        return self._parts()[-1] if self._parts() else ""

    def outer(self, levels: int = 1) -> nn.Module | None:
        """The module whose part the owner is, or that one's; wrappers left out."""
        path = self.path
        while path:
            path, _, last = path.rpartition(".")
            levels -= last not in WRAPPERS
            if not levels:
                return self.modules.get(path)
        return None

    def _parts(self) -> list[str]:
        return [part for part in self.path.split(".") if part not in WRAPPERS]


# of peft, torch.compile, FSDP and activation checkpointing
WRAPPERS = (
    "base_layer",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
)
_TURNED = ("Conv1D",)  # GPT-2's layer in transformers
_SIZES = (("in_features", "out_features"), ("nx", "nf"), ("in_dim", "out_dim"))


def kind_of(module: nn.Module) -> str:
    """A module's type, with "nn." before those of torch."""
    kinds = type(module).__mro__
    kind = next(k for k in kinds if not k.__name__.startswith(("Parametrized", "FSDP")))
    torchs = kind.__module__.startswith("torch.nn.")
    return f"nn.{kind.__name__}" if torchs else kind.__name__


def own(module: nn.Module, name: str) -> Tensor | None:
    """A parameter that a module holds itself, parametrized or not."""
    found = module._parameters.get(name)
    if found is None:
        lists = module._modules.get("parametrizations")
        part = getattr(lists, name, None)
        for which in ("original", "original1"):
            found = found if found is not None else getattr(part, which, None)
        for old in (f"{name}_orig", f"{name}_v"):  # the hooks before parametrizations
            found = found if found is not None else module._parameters.get(old)
    return found


def turned(module: nn.Module, p: Tensor) -> str:
    """Why a matrix is stored in × out, or nothing if it is stored out × in."""
    if isinstance(module, nn.Linear):
        return ""
    for kind in type(module).__mro__:
        if kind.__name__ in _TURNED:
            return "in × out"
    for inner, outer in _SIZES:
        sizes = getattr(module, inner, None), getattr(module, outer, None)
        if all(isinstance(n, int) for n in sizes):
            there = sizes == tuple(p.shape) and sizes[0] != sizes[1]
            return f"in × out by its {inner}" if there else ""
    bias = own(module, "bias")
    if bias is not None and bias.ndim == 1:
        along = len(bias) == p.shape[1] != p.shape[0]
        return "in × out by its bias" if along else ""
    return ""


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: of torch, or of another package."""
    if isinstance(module, nn.Linear):
        return True
    weight = own(module, "weight")
    if weight is None or weight.ndim != 2 or isinstance(module, nn.Embedding):
        return False
    names = {kind.__name__ for kind in type(module).__mro__}
    if any(n.endswith(("Linear", "LMHead")) or n in _TURNED for n in names):
        return True
    pairs = ((getattr(module, a, None), getattr(module, b, None)) for a, b in _SIZES)
    return any(isinstance(a, int) and isinstance(b, int) for a, b in pairs)


def widths(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    weight = own(module, "weight")
    if weight is None or weight.ndim != 2:  # sharded flat, or packed
        sizes = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        return int(sizes[0]), int(sizes[1])
    rows, columns = weight.shape
    return (rows, columns) if turned(module, weight) else (columns, rows)
