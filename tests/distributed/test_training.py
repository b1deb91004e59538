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
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.nn.parallel import DistributedDataParallel

from anthology import norms, optim
from anthology.optim.core.assign import assign, matrix_cost, traffic
from anthology.optim.core.place import Place
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


def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3), nn.Tanh(), nn.Linear(3, 2)
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


def check_experts() -> None:
    """A shard without gradient counts as zero, a tensor without any stays."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    first = dist.get_rank() == 0
    for make in (optim.Muon, optim.AdamW, optim.SteepestDescent, optim.Prodigy):
        start = [torch.randn(8, 3, dtype=torch.float64) for _ in range(3)]
        for x in start:
            dist.broadcast(x, 0)
        grads = [x.flip(0).clone() for x in start]
        grads[1][2:] = 0  # only the first of four processes has anything
        expected = [x.clone() for x in start]
        for p, g in zip(expected[:2], grads, strict=False):
            p.grad = g
        make(expected, 0.1).step()
        params = [distribute_tensor(x, mesh, [Shard(0)]) for x in start]
        params[0].grad = distribute_tensor(grads[0], mesh, [Shard(0)])
        shard = distribute_tensor(grads[1], mesh, [Shard(0)])
        params[1].grad = shard if first else None
        make(params, 0.1).step()
        for p, q in zip(params, expected, strict=True):
            assert float((p.full_tensor() - q).abs().max()) <= 1e-12


def test_experts_without_gradient_on_some_ranks(processes: Processes) -> None:
    processes(check_experts)


def check_plane() -> None:
    """Two axes of processes: copies × shards, and shards of rows × of columns."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    layouts = [Replicate(), Shard(0)], [Shard(0), Shard(1)], [Shard(0), Shard(0)]
    makers: list[Any] = [
        lambda p: optim.Muon(p, 0.1),
        lambda p: optim.SGD(p, 0.1, normalised=True),
        lambda p: optim.Prodigy(p, d0=1e-2, eps=1e-3),
        lambda p: optim.FreeSteepestDescent(p, d0=1e-2),
    ]
    for make in makers:
        expected = start.clone()
        for layout in layouts:
            p = distribute_tensor(start, mesh, layout)
            expected.copy_(start)
            optimizer = make([p])
            reference = make([expected])
            for k in range(3):
                expected.grad = start.flip(k % 2) + expected
                g = distribute_tensor(expected.grad, mesh, layout)
                p.grad = g
                reference.step()
                optimizer.step()
            assert float((p.full_tensor() - expected).abs().max()) <= 1e-12


def test_meshes_of_two_axes(processes: Processes) -> None:
    processes(check_plane)


def check_narrow() -> None:
    """bfloat16 shards, float32 state: bit for bit as on one process."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    start = torch.linspace(-1, 1, 35).reshape(5, 7).bfloat16()
    makers: list[Any] = [lambda p: optim.AdamW(p), lambda p: optim.Muon(p, 0.1)]
    for make in makers:
        p, expected = distribute_tensor(start, mesh, [Shard(0)]), start.clone()
        pair = make([p]), make([expected])
        for _ in range(3):
            expected.grad = expected.flip(0).clone()
            p.grad = distribute_tensor(expected.grad, mesh, [Shard(0)])
            for optimizer in pair:
                optimizer.step()
        assert torch.equal(p.full_tensor(), expected)
        for x in pair[0].state[p].values():
            assert x.dtype == torch.float32


def test_bfloat16_shards(processes: Processes) -> None:
    processes(check_narrow)


def check_refusals() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    w = distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])
    b = torch.ones(4)
    w.grad, b.grad = w.clone(), b.clone()
    group = [{"params": [w, b], "joined": True}]
    with pytest.raises(ValueError, match="one device mesh"):
        optim.SIRFShampoo(group, batch_size=1).step()
    with pytest.raises(RuntimeError, match="differentiable"):
        optim.SGD([w], differentiable=True).step()
    assert torch.equal(w.full_tensor(), torch.ones(4, 2))


def test_what_cannot_be_is_refused(processes: Processes) -> None:
    processes(check_refusals, size=2)


def check_messages() -> None:
    """What travels is what the table of the book counts, and shared by cost."""
    size, rank = dist.get_world_size(), dist.get_rank()
    mesh = init_device_mesh("cpu", (size,))
    shapes = [(12, 8), (8, 8), (5, 7), (2, 9), (16, 4), (12, 8)]
    params = [distribute_tensor(torch.ones(s), mesh, [Shard(0)]) for s in shapes]
    for p in params:
        p.grad = p.clone()
    sent, received = [], []
    exchange = Place.exchange

    def counted(place: Place, rows: Any, sizes: list[int], like: Tensor) -> Any:
        counts = [sum(x.numel() for x in row) for row in rows]
        sent.append(sum(counts) - counts[rank])
        received.append(sum(sizes) - sizes[rank])
        return exchange(place, rows, sizes, like)

    optimizer = optim.Muon(params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "exchange", counted)
        patch.setattr("anthology.optim.core.journey.ROUND", 100)
        optimizer.step()
    owners = assign([matrix_cost(shape) for shape in shapes], size)
    assert [optimizer.spread(optimizer.param_groups).owner(p) for p in params] == owners
    assert (sum(sent), sum(received)) == traffic(shapes, owners, size)[rank]
    assert len(sent) > 2  # there and back, in more than one round
    kept = sum(x.numel() for p in params for x in optimizer.state[p].values() if x.ndim)
    mine = zip(owners, shapes, strict=True)
    assert kept == sum(s[0] * s[1] for owner, s in mine if owner == rank)


def test_messages_and_owners(processes: Processes) -> None:
    processes(check_messages)
