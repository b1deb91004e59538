"""What the layers of a model feed, read off the graph of one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from anthology.motion._fixed_batch import FixedBatch

_NORMALISATIONS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._NormBase,
)


def consumers(
    model: nn.Module, loss: Callable[[Callable[..., Any]], Tensor]
) -> dict[str, str]:
    """By name of a parameter, the normalisation or the loss that its layer feeds."""
    producers: dict[Any, str] = {}
    reasons: dict[str, str] = {}

    def explain(value: Any, what: str) -> None:
        prefix = _producer(value, producers)
        if prefix is not None:
            reasons.setdefault(prefix, what)

    handles = []
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(_recorder(producers, name)))
        if _normalises(module) and name:
            what = f"feeds {name} ({type(module).__name__})"
            handles.append(module.register_forward_pre_hook(_reader(explain, what)))
    # after the recorders: the last layer may be the model itself
    handles.append(
        model.register_forward_hook(lambda m, a, out: explain(out, "feeds the loss"))
    )
    try:
        FixedBatch(model, loss).gradient()
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(model.named_modules())
    return {
        f"{prefix}.{name}" if prefix else name: what
        for prefix, what in reasons.items()
        for name, _ in modules[prefix].named_parameters(recurse=False)
    }


def _recorder(producers: dict[Any, str], name: str) -> Callable[..., None]:
    def record(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.grad_fn is not None:
            producers[output.grad_fn] = name

    return record


def _reader(explain: Callable[[Any, str], None], what: str) -> Callable[..., None]:
    def read(module: nn.Module, args: Any) -> None:
        if args:
            explain(args[0], what)

    return read


def _producer(value: Any, producers: dict[Any, str]) -> str | None:
    node = value.grad_fn if isinstance(value, Tensor) else None
    while node is not None:
        if node in producers:
            return producers[node]
        sources = [source for source, _ in node.next_functions if source is not None]
        node = sources[0] if len(sources) == 1 else None
    return None


def _normalises(module: nn.Module) -> bool:
    named = "Norm" in type(module).__name__
    return isinstance(module, _NORMALISATIONS) or named
