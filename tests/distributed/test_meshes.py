"""Gradients missing on some processes, meshes of two axes, halves, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Replicate,
    Shard,
    distribute_tensor,
    init_device_mesh,
)
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from anthology import optim
from anthology.optim.core.sharding.layer import shards_of
from anthology.optim.core.sharding.mesh import Place, assign, matrix_cost
from experiments.ranks import traffic
from tests.distributed.processes import Processes
from tests.distributed.test_training import MAKERS, model, same, train


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
        patch.setattr("anthology.optim.core.sharding.transfer.ROUND", 100)
        optimizer.step()
    owners = assign([matrix_cost(shape) for shape in shapes], size)
    assert [shards_of(optimizer).owner(p) for p in params] == owners
    assert (sum(sent), sum(received)) == traffic(shapes, owners, size)[rank]
    assert len(sent) > 2  # there and back, in more than one round
    kept = sum(x.numel() for p in params for x in optimizer.state[p].values() if x.ndim)
    mine = zip(owners, shapes, strict=True)
    assert kept == sum(s[0] * s[1] for owner, s in mine if owner == rank)


def test_messages_and_owners(processes: Processes) -> None:
    processes(check_messages)


def check_experts_of_their_own() -> None:
    """Experts on halves of the processes, beside a dense matrix on all of them."""
    plane = init_device_mesh("cpu", (2, 2), mesh_dim_names=("expert", "data"))
    half, everyone = plane["data"], init_device_mesh("cpu", (4,))
    generator = torch.Generator().manual_seed(5)
    shapes = [(6, 4), (5, 3), (5, 3), (4,)]
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    mine = 1 + dist.get_rank() // 2
    makers: list[Any] = [
        lambda p: optim.AdamW(p, 0.1),
        lambda p: optim.Muon(p, 0.1),
        lambda p: optim.SteepestDescent(p, 0.1, step="steepest"),
        lambda p: optim.Prodigy(p, d0=1e-2, eps=1e-3),
        lambda p: optim.FreeSteepestDescent(p, d0=1e-2),
        lambda p: optim.SGD(p, 0.1, normalised=True),
    ]
    for make in makers:
        expected = [x.clone() for x in start]
        params = [
            distribute_tensor(start[0], everyone, [Shard(0)]),
            distribute_tensor(start[mine], half, [Shard(0)]),
            start[3].clone(),
        ]
        reference, optimizer = make(expected), make(params)
        for k in range(3):
            for p in expected:
                p.grad = p.flip(0) + k
            params[0].grad = distribute_tensor(expected[0].grad, everyone, [Shard(0)])
            params[1].grad = distribute_tensor(expected[mine].grad, half, [Shard(0)])
            params[2].grad = expected[3].grad.clone()
            reference.step()
            optimizer.step()
        for p, number in zip(params, (0, mine, 3), strict=True):
            whole = p.full_tensor() if isinstance(p, DTensor) else p
            assert float((whole - expected[number]).abs().max()) <= 1e-12


def test_experts_of_their_own(processes: Processes) -> None:
    processes(check_experts_of_their_own)


def check_two_ways() -> None:
    """FSDP2 over tensor parallelism, whose shards interleave."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    last = ColwiseParallel(output_layouts=Replicate())
    plan = {"0": ColwiseParallel(), "2": RowwiseParallel(), "4": last}
    for name in ("Muon", "AdamW", "KrADagrad", "Prodigy"):
        reference, net = model(8), model(8)
        parallelize_module(net, mesh["model"], plan)
        fully_shard(net, mesh=mesh["data"])
        train(reference, MAKERS[name](reference), slice(None))
        half = slice(0, 4) if dist.get_rank() < 2 else slice(4, 8)
        train(net, MAKERS[name](net), half)
        same(net, reference)


def test_fully_shard_over_tensor_parallelism(processes: Processes) -> None:
    processes(check_two_ways)
