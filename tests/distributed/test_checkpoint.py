"""Saved from four processes, resumed on two: the same steps from there on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.tensor import init_device_mesh

from tests.distributed.processes import Processes
from tests.distributed.rules import RULES, STEPS, values
from tests.distributed.test_sharded import descend, distance, spread

KEPT = [
    "FreeSteepestDescent memory",
    "SGD",
    "AdamW",
    "Shampoo",
    "SOAP",
    "KrADagrad",
    "Muon",
    "Prodigy",
    "SIRFShampoo joined",
]


def everything(params: list[Tensor], optimizer: Any) -> dict[str, Any]:
    weights = {str(number): p for number, p in enumerate(params)}
    state = optimizer.state_dict()["state"]
    kept = {f"{n}.{name}": x for n, row in state.items() for name, x in row.items()}
    return {"weights": weights, "state": kept}


def save(folder: str) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in KEPT:
        params = spread(values(0), "rows", mesh)
        optimizer = RULES[name](params)
        optimizer.create_state()
        for step in range(STEPS):
            descend(optimizer, params, step, mesh)
        dcp.save(everything(params, optimizer), checkpoint_id=f"{folder}/{name}")


def resume(folder: str, tol: float) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in KEPT:
        expected = values(0)
        unbroken = RULES[name](expected)
        for step in range(STEPS + 2):
            descend(unbroken, expected, step)
        params = spread(values(7), "rows", mesh)
        optimizer = RULES[name](params)
        optimizer.create_state()
        room = everything(params, optimizer)
        dcp.load(room, checkpoint_id=f"{folder}/{name}")
        groups = optimizer.state_dict()["param_groups"]
        for group in groups:
            if "steps_taken" in group:
                group["steps_taken"] = STEPS
        state: dict[int, dict[str, Tensor]] = {}
        for key, x in room["state"].items():
            number, _, entry = key.partition(".")
            state.setdefault(int(number), {})[entry] = x
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for step in (STEPS, STEPS + 1):
            descend(optimizer, params, step, mesh)
        assert distance(params, expected) <= tol, name
        assert optimizer.skipped == unbroken.skipped, name


def test_saved_on_four_resumed_on_two(processes: Processes, tmp_path: Path) -> None:
    processes(save, str(tmp_path))
    processes(resume, str(tmp_path), 1e-12, size=2)


def check_full(name: str) -> None:
    """A checkpoint of one process with whole tensors, loaded into shards, and back."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    expected = values(0)
    alone = RULES[name](expected)
    for step in range(STEPS):
        descend(alone, expected, step)
    params = spread(expected, "columns", mesh)
    optimizer = RULES[name](params)
    optimizer.load_state_dict(alone.state_dict())
    for number, row in optimizer.state_dict()["state"].items():
        for entry, x in row.items():
            back = x.full_tensor() if hasattr(x, "full_tensor") else x
            assert torch.equal(back, alone.state_dict()["state"][number][entry])
    for step in (STEPS, STEPS + 1):
        descend(alone, expected, step)
        descend(optimizer, params, step, mesh)
    assert distance(params, expected) <= 1e-12


@pytest.mark.parametrize("name", ["AdamW", "Muon", "SOAP", "Prodigy"])
def test_whole_checkpoints_load_into_shards(name: str, processes: Processes) -> None:
    processes(check_full, name, size=2)
