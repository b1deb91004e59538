"""Every public optimizer, in every form that goes its own way when sharded."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.examples import gathered

RULES = gathered(
    lambda x: x.forms({x.name: {"lr": 0.1}} if x.sharded is None else x.sharded)
)

# Weight, bias, weight, bias; fewer rows than processes; a kernel; a scalar
SHAPES = [(6, 4), (6,), (2, 3), (2,), (6, 4), (5, 3), (1, 7), (3, 2, 2, 2), (9,), ()]
STEPS = 4


def values(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in SHAPES]


def gradients(step: int, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    """A NaN in the fourth row of one tensor at step 1, none for another at step 2.

    At step 0 and 2 one is zero, and at step 3 in all rows but the last.
    """
    found: list[Tensor | None] = list(values(100 + step, dtype))
    if step in (0, 2, 3) and found[5] is not None:
        found[5][: -1 if step == 3 else None] = 0
    if step == 1 and found[4] is not None:
        found[4][4, 1] = torch.nan
    if step == 2:
        found[2] = None
    return found
