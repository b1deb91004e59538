"""Every public optimizer, in every form that goes its own way when sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from anthology import optim

Make = Callable[[list[Tensor]], Any]


class Told(optim.SteepestDescent):
    """Polyak's step with a loss that falls, and which every process knows a part of.

    Their mean is what one process alone is told.
    """

    def heard(self, loss: object) -> None:
        rank, size = 0, 1
        if dist.is_initialized():
            rank, size = dist.get_rank(), dist.get_world_size()
        self.told = getattr(self, "told", 2.0) / 2
        super().heard(self.told * (1 + rank - (size - 1) / 2))


RULES: dict[str, Make] = {
    "SteepestDescent": lambda p: optim.SteepestDescent(p, 0.1, momentum=0.5),
    "SteepestDescent max": lambda p: optim.SteepestDescent(
        p, 0.1, momentum=0.5, nesterov=True, step="steepest", weight_decay=0.1
    ),
    "SteepestDescent l2": lambda p: optim.SteepestDescent(p, 0.1, 0.5, across="l2"),
    "SteepestDescent each": lambda p: optim.SteepestDescent(
        p, 0.1, across="l2", step="steepest"
    ),
    "SteepestDescent polyak": lambda p: Told(p, 1.0, step="polyak", weight_decay=0.1),
    "SteepestDescent polyak l2": lambda p: Told(p, 1.0, step="polyak", across="l2"),
    "FreeSteepestDescent": lambda p: optim.FreeSteepestDescent(p, d0=1e-2),
    "FreeSteepestDescent memory": lambda p: optim.FreeSteepestDescent(
        p, momentum=0.5, beta3=0.5, d0=1e-2, across="l2", growth_rate=1.5
    ),
    "SGD": lambda p: optim.SGD(p, 0.1, 0.9, dampening=0.5, weight_decay=0.1),
    "SGD normalised": lambda p: optim.SGD(p, 0.1, momentum=0.9, normalised=True),
    "Signum": lambda p: optim.Signum(p, 0.1),
    "Lion": lambda p: optim.Lion(p, 0.1),
    "Adam": lambda p: optim.Adam(p, 0.1, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, 0.1, weight_decay=0.1),
    "Shampoo": lambda p: optim.Shampoo(
        p, 0.1, betas=(0.9, 0.9), eps=1e-2, grafting="rms"
    ),
    "Shampoo kl": lambda p: optim.Shampoo(p, 0.1, eps=1e-2, factors="kl"),
    "Shampoo one-sided": lambda p: optim.Shampoo(p, 0.1, eps=1e-2, sides="one"),
    "SOAP kl": lambda p: optim.SOAP(
        p, 0.1, refresh=2, eps=1e-2, factors="kl", skip_first=False
    ),
    "SOAP": lambda p: optim.SOAP(p, 0.1, refresh=2, eps=1e-2, skip_first=False),
    "KrADagrad": lambda p: optim.KrADagrad(p, 0.1, weight_decay=0.1),
    "Muon": lambda p: optim.Muon(p, 0.1, weight_decay=0.1),
    "Muon rows": lambda p: optim.Muon(
        p, 0.1, row_beta=0.9, step="steepest", normalize="rows"
    ),
    "Muon cautious": lambda p: optim.Muon(
        p, 0.1, weight_decay=0.1, decay="cautious+corrected"
    ),
    "Scion": lambda p: optim.Scion(p, 0.1, momentum=0.5),
    "Prodigy": lambda p: optim.Prodigy(p, d0=1e-2, weight_decay=0.1, eps=1e-3),
    "Prodigy sliced": lambda p: optim.Prodigy(p, d0=1e-2, slice_p=2, eps=1e-3),
    "Prodigy per group": lambda p: optim.Prodigy(
        [{"params": p[:3]}, {"params": p[3:], "slice_p": 2}],
        d0=1e-2,
        eps=1e-3,
        per_group=True,
        growth_rate=1.5,
    ),
    "RootFreeRMSProp": lambda p: optim.RootFreeRMSProp(p, 0.1, batch_size=8),
    "RootFreeAdamW": lambda p: optim.RootFreeAdamW(
        p, 0.1, batch_size=8, bias_correction=True
    ),
    "SIRFShampoo": lambda p: optim.SIRFShampoo(p, 0.1, batch_size=8, weight_decay=0.1),
    "SIRFShampoo joined": lambda p: optim.SIRFShampoo(
        [{"params": p[:4], "joined": True}, {"params": p[4:]}], 0.1, batch_size=8
    ),
}

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
