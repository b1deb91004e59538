"""A NaN in one process's shard at every step: every process names the tensor, once."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

from anthology import optim
from anthology.optim.core.watch import LONG
from tests.distributed.processes import Processes


def check_names(name: str) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    good, bad = (distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]) for _ in "12")
    optimizer = getattr(optim, name)([("good", good), ("bad", bad)])
    gradient = torch.full((4, 3), 0.1)
    broken = gradient.clone()
    broken[0] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3 * LONG):
            good.grad = distribute_tensor(gradient, mesh, [Shard(0)])
            bad.grad = distribute_tensor(broken, mesh, [Shard(0)])
            optimizer.step()
    (said,) = [str(w.message) for w in caught if "no finite" in str(w.message)]
    assert "stand still: bad. " in said
    assert optimizer.skipped == {"bad": 3 * LONG}


@pytest.mark.parametrize("name", ["AdamW", "Muon", "Prodigy"])
def test_every_process_names_it_once(name: str, processes: Processes) -> None:
    processes(check_names, name, size=2)
