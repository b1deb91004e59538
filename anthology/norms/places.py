"""Where a parameter stands in a model, and what its surroundings say of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from anthology.norms.base import Norm

# of peft, torch.compile, FSDP and activation checkpointing
WRAPPERS = {
    "base_layer",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}
_SIZES = (("in_features", "out_features"), ("nx", "nf"), ("in_dim", "out_dim"))


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
    def full(self) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{self.name}" if self.path else self.name

    @property
    def kind(self) -> str:
        """The owner's type, as people write it."""
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


def _like_gpt2(module: nn.Module) -> bool:
    """Whether it is the layer of GPT-2 in transformers, or derived from it."""
    return any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def turned(module: nn.Module, p: Tensor) -> str:
    """Why a matrix is stored in × out, or nothing if it is stored out × in."""
    if isinstance(module, nn.Linear):
        return ""
    if _like_gpt2(module):
        return "in × out"
    rows, columns = p.shape
    if told := _told(module):
        inner, sizes = told
        there = sizes == (rows, columns) and rows != columns
        return f"in × out by its {inner}" if there else ""
    bias = own(module, "bias")
    along = bias is not None and bias.ndim == 1 and len(bias) == columns != rows
    return "in × out by its bias" if along else ""


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: of torch, or of another package."""
    if isinstance(module, nn.Linear):
        return True
    weight = own(module, "weight")
    if weight is None or weight.ndim != 2 or isinstance(module, nn.Embedding):
        return False
    names = (kind.__name__ for kind in type(module).__mro__)
    called = any(n.endswith(("Linear", "LMHead")) for n in names)
    return called or _like_gpt2(module) or _told(module) is not None


def widths(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    weight = own(module, "weight")
    if weight is None or weight.ndim != 2:  # sharded flat, or packed
        sizes = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        return int(sizes[0]), int(sizes[1])
    rows, columns = weight.shape
    return (rows, columns) if turned(module, weight) else (columns, rows)
