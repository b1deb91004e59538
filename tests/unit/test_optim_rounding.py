"""bfloat16 parameters: rounding that loses nothing on average, or nothing at all."""

from typing import Any

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion, Muon, Prodigy
from anthology.optim.core.rounding import stochastic

BF16 = torch.bfloat16


def neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bfloat16 towards zero, and the next one away from it, as float64."""
    bits = x.view(torch.int32) & -(2**16)
    return tuple(b.view(torch.float32).double() for b in (bits, bits + 2**16))  # type: ignore[return-value]


def test_rounding_at_random_is_unbiased() -> None:
    trials = 40_000
    x = torch.cat([torch.randn(20), 1e-30 * torch.randn(10), 1e30 * torch.randn(10)])
    x = torch.cat([x, torch.tensor([1 + 2.0**-16, -1 - 2.0**-9, 3 - 2.0**-15])])
    below, above = neighbours(x)
    share = (x.double() - below) / (above - below)
    got = stochastic(x.expand(trials, -1).contiguous())
    assert got.dtype == BF16
    up = got.double() == above
    assert bool((up | (got.double() == below)).all())
    # five standard deviations of a mean: one such deviation in two million draws
    bound = 5 * (share * (1 - share) / trials).sqrt()
    assert bool(((up.double().mean(0) - share).abs() <= bound).all())


def test_entries_are_rounded_independently() -> None:
    ups = (stochastic(torch.full((200, 500), 1 + 2.0**-8)) > 1).double()
    for axis in (0, 1):  # the variance of means of coins, within five deviations
        means = ups.mean(axis)
        n, k = ups.shape[axis], len(means)
        assert abs(float(means.var()) * 4 * n - 1) < 5 * (2 / (k - 1)) ** 0.5


def test_what_is_a_bfloat16_already_stays() -> None:
    x = torch.cat([torch.randn(500).bfloat16().float(), torch.zeros(1)])
    ends = torch.tensor([torch.inf, -torch.inf, float(torch.finfo(BF16).max)])
    x = torch.cat([x, ends])
    for _ in range(20):
        assert torch.equal(stochastic(x).float(), x)
    worst = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)
    assert bool(stochastic(worst).isnan().all())


def slope(rounding: str, steps: int, numbers: int = 4000) -> torch.Tensor:
    """Where 1 ends after steps of 2⁻¹² along a constant gradient."""
    p = torch.ones(numbers, dtype=BF16).requires_grad_()
    optimizer = SGD([{"params": [p], "rounding": rounding}], lr=2.0**-12)
    for _ in range(steps):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return p.detach().double()


def test_steps_below_half_a_unit_in_the_last_place() -> None:
    steps = 512
    right = 1 - steps * 2.0**-12
    assert bool((slope("nearest", steps) == 1).all())
    assert bool((slope("compensated", steps) == right).all())
    ends = slope("stochastic", steps)
    # below 1 a unit is 2⁻⁸; each step is a coin with 1/16: variance 2⁻¹⁶/16
    deviation = (steps * 2.0**-16 / 16 / len(ends)) ** 0.5
    assert abs(float(ends.mean()) - right) < 5 * deviation


@pytest.mark.parametrize("rule", [AdamW, Lion, Muon, Prodigy])
def test_compensated_follows_single_precision(rule: Any) -> None:
    ends = {}
    for rounding in ("float32", "nearest", "compensated"):
        generator = torch.Generator().manual_seed(0)
        p = torch.randn(30, 20, generator=generator).bfloat16()
        p = (p.float() if rounding == "float32" else p).requires_grad_()
        how = "nearest" if rounding == "float32" else rounding
        settings = {"d0": 1e-3} if rule is Prodigy else {"lr": 1e-3}
        optimizer = rule([{"params": [p], "rounding": how}], **settings)
        for _ in range(60):
            grad = torch.randn(30, 20, generator=generator).bfloat16() + 0.5
            p.grad = grad.to(p.dtype)
            optimizer.step()
        residual = optimizer.state[p].get("residual", torch.zeros(()))
        ends[rounding] = p.detach().double() + residual.double()
    wrong = {k: float((x - ends["float32"]).abs().max()) for k, x in ends.items()}
    assert wrong["compensated"] < 0.05 * wrong["nearest"]


def run(optimizer: Any, p: torch.Tensor, seed: int, steps: int) -> None:
    torch.manual_seed(seed)
    for _ in range(steps):
        p.grad = torch.randn(50).bfloat16()
        optimizer.step()


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_a_checkpoint_goes_on_bit_for_bit(rounding: str) -> None:
    def made(start: torch.Tensor) -> tuple[Any, torch.Tensor]:
        p = start.clone().requires_grad_()
        return AdamW([{"params": [p], "rounding": rounding}], 1e-3), p

    first, p = made(torch.ones(50, dtype=BF16))
    run(first, p, 0, 10)
    second, q = made(p.detach())
    second.load_state_dict(first.state_dict())
    run(first, p, 1, 10)
    run(second, q, 1, 10)
    assert torch.equal(p, q)
    kept = first.state[p]
    assert ("residual" in kept) == (rounding == "compensated")
    if "residual" in kept:
        assert second.state[q]["residual"].dtype == BF16
        assert torch.equal(kept["residual"], second.state[q]["residual"])


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
@pytest.mark.parametrize("free", [True, False])
def test_a_gradient_that_is_not_finite_changes_nothing(
    rounding: str, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anthology.optim.core import batch

    p = torch.randn(50).bfloat16().requires_grad_()
    optimizer = AdamW([{"params": [p], "rounding": rounding}], 1e-3)
    run(optimizer, p, 0, 5)
    # as on a device, where flags are not read
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda _: free)
    before = {k: v.clone() for k, v in optimizer.state[p].items()}
    old = p.detach().clone()
    p.grad = torch.full((50,), torch.nan, dtype=BF16)
    optimizer.step()
    assert torch.equal(p, old) and optimizer.skipped == {"0.0": 1}
    for name, value in optimizer.state[p].items():
        assert name in ("step", "skipped") or torch.equal(value, before[name])


def test_switched_on_later_and_other_dtypes() -> None:
    p, q = torch.ones(4, dtype=BF16), torch.ones(4)
    optimizer = SGD([p.requires_grad_(), q.requires_grad_()], lr=2.0**-12)
    for rounding in ("nearest", "compensated"):
        optimizer.param_groups[0]["rounding"] = rounding
        for _ in range(32):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
            optimizer.step()
    assert p.tolist() == [1 - 32 * 2.0**-12] * 4
    assert q.tolist() == [1 - 64 * 2.0**-12] * 4
    assert "residual" not in optimizer.state[q]


def test_what_is_refused() -> None:
    p = torch.ones(2, dtype=BF16).requires_grad_()
    for rounding in ("up", None):
        with pytest.raises(ValueError, match="Invalid rounding: .* 'stochastic'"):
            SGD([{"params": [p], "rounding": rounding}])
    group = {"params": [p], "rounding": "stochastic", "differentiable": True}
    with pytest.raises(ValueError, match="has no derivative"):
        SGD([group])


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
@pytest.mark.parametrize("fused", [True, "compile"])
def test_fused_goes_by_lists_instead(fused: Any, rounding: str) -> None:
    """Other passes round to the nearest, by which such a step would be lost."""
    p = torch.ones(3000, dtype=BF16).requires_grad_()
    group = {"params": [p], "rounding": rounding}
    optimizer = SGD([group], lr=2.0**-12, fused=fused)
    p.grad = torch.ones_like(p)
    for _ in range(32):
        optimizer.step()
    assert abs(float(p.detach().float().mean()) - (1 - 32 * 2.0**-12)) < 2e-3
