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
    "Muon rows",
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


def content(optimizer: Any) -> list[Tensor]:
    """The state of every tensor, put together."""
    state = optimizer.state_dict()["state"]
    every = [x for number in sorted(state) for x in state[number].values()]
    return [x.full_tensor() if hasattr(x, "full_tensor") else x for x in every]


def check_refusals(name: str) -> None:
    """What one process finds wrong, all refuse; and nothing has changed."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    lone, other = values(0), values(0)
    alone, lion = RULES[name](lone), RULES["Lion"](other)
    params = spread(values(0), "rows", mesh)
    optimizer = RULES[name](params)
    for step in range(STEPS):
        descend(alone, lone, step)
        descend(lion, other, step)
        descend(optimizer, params, step, mesh)
    saved, before = alone.state_dict(), content(optimizer)
    number, entries = next(iter(saved["state"].items()))
    lost = list(entries)[-1]
    rest = {entry: x for entry, x in entries.items() if entry != lost}
    long = {**entries, lost: torch.zeros(7, 7)}
    for wrong, words in ((rest, f"{lost} is missing"), (long, f"{lost} has shape")):
        torn = {**saved, "state": {**saved["state"], number: wrong}}
        here = torn if dist.get_rank() == dist.get_world_size() - 1 else saved
        with pytest.raises(ValueError, match=words):
            optimizer.load_state_dict(here)
        assert all(map(torch.equal, content(optimizer), before))
    if name != "Lion":
        with pytest.raises(ValueError, match="of Lion"):
            optimizer.load_state_dict(lion.state_dict())
    assert all(map(torch.equal, content(optimizer), before))
    optimizer.load_state_dict(saved)


def check_traces(name: str) -> None:
    """Zero gradients at rate zero only make state; a user's entries are kept."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    expected = values(0)
    alone, params = RULES[name](expected), spread(values(0), "rows", mesh)
    optimizer = RULES[name](params)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    assert all(float(state["step"]) == 0 for state in optimizer.state.values())
    optimizer.state[params[0]]["note"] = "mine"
    for step in range(STEPS):
        descend(alone, expected, step)
        descend(optimizer, params, step, mesh)
    assert distance(params, expected) <= 1e-12
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[params[0]]["note"] == "mine"
    descend(alone, expected, STEPS)
    descend(optimizer, params, STEPS, mesh)
    assert distance(params, expected) <= 1e-12


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon", "SOAP", "Prodigy"])
def test_all_refuse_what_one_finds_wrong(name: str, processes: Processes) -> None:
    processes(check_refusals, name, size=2)


@pytest.mark.parametrize(
    "name", ["AdamW", "Muon", "SOAP", "Prodigy", "FreeSteepestDescent memory"]
)
def test_making_room_leaves_no_trace(name: str, processes: Processes) -> None:
    processes(check_traces, name, size=2)
