"""A layer's weight and bias as one matrix, (d_out, d_in + 1), with one state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from anthology.optim.core.batch import Batch
from anthology.optim.core.dispatch import resolve_lr, shown, split
from anthology.optim.core.names import without_names

Pair = tuple[Tensor, Tensor]


def joined(model: nn.Module, *, kernels: bool = False) -> list[dict[str, Any]]:
    r"""Groups in which each layer's weight and bias are one matrix :math:`(W\ b)`.

    A linear layer is :math:`(W\ b)` applied to the input with a one appended, so the
    pair has one gradient, (d_out, d_in + 1), and `SIRFShampoo` gives it two factors in
    place of two for W and one for b. Both move, are skipped and are counted together,
    under the weight's name.

    Parameters
    ----------
    model : torch.nn.Module
        Its ``nn.Linear`` layers with a bias are joined; a `TypeError` for what is none.
    kernels : bool
        Also convolutions (not transposed ones) with a bias, their kernel flattened to
        one matrix, (d_out, d_in·K + 1), instead of a factor an axis. Default False.

    Returns
    -------
    list of dict
        One group with ``joined=True`` whose parameters are weight, bias, weight, bias
        …; one with everything else that is trainable. Either is left out if empty.

    Notes
    -----
    What stands in a group (``lr``, ``structures`` …) holds for the whole pair, so the
    groups of ``metrize``, which part weights from biases, cannot be joined;
    SIRFShampoo learns its norm and would not read theirs. A tied weight is joined
    with the bias of its first layer. Frozen, complex and lone weights stay apart.

    Source: Lin et al. 2024 (arXiv 2402.03496), published code.

    Examples
    --------
    >>> import torch
    >>> from anthology.optim import SIRFShampoo, joined
    >>> layer = torch.nn.Linear(3, 2)
    >>> optimizer = SIRFShampoo(joined(layer), lr=0.1, batch_size=8)
    >>> layer(torch.ones(8, 3)).square().mean(0).sum().backward()
    >>> optimizer.step()
    >>> [tuple(optimizer.state[layer.weight][f"factor_{n}"].shape) for n in (0, 1)]
    [(4,), (16,)]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"joined needs a torch.nn.Module, got {type(model).__name__}")
    names = {p: name for name, p in model.named_parameters() if p.requires_grad}
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if kernels else (nn.Linear,)
    pairs: dict[Any, None] = {}
    for module in model.modules():
        if isinstance(module, kinds):
            w, b = module.weight, module.bias
            known = w in names and b in names and not {w, b} & pairs.keys()
            if known and b is not None and _fit(w, b):
                pairs |= {w: None, b: None}
    rest = [p for p in names if p not in pairs]
    return [
        {"params": some, "param_names": [names[p] for p in some], "joined": together}
        for some, together in ((list(pairs), True), (rest, False))
        if some
    ]


def must_pair(params: Iterable[Any]) -> list[Any]:
    """Refuse what is not weight, bias, weight, bias …"""
    items = list(params) if isinstance(params, Iterable) else [params]
    tensors = without_names(items)
    if len(tensors) % 2:
        raise ValueError(
            "a group with joined=True holds weight, bias, weight, bias …, "
            f"got {len(tensors)} parameters"
        )
    for w, b in zip(tensors[::2], tensors[1::2], strict=True):
        if isinstance(w, Tensor) and isinstance(b, Tensor) and not _fit(w, b):
            raise ValueError(
                "joined=True needs a real weight (d_out, …) and its bias (d_out,) of "
                f"one dtype on one device, got {tuple(w.shape)} {w.dtype} and "
                f"{tuple(b.shape)} {b.dtype}"
            )
    return items


def _fit(w: Tensor, b: Tensor) -> bool:
    shapes = w.ndim >= 2 and b.shape == w.shape[:1]
    same = w.dtype == b.dtype and w.device == b.device
    return shapes and same and not w.is_complex()


def matrix_like(weight: Tensor) -> Tensor:
    """An uninitialised matrix of the shape of a pair, by its weight."""
    return weight.new_empty(weight.shape[0], weight[:1].numel() + 1)


def as_matrix(w: Tensor, b: Tensor) -> Tensor:
    """(W b), a copy."""
    return torch.cat([w.flatten(1), b.unsqueeze(1)], 1)


@contextmanager
def pair_batches(optimizer: Any) -> Iterator[list[Batch]]:
    """The pairs of all groups with ``joined=True`` as matrices, written back at last."""
    batches: list[Batch] = []
    pairs: dict[Tensor, Pair] = {}
    for group in optimizer.param_groups:
        params = group["params"] if group["joined"] else []
        own: list[Tensor] = []
        for pair in zip(params[::2], params[1::2], strict=True):
            w, b = (shown(optimizer, p) for p in pair)
            if w is None or b is None or w.grad is None or b.grad is None:
                continue
            if not b.numel():
                continue
            matrix = as_matrix(w, b)
            matrix = matrix if group["differentiable"] else matrix.detach()
            matrix.grad = as_matrix(w.grad, b.grad)
            optimizer.state[matrix] = optimizer.state_of(w, group)
            pairs[matrix] = w, b
            own.append(matrix)
        for part in split(own):
            lr = resolve_lr(group["lr"], part[0].device)
            batches.append(Batch({**group, "lr": lr}, part))
    try:
        yield batches
        for matrix, (w, b) in pairs.items():
            w.copy_(matrix[:, :-1].reshape(w.shape))
            b.copy_(matrix[:, -1])
    finally:
        for matrix in pairs:
            del optimizer.state[matrix]
