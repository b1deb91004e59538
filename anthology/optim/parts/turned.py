"""A tensor in the basis that its state keeps, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from anthology.optim.core.state import State, real

from .kronecker import multiply

# The average of the gradient in the basis. To turn it there and back when that changes
# costs less than to turn it at every step, if it changes rarely.
ROTATED = "exp_avg_rotated"


def turned(x: Tensor, state: State, *, back: bool = False) -> Tensor:
    """Turn a tensor along each axis that has a basis.

    Parameters
    ----------
    x : Tensor
        Of the parameter's shape.
    state : dict of str to Tensor
        With ``basis_0`` and so on, orthogonal (d, d), for some of the axes.
    back : bool
        From the basis, rather than into it. Default False.

    Returns
    -------
    Tensor
        Shape and dtype of `x`, contiguous.
    """
    y = real(x)[None]
    for name, basis in state.items():
        if name.startswith("basis_"):
            square = real(basis)[None]
            axis = int(name.removeprefix("basis_"))
            y = multiply(y, square if back else square.mT, axis, y.ndim - 1)
    y = y[0].contiguous()
    return torch.view_as_complex(y) if x.is_complex() else y
