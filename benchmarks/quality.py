"""How close the steps of matrix methods come to what they approximate."""

from __future__ import annotations

import torch
from torch import Tensor

from .contestants import Maker
from .sets import Shape, fill


def efficiency(make: Maker, shapes: list[Shape], device: str) -> float:
    """The smallest share of the best descent that a first step reaches.

    A first step from weights of zero is a multiple of what the method puts for the
    polar factor of the gradient G, whatever decay and momentum are. Of all steps X
    of its spectral length the polar factor descends most, by ‖G‖_*; the step
    descends by ⟨G, X⟩/‖X‖₂.

    Parameters
    ----------
    make : callable
        Makes the optimizer.
    shapes : list of shape
        Matrices; each shape is tried once.
    device : str
        Where.

    Returns
    -------
    float
        1 for polar factors.

    Examples
    --------
    >>> from functools import partial
    >>> from anthology.optim import Muon
    >>> exact = partial(Muon, method="svd")
    >>> round(efficiency(exact, [(20, 10), (8, 8)], "cpu"), 4)
    1.0
    """
    params = fill(list(dict.fromkeys(shapes)), device)
    grads = []
    for p in params:
        assert p.grad is not None
        grads.append(p.grad.clone())
        p.data.zero_()
    make(params).step()
    found = [_share(g, -p.detach()) for g, p in zip(grads, params, strict=True)]
    return min(found)


def _share(g: Tensor, x: Tensor) -> float:
    """⟨G, X⟩/(‖G‖_* ‖X‖₂), from the small Gram matrices in double precision."""
    g, x = (a.double() if a.shape[0] <= a.shape[1] else a.mT.double() for a in (g, x))
    nuclear = torch.linalg.eigvalsh(g @ g.mT).clamp(min=0).sqrt().sum()
    spectral = torch.linalg.eigvalsh(x @ x.mT)[-1].sqrt()
    return float((g * x).sum() / (nuclear * spectral))
