"""Models under DDP and fully_shard train as one process does on all of the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
)
from torch.nn.parallel import DistributedDataParallel

from anthology import norms, optim
from tests.distributed.processes import Processes

# Not SOAP: the gradients are sums in another order, and the basis that it finds for the
# null space of a first gradient is made of their rounding, on one process too.
MAKERS: dict[str, Callable[[nn.Module], Any]] = {
    "AdamW": lambda m: optim.AdamW(m.parameters(), 0.05),
    "Muon": lambda m: optim.Muon(norms.metrize(m), 0.05, adamw_lr=0.05),
    "KrADagrad": lambda m: optim.KrADagrad(m.parameters(), 0.05),
    "SIRFShampoo": lambda m: optim.SIRFShampoo(m.parameters(), 0.05, batch_size=8),
    "SteepestDescent": lambda m: optim.SteepestDescent(
        norms.metrize(m), 0.05, step="steepest"
    ),
    "Prodigy": lambda m: optim.Prodigy(m.named_parameters(), d0=1e-2, eps=1e-3),
}


def model(width: int = 9) -> nn.Module:
    torch.manual_seed(0)
    layers = (
        nn.Linear(6, width),
        nn.Tanh(),
        nn.Linear(width, 3),
        nn.Tanh(),
        nn.Linear(3, 2),
    )
    return nn.Sequential(*layers).double()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (8, 6), (8, 2)
    x, y = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x, y


def train(net: nn.Module, optimizer: Any, share: slice, steps: int = 4) -> None:
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x[share]) - y[share]).square().mean().backward()
        optimizer.step()


def share() -> slice:
    rank, size = dist.get_rank(), dist.get_world_size()
    return slice(rank * 8 // size, (rank + 1) * 8 // size)


def same(net: nn.Module, reference: nn.Module) -> None:
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        assert float((whole - q).detach().abs().max()) <= 1e-11


def check_ddp(name: str) -> None:
    reference, net = model(), model()
    train(reference, MAKERS[name](reference), slice(None))
    train(DistributedDataParallel(net), MAKERS[name](net), share())
    same(net, reference)


def sharded(name: str) -> tuple[nn.Module, Any]:
    net = model()
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(net)
    return net, MAKERS[name](net)


def check_fully_shard(name: str) -> None:
    reference = model()
    train(reference, MAKERS[name](reference), slice(None))
    net, optimizer = sharded(name)
    train(net, optimizer, share())
    same(net, reference)


@pytest.mark.parametrize("name", ["Muon", "Prodigy"])
def test_ddp_needs_nothing_special(name: str, processes: Processes) -> None:
    processes(check_ddp, name)


@pytest.mark.parametrize("name", MAKERS)
def test_fully_shard(name: str, processes: Processes) -> None:
    processes(check_fully_shard, name)


def save_model(name: str, folder: str) -> None:
    net, optimizer = sharded(name)
    train(net, optimizer, share())
    state = {
        "model": get_model_state_dict(net),
        "optimizer": get_optimizer_state_dict(net, optimizer),
    }
    dcp.save(state, checkpoint_id=folder)


def resume_model(name: str, folder: str) -> None:
    reference = model()
    unbroken = MAKERS[name](reference)
    train(reference, unbroken, slice(None), steps=6)
    net, optimizer = sharded(name)
    optimizer.create_state()
    state = {
        "model": get_model_state_dict(net),
        "optimizer": get_optimizer_state_dict(net, optimizer),
    }
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(net, state["model"])
    set_optimizer_state_dict(net, optimizer, state["optimizer"])
    train(net, optimizer, share(), steps=2)
    same(net, reference)


@pytest.mark.parametrize("name", ["AdamW", "Muon", "KrADagrad", "Prodigy"])
def test_distributed_checkpoint(
    name: str, processes: Processes, tmp_path: Path
) -> None:
    processes(save_model, name, str(tmp_path))
    processes(resume_model, name, str(tmp_path), size=2)


def check_certificates() -> None:
    """What a step was, measured on whole tensors: the same as on one process."""
    for name in ("Muon", "AdamW", "SteepestDescent"):
        reference, (net, optimizer) = model(), sharded(name)
        alone = MAKERS[name](reference)
        with optim.certificates(alone) as expected:
            train(reference, alone, slice(None), steps=2)
        with optim.certificates(optimizer) as found:
            train(net, optimizer, share(), steps=2)
        assert len(found.records) == len(expected.records) == 12
        for a, b in zip(found.records, expected.records, strict=True):
            assert a[:3] == b[:3]
            assert a[3:] == pytest.approx(b[3:], rel=1e-10, nan_ok=True)


def test_certificates_of_sharded_steps(processes: Processes) -> None:
    processes(check_certificates, size=2)
