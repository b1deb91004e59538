"""Optimizers that step by the kernels do what they do without."""

from typing import Any

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion, RootFreeAdamW, RootFreeRMSProp, Signum

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


def test_without_a_device_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match="fused='triton' needs .* leave fused=None"):
        Lion([p], fused="triton").step()
    assert p.tolist() == [1.0, 1.0, 1.0]
