"""Replicated = Shard(0) = Shard(1) = uneven = empty shard, for every optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import (
    DTensor,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)

from tests.distributed.processes import Processes
from tests.distributed.rules import RULES, STEPS, gradients, values

LAYOUTS = ("replicated", "rows", "columns", "mixed")


def placement(layout: str, number: int, x: Tensor) -> Any:
    """How the tensor of a number lies in a layout; None for a plain tensor."""
    if not x.ndim:
        return None
    if layout == "mixed":
        layout = (*LAYOUTS[:3], "plain")[number // 2 % 4]
    if layout == "plain":
        return None
    if layout == "replicated":
        return [Replicate()]
    return [Shard(min(int(layout == "columns"), x.ndim - 1))]


def spread(xs: list[Tensor], layout: str, mesh: Any) -> list[Tensor]:
    found = []
    for number, x in enumerate(xs):
        where = placement(layout, number, x)
        found.append(x.clone() if where is None else distribute_tensor(x, mesh, where))
    return found


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def descend(optimizer: Any, params: list[Tensor], step: int, mesh: Any = None) -> None:
    for p, g in zip(params, gradients(step), strict=True):
        if g is None or not isinstance(p, DTensor):
            p.grad = g
        else:
            p.grad = distribute_tensor(g, mesh, p.placements)
    optimizer.step()


def distance(params: list[Tensor], expected: list[Tensor]) -> float:
    pairs = zip(params, expected, strict=True)
    return max(float((whole(p) - q).abs().max()) for p, q in pairs)


def check_layouts(name: str, tol: float) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    expected = values(0)
    optimizer = RULES[name](expected)
    for step in range(STEPS):
        descend(optimizer, expected, step)
    for layout in LAYOUTS:
        params = spread(values(0), layout, mesh)
        sharded = RULES[name](params)
        for step in range(STEPS):
            descend(sharded, params, step, mesh)
        assert distance(params, expected) <= tol, layout
        assert sharded.skipped == optimizer.skipped, layout
        for p, q in zip(params, expected, strict=True):
            if "step" in optimizer.state[q]:  # a pair counts under its weight
                assert sharded.state[p]["step"] == optimizer.state[q]["step"], layout
        if hasattr(optimizer, "d"):
            assert sharded.d_of_groups == pytest.approx(optimizer.d_of_groups, tol)


@pytest.mark.parametrize("name", RULES)
def test_every_layout_takes_the_same_steps(name: str, processes: Processes) -> None:
    processes(check_layouts, name, 1e-12)


@pytest.mark.parametrize("name", ["Muon", "Prodigy", "FreeSteepestDescent"])
def test_two_processes_do_as_four(name: str, processes: Processes) -> None:
    processes(check_layouts, name, 1e-12, size=2)


def check_device_path(name: str) -> None:
    """As where reading a number waits for the device: flags are not read."""
    with pytest.MonkeyPatch.context() as patch:
        where = "anthology.optim.core.batch.reads_flags_for_free"
        patch.setattr(where, lambda device: False)
        check_layouts(name, 1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "AdamW",
        "Muon",
        "SGD normalised",
        "Prodigy",
        "FreeSteepestDescent memory",
        "SteepestDescent polyak l2",
        "RootFreeAdamW",
        "SIRFShampoo",
    ],
)
def test_flags_that_stay_on_the_device(name: str, processes: Processes) -> None:
    processes(check_device_path, name, size=2)
