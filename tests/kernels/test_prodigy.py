"""Prodigy's two passes: against float64, and against the optimizer itself."""

from typing import Any

import pytest
import torch

from anthology.kernels.prodigy import move, move_eager, observe, observe_eager
from anthology.optim import Prodigy

BETAS = (0.9, 0.999, 0.999**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(7, 5), (1,), (1024,), (3, 1001)])
def test_as_close_to_float64_as_the_eager_twin(
    shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> None:
    def passes(low: torch.dtype, wide: torch.dtype, first, second):  # type: ignore[no-untyped-def]
        generator = torch.Generator().manual_seed(0)

        def noise(to: torch.dtype) -> torch.Tensor:
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            return x.to(dtype).to(device, to)

        p, start, out = noise(low), noise(wide), []
        averages = [noise(wide), noise(wide).abs(), noise(wide)]
        for _ in range(3):
            two = torch.tensor([0.3, 0.2], dtype=wide, device=device)
            out.append(first(p, noise(low), start, averages, two, betas=BETAS))
            second(p, averages[:2], two / 10, decay=0.1)
        return [p, *averages, *out]

    exact = passes(torch.float64, torch.float64, observe_eager, move_eager)
    eager = passes(dtype, torch.float32, observe_eager, move_eager)
    ours = passes(dtype, torch.float32, observe, move)
    for x, e, o in zip(exact, eager, ours, strict=True):
        rounding = torch.finfo(o.dtype).eps * float(x.abs().max())
        error = float((o.double() - x).abs().max())
        assert error <= max(2 * float((e.double() - x).abs().max()), rounding)


def test_the_optimizer_in_two_passes(device: str) -> None:
    torch.manual_seed(0)
    p = torch.randn(40, 60, device=device).requires_grad_()
    w, slope = p.detach().clone(), torch.randn(40, 60, device=device)
    optimizer, lr, d0, eps = Prodigy([p], lr=0.7), 0.7, 1e-6, 1e-8
    start, averages = w.clone(), [torch.zeros_like(w) for _ in "mvs"]
    d, r = torch.tensor(d0, device=device), torch.zeros((), device=device)
    for _ in range(30):
        p.grad = slope + 0.1 * torch.randn(40, 60, device=device)
        optimizer.step()
        weight = d * d * lr / d0
        numbers = torch.stack([d, weight])
        product, length = observe(w, p.grad, start, averages, numbers, betas=BETAS)
        r = BETAS[2] * r + weight * product
        new = torch.maximum(d, r / length)
        move(w, averages[:2], torch.stack([d * lr, new * eps]), decay=0.0)
        d = new
    assert float(d) > 10 * d0
    torch.testing.assert_close(float(d), optimizer.d, rtol=1e-4, atol=0.0)
    torch.testing.assert_close(w, p.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [
    {},
    {"maximize": True, "weight_decay": 0.1},
    {"use_bias_correction": True, "safeguard_warmup": True, "growth_rate": 1.5},
    {"betas": (0.0, 0.99)},  # which no kernel does
    {"slice_p": 3},
])  # fmt: skip
def test_the_class_by_the_kernels(
    settings: dict[str, Any], dtype: torch.dtype, device: str
) -> None:
    ends = []
    for flags in ({"foreach": False}, {"fused": "triton"}):
        generator = torch.Generator().manual_seed(0)

        def noise(
            shape: tuple[int, ...], generator: torch.Generator = generator
        ) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        params = [noise(shape) for shape in [(7, 5), (40, 33), (1,), (6, 4)]]
        params[3] = params[3].t()  # not contiguous: goes another way
        params = [p.requires_grad_() for p in params]
        optimizer = Prodigy(params, d0=1e-2, **settings, **flags)
        for number in range(6):
            for p in params:
                p.grad = 0.3 * noise(tuple(p.shape)) - 1
            if number == 2:
                params[1].grad[3, 4] = torch.nan
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9
        assert optimizer.skipped == {"0.1": 1}
        ends.append((params, optimizer))
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(ends[0][1].d, ends[1][1].d, rtol=1e-5, atol=0.0)
    for p, q in zip(ends[0][0], ends[1][0], strict=True):
        there, here = ends[0][1].state[p], ends[1][1].state[q]
        assert list(there) == list(here)
        for name in there:
            torch.testing.assert_close(here[name], there[name], **close)
        if dtype == torch.bfloat16:  # a rounding may fall on the other side
            close_here = {"rtol": 2.0**-7, "atol": 2.0**-9}
            torch.testing.assert_close(q.detach(), p.detach(), **close_here)
        else:
            torch.testing.assert_close(q.detach(), p.detach(), **close)


def test_what_a_flag_forbids_is_not_written(device: str) -> None:
    x, two = torch.ones(40, device=device), torch.ones(2, device=device)
    x[3] = torch.nan
    averages = [torch.ones(40, device=device) for _ in "mvs"]
    w = torch.ones(40, device=device)
    no = torch.tensor(False, device=device)
    sums = observe(w, x, w, averages, two, betas=BETAS, finite=no)
    move(w, averages[:2], two, decay=0.1, finite=no)
    assert sums.tolist() == [0.0, 0.0]
    assert all(bool((y == 1).all()) for y in (w, *averages))
    move(w, averages[:2], two, decay=0.1, finite=no.logical_not())
    assert bool((w != 1).all())


def test_empty(device: str) -> None:
    nothing = [torch.empty(0, 3, device=device) for _ in range(6)]
    two = torch.ones(2, device=device)
    sums = observe(*nothing[:3], nothing[3:], two, betas=BETAS)
    assert sums.tolist() == [0.0, 0.0]
    move(nothing[0], nothing[1:3], two, decay=0.0)


def test_what_is_refused(device: str) -> None:
    x, two = torch.ones(4, 4, device=device), torch.ones(2, device=device)
    with pytest.raises(ValueError, match="tensor 1 is not contiguous"):
        move(x, [x[:, :].t()[:4], x], two, decay=0.0)
    with pytest.raises(ValueError, match="they must be alike"):
        observe(x, x[:2], x, [x, x, x], two, betas=BETAS)
