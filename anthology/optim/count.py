"""How many terms a loss averages, counted while the model is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn


class BatchCounter:
    """What `count_batch_size` returns; ``remove()`` ends the counting.

    Attributes
    ----------
    total : int
        Terms seen since the last step.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        terms: Callable[..., int],
    ) -> None:
        self.total = 0
        self._silent = 0  # calls without gradients since the last step
        self._optimizer = optimizer
        self._terms = terms
        self._hooks = (
            model.register_forward_pre_hook(self._seen, with_kwargs=True),
            optimizer.register_step_post_hook(self._stepped),
        )

    def remove(self) -> None:
        """Stop counting; the groups keep the last batch size. Twice does no harm."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _seen(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not module.training or self._repeats():
            return
        terms = self._terms(*args, **kwargs)
        if isinstance(terms, bool) or not isinstance(terms, int) or terms < 0:
            raise ValueError(
                f"terms returned {terms!r}; it must be the number of terms of the loss"
            )
        self.total += terms
        if self.total:
            for group in self._optimizer.param_groups:
                group["batch_size"] = self.total

    def _repeats(self) -> bool:
        """Whether a call adds nothing: it is without gradients, or a recomputation."""
        if torch.compiler.is_compiling():
            return not torch.is_grad_enabled()
        node = torch._C._current_autograd_node()  # None outside a backward pass
        if not torch.is_grad_enabled():
            self._silent += node is None
            return True
        if node is None:
            return False
        if not self._silent or "CheckpointFunction" not in node.name():
            return True
        self._silent -= 1
        return False

    def _stepped(self, *_: object) -> None:
        self.total = self._silent = 0


def count_batch_size(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    terms: Callable[..., int] | None = None,
) -> BatchCounter:
    """Let an optimizer's ``batch_size`` be what has gone through a model.

    Every forward pass in training mode, with gradients enabled, adds its terms; the
    sum stands in all groups of the optimizer, and a step starts a new one. So it is
    right for a last batch that is smaller, and for a gradient accumulated over
    micro-batches, if the accumulated loss is the mean over all of them. What activation
    checkpointing computes again counts once.

    Parameters
    ----------
    model : torch.nn.Module
        What is called in training; calls of its parts do not count.
    optimizer : torch.optim.Optimizer
        One with a ``batch_size``, such as `RootFreeAdamW` or `SIRFShampoo`. The
        number given to its constructor holds until the model is first called.
    terms : callable, optional
        Takes what the model is called with, returns how many terms that adds to the
        loss: for one averaged over tokens ``lambda tokens: tokens.numel()``. By
        default the length of the first axis of the first tensor.

    Returns
    -------
    BatchCounter
        Its ``remove()`` ends the counting, as does leaving a ``with`` block.

    Raises
    ------
    ValueError
        If a group has no ``batch_size``; in a forward pass if no terms are found.
    TypeError
        If `model` is no module.

    Notes
    -----
    Every process of distributed training sees its own micro-batches: multiply by
    their number in `terms`. A step that a graph has captured keeps its batch size.

    Source: Lin et al. 2024 (arXiv 2402.03496), published code.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import SIRFShampoo, count_batch_size
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = SIRFShampoo(model.parameters(), batch_size=1)
    >>> counter = count_batch_size(model, optimizer)
    >>> for size in (8, 8, 4):  # micro-batches of one step
    ...     loss = model(torch.ones(size, 3)).square().sum() / 20
    ...     loss.backward()
    >>> optimizer.step()
    >>> optimizer.param_groups[0]["batch_size"]
    20
    """
    if not isinstance(model, nn.Module):
        text = f"count_batch_size needs a torch.nn.Module, got {type(model).__name__}"
        raise TypeError(text)
    if not all("batch_size" in group for group in optimizer.param_groups):
        raise ValueError(f"{type(optimizer).__name__} has no batch_size to be counted")
    return BatchCounter(model, optimizer, terms or _first_axis)


def _first_axis(*args: Any, **kwargs: Any) -> int:
    """The length of the first tensor among the arguments."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.ndim:
            return int(value.shape[0])
    raise ValueError(
        "the model is called without a tensor of one axis or more: say how many terms "
        "a call adds, count_batch_size(model, optimizer, terms=...)"
    )
