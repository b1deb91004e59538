"""Optimizers that step by the kernels do what they do without."""

from typing import Any

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion, RootFreeAdamW, RootFreeRMSProp, Signum
from anthology.optim.core.fused import triton as launching

RULES: list[tuple[Any, dict[str, Any]]] = [
    (AdamW, {"lr": 1e-2}),
    (AdamW, {"lr": 1e-2, "amsgrad": True}),  # which no kernel does
    (Lion, {"lr": 1e-2, "weight_decay": 0.1}),
    (Signum, {"lr": 1e-2, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"lr": 1e-2, "momentum": 0.9, "weight_decay": 0.1}),
    (SGD, {"lr": 1e-2}),
    (RootFreeRMSProp, {"batch_size": 4, "weight_decay": 0.1}),
    (RootFreeAdamW, {"batch_size": 4}),
    (RootFreeAdamW, {"batch_size": 4, "bias_correction": True, "weight_decay": 0.1}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rule", "settings"), RULES)
def test_equal_to_the_loop(
    rule: Any, settings: dict[str, Any], dtype: torch.dtype, device: str
) -> None:
    ends = []
    for flags in ({"foreach": False}, {"fused": "triton"}):
        generator = torch.Generator().manual_seed(0)

        def noise(
            shape: tuple[int, ...], generator: torch.Generator = generator
        ) -> torch.Tensor:
            return torch.randn(shape, generator=generator).to(device, dtype)

        shapes = [(7, 5), (40, 33), (1,), (6, 4)]
        params = [noise(shape) for shape in shapes]
        params[3] = params[3].t()  # not contiguous: goes another way
        params = [p.requires_grad_() for p in params]
        optimizer = rule(params, **settings, **flags)
        for number in range(4):
            for p in params:
                p.grad = noise(tuple(p.shape))
            if number == 2:
                params[1].grad[3, 4] = torch.nan
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 0.9
        assert optimizer.skipped == {"0.1": 1}
        ends.append((params, [optimizer.state[p] for p in params]))
    # a rounding to bfloat16 may fall on the other side
    close = {"rtol": 1e-5, "atol": 1e-6}
    if dtype == torch.bfloat16:
        close = {"rtol": 2.0**-7, "atol": 2.0**-9}
    for p, q in zip(ends[0][0], ends[1][0], strict=True):
        torch.testing.assert_close(q.detach(), p.detach(), **close)
    for there, here in zip(ends[0][1], ends[1][1], strict=True):
        assert list(there) == list(here)
        assert float(there["step"]) == float(here["step"])


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_bfloat16_rounded_as_asked(rounding: str, device: str) -> None:
    """Steps too small for a bfloat16 add up, and a NaN changes nothing at all."""
    settings = {"lr": 2.0**-12, "weight_decay": 0.0, "fused": "triton"}
    sizes = [(3000,), (40, 33), (8,)]
    params = [torch.ones(s, dtype=torch.bfloat16, device=device) for s in sizes]
    params = [p.requires_grad_() for p in params]
    optimizer = SGD([{"params": params, "rounding": rounding}], **settings)
    for number in range(33):
        for p in params:
            p.grad = torch.ones_like(p)
        if number == 20:
            before = [p.detach().clone() for p in params]
            kept = [dict(optimizer.state[p]) for p in params]
            kept = [{k: v.clone() for k, v in s.items()} for s in kept]
            for p in params:
                p.grad.fill_(torch.nan)
        optimizer.step()
        if number == 20:
            for p, old, state in zip(params, before, kept, strict=True):
                assert torch.equal(p, old)
                assert ("residual" in state) == (rounding == "compensated")
                for name in set(state) - {"step", "skipped"}:
                    assert torch.equal(state[name], optimizer.state[p][name])
    for p in params:
        if rounding == "compensated":
            assert p.tolist() == torch.full_like(p, 1 - 32 * 2.0**-12).tolist()
        else:  # each step moves 1 in 16 of the numbers by 2⁻⁸
            spread = 32**0.5 * 2.0**-10 / p.numel() ** 0.5
            assert (
                abs(float(p.detach().float().mean()) - (1 - 32 * 2.0**-12)) < 5 * spread
            )
    nearest = torch.ones(3, dtype=torch.bfloat16, device=device).requires_grad_()
    optimizer = SGD([nearest], **settings)
    nearest.grad = torch.ones_like(nearest)
    optimizer.step()
    assert nearest.tolist() == [1.0] * 3


def test_small_ones_share_a_launch(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large and small are mixed; large ones have a launch each."""
    monkeypatch.setattr(launching, "SMALL", 100)
    monkeypatch.setattr(launching, "NEAR", 1000)
    alone, together = [], []
    step, many = launching.step, launching.step_many
    monkeypatch.setattr(
        launching, "step", lambda *x, **k: alone.append(x[1]) or step(*x, **k)
    )
    monkeypatch.setattr(
        launching,
        "step_many",
        lambda *x, **k: together.append(len(x[1])) or many(*x, **k),
    )
    sizes = [600, 30, 1200, 40, 300, 50, 60, 70]
    params = [torch.ones(n, device=device).requires_grad_() for n in sizes]
    for p in params:
        p.grad = torch.ones_like(p)
    Lion(params, lr=0.5, weight_decay=0.0, fused="triton").step()
    assert together == [5]
    assert [len(p) for p in alone] == [600, 1200, 300]
    assert all(p.tolist() == [0.5] * len(p) for p in params)


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="fused='triton' needs .* leave fused=None"):
        Lion([p], fused="triton").step()
    assert p.tolist() == [1.0, 1.0, 1.0]
