"""Low precision, sizes and addresses of every kind, and how many launches there are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from anthology.kernels.entrywise import step, step_eager
from anthology.kernels.symmetric import gram
from anthology.linalg import certificate, polar
from anthology.optim import SGD, AdamW, Lion, Muon

BF16 = torch.bfloat16


@pytest.mark.parametrize("fused", [None, "triton"])
def test_random_rounding_is_unbiased(fused: Any, device: str) -> None:
    size = 100_000 if device == "cuda" else 2000
    p = torch.ones(size, dtype=BF16, device=device).requires_grad_()
    group = {"params": [p], "rounding": "stochastic"}
    optimizer = SGD([group], lr=2.0**-12, fused=fused)
    p.grad = torch.ones_like(p)
    for _ in range(64):
        optimizer.step()
    spread = 64**0.5 * 2.0**-10 / p.numel() ** 0.5
    assert abs(float(p.detach().double().mean()) - (1 - 2.0**-6)) < 5 * spread


@pytest.mark.parametrize("fused", [None, "triton"])
def test_compensated_rounding_loses_little(fused: Any, device: str) -> None:
    """A hundred small steps end where float32 ends, within 2⁻¹⁴."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, 33, generator=generator).bfloat16()
    grads = [torch.randn(64, 33, generator=generator).bfloat16() for _ in range(100)]
    ends = {}
    for dtype in (BF16, torch.float32):
        p = start.to(device, dtype, copy=True).requires_grad_()
        group = {"params": [p], "rounding": "compensated"}
        optimizer = AdamW([group], 1e-4, fused=fused)
        for g in grads:
            p.grad = g.to(device, dtype)
            optimizer.step()
        rest = optimizer.state[p].get("residual", torch.zeros_like(p))
        ends[dtype] = p.detach().float() + rest.float()
    gap = (ends[BF16] - ends[torch.float32]).abs().max()
    assert float(gap) < 2.0**-14 * float(ends[torch.float32].abs().max())


@pytest.mark.parametrize("shape", [(512, 512), (384, 1536), (2, 256, 100)])
@pytest.mark.parametrize("method", ["muon", "polar-express", "gram"])
def test_polar_factors_in_bfloat16(
    method: str, shape: tuple[int, ...], device: str
) -> None:
    """Nearly as good a direction as the same method in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    exact = certificate(x, polar(x, method=method)).efficiency.min()
    low = polar(x.to(device, BF16), method=method)
    assert low.dtype == BF16 and low.device.type == device
    ours = certificate(x, low.cpu().double()).efficiency.min()
    assert float(ours) > float(exact) - 0.03


def test_muon_in_bfloat16_moves_as_in_float32(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(128, 96, generator=generator)
    grad = torch.randn(128, 96, generator=generator)
    moves = []
    for precision in (None, "bfloat16"):
        p = start.to(device, copy=True).requires_grad_()
        p.grad = grad.to(device)
        Muon([p], lr=0.1, ns_dtype=precision).step()
        moves.append((p.detach() - start.to(device)).flatten().double())
    cosine = torch.cosine_similarity(*moves, dim=0)
    assert float(cosine) > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 1023, 1024, 1025, 100_003])
@pytest.mark.parametrize("shift", [0, 1, 8])
def test_any_address_and_any_length(
    shift: int, size: int, dtype: torch.dtype, device: str
) -> None:
    """Neighbours in the memory are not touched, whether 16 bytes fit or not."""
    if device == "cpu" and size > 10_000:
        pytest.skip("long in the interpreter")
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(4, size + 16, generator=generator).to(device)
    views = [[], []]
    for members in views:
        for i, kind in enumerate((dtype, dtype, torch.float32, torch.float32)):
            members.append(whole[i].to(kind, copy=True))
    cut = slice(shift, shift + size)
    numbers = torch.tensor([0.1, 0.2, 0.3], device=device)
    for members, take in zip(views, (step, step_eager), strict=True):
        p, g, m, v = (x[cut] for x in members)
        take("adamw", p, g, [m, v.abs_()], numbers, eps=1e-3, decay=0.1)
    for ours, twin in zip(*views, strict=True):
        torch.testing.assert_close(ours, twin, rtol=1.6e-2, atol=1e-5)
        assert torch.equal(ours[:shift], twin[:shift])
        assert torch.equal(ours[shift + size :], twin[shift + size :])


def test_more_numbers_than_32_bits_count(card: str) -> None:
    size = 2**31 + 1025
    free, _ = torch.cuda.mem_get_info()
    if free < 5 * size:
        pytest.skip(f"needs {5 * size / 1e9:.0f} GB of free memory")
    p = torch.zeros(size, dtype=BF16, device=card)
    g = torch.ones(size, dtype=BF16, device=card)
    step("descent", p, g, [], torch.ones(3, device=card))
    for part in p.split(2**28):
        assert bool((part == -1).all())


@pytest.mark.parametrize("make", [AdamW, Lion])
def test_hundreds_of_small_tensors_take_few_launches(
    make: Callable[..., Any], card: str
) -> None:
    params = [torch.randn(64, 64, device=card).requires_grad_() for _ in range(500)]
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer = make(params, fused="triton")
    for _ in range(2):
        optimizer.step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        optimizer.step()
        torch.cuda.synchronize()
    kernels = [e for e in found.events() if e.device_type.name == "CUDA"]
    assert 0 < len(kernels) < 80


def test_a_device_that_is_not_the_current_one(card: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    params = [torch.zeros(64, device="cuda:1").requires_grad_() for _ in range(3)]
    for p in params:
        p.grad = torch.ones_like(p)
    Lion(params, lr=0.5, weight_decay=0.0, fused="triton").step()
    assert all(p.tolist() == [-0.5] * 64 for p in params)
    assert torch.equal(
        gram(torch.ones(2, 2, device="cuda:1")).cpu(), torch.full((2, 2), 2.0)
    )
