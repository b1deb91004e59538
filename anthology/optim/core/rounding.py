"""How the result of a step becomes a bfloat16 parameter, which has eight bits.

A step below 1/512 of a weight would be rounded away every time. Rounded at random it
is kept on average; compensated, what was rounded off is kept in a second bfloat16.

Source: Gupta et al. 2015 (arXiv 1502.02551), section 3 (stochastic rounding); Kahan
1965 and Zamirai et al. 2020 (arXiv 2010.06192), Algorithm 1 (compensation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .limits import one_of

ROUNDINGS = ("nearest", "stochastic", "compensated")
RESIDUAL = "residual"


def check_rounding(group: Mapping[str, Any]) -> None:
    """Refuse a rounding that is not known, or that autograd cannot follow."""
    how = group.get("rounding", "nearest")
    one_of("rounding", how, ROUNDINGS)
    if how != "nearest" and group["differentiable"]:
        raise ValueError(
            f"rounding={how!r} has no derivative; differentiable=True needs 'nearest'"
        )


def rounding_of(p: Tensor, group: Mapping[str, Any]) -> str:
    """How this parameter is rounded: it matters for bfloat16 only."""
    chosen: str = group.get("rounding", "nearest")
    return chosen if p.dtype == torch.bfloat16 else "nearest"


def stochastic(x: Tensor) -> Tensor:
    """Round float32 to one of the two nearest bfloat16, on average to x itself."""
    noise = torch.randint(0, 2**16, x.shape, dtype=torch.int32, device=x.device)
    # a float32 cut after 16 bits is a bfloat16; what is added carries into it with
    # the probability that is to be
    bits = (x.view(torch.int32) + noise) & -(2**16)
    return torch.where(x.isfinite(), bits.view(torch.float32), x).bfloat16()


def opened(p: Tensor, state: dict[str, Tensor], wide: torch.dtype, how: str) -> Tensor:
    """The parameter as the rule is to see it."""
    if how != "compensated":
        return p if p.dtype == wide else p.to(wide)
    if RESIDUAL not in state:
        state[RESIDUAL] = torch.zeros_like(p)
    return p.to(wide) + state[RESIDUAL]


def written(
    p: Tensor, new: Tensor, state: dict[str, Tensor], how: str, flag: Tensor | None
) -> None:
    """Round a result into its parameter."""
    near = stochastic(new) if how == "stochastic" else new.to(p.dtype)
    if how == "compensated":
        rest = torch.where(near.isfinite(), new - near.to(new.dtype), 0.0)
        kept = state[RESIDUAL]
        rest = rest.to(kept.dtype)
        kept.copy_(rest if flag is None else torch.where(flag, rest, kept))
    p.copy_(near if flag is None else torch.where(flag, near, p))
