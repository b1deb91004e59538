"""Cautious and corrected decay, against a transcription of their authors' rules."""

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anthology import optim
from anthology.optim import functional
from anthology.optim.core import batch as batching
from anthology.optim.core.decay import KINDS
from anthology.optim.core.fused import passes
from anthology.optim.core.fused.passes import compiled_kernels

KAPPA = 0.7
COUPLED = {"SGD", "Adam", "RootFreeRMSProp", "SIRFShampoo", "KrADagrad"}
CLASSES: dict[str, Any] = {
    "SGD": functools.partial(optim.SGD, lr=0.05, momentum=0.9),
    "SGD normalised": functools.partial(optim.SGD, lr=0.05, normalised=True),
    "Signum": functools.partial(optim.Signum, lr=0.01),
    "Lion": functools.partial(optim.Lion, lr=0.01),
    "Adam": functools.partial(optim.Adam, lr=0.01),
    "AdamW": functools.partial(optim.AdamW, lr=0.01),
    "Muon": functools.partial(optim.Muon, lr=0.02, method="svd", adamw_lr=0.01),
    "RootFreeRMSProp": functools.partial(optim.RootFreeRMSProp, lr=0.01, batch_size=8),
    "RootFreeAdamW": functools.partial(optim.RootFreeAdamW, lr=0.01, batch_size=8),
    "SIRFShampoo": functools.partial(optim.SIRFShampoo, lr=0.01, batch_size=8),
    "SOAP": functools.partial(optim.SOAP, lr=0.01),
    "KrADagrad": functools.partial(optim.KrADagrad, lr=0.05),
    "Shampoo": functools.partial(optim.Shampoo, lr=0.05),
    "Prodigy": functools.partial(optim.Prodigy, d0=1e-3),
    "FreeSteepestDescent": functools.partial(optim.FreeSteepestDescent, d0=1e-3),
    "SteepestDescent": functools.partial(optim.SteepestDescent, lr=0.02, momentum=0.9),
}
SHAPES = [(4, 3), (5,), (4, 3), ()]


def tensors(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=drawn, dtype=dtype) for s in SHAPES]


def leaves(xs: list[Tensor]) -> list[Tensor]:
    return [x.clone().requires_grad_() for x in xs]


def set_rate(optimizer: Any, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = share * optimizer.defaults["lr"]


def feed(optimizer: Any, params: list[Tensor], seed: int) -> None:
    for p, g in zip(params, tensors(seed, params[0].dtype), strict=True):
        p.grad = g
    optimizer.step()


def rate_of(optimizer: Any, p: Tensor, d: float) -> float:
    group = optimizer.param_groups[0]
    own = optimizer.group_of(p, group)
    return float(own["lr"]) * d


@pytest.mark.parametrize("foreach", [None, False])
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", CLASSES)
def test_every_class_decays_as_the_authors_write(name, kind, foreach):
    """w_new − ηκ s w 1[(w − w_new)w ≥ 0], w_new from a twin without decay."""
    params, twins = leaves(tensors(0)), leaves(tensors(0))
    make = functools.partial(CLASSES[name], foreach=foreach)
    optimizer = make(params, weight_decay=KAPPA, decay=kind)
    plain = make(twins, weight_decay=0.0)
    shares = (0.2, 1.0, 0.5, 2.0, 0.3, 0.0)
    for t, share in enumerate(shares):
        set_rate(optimizer, share)
        set_rate(plain, share)
        old = [p.detach().clone() for p in params]
        with torch.no_grad():
            for q, w in zip(twins, old, strict=True):
                q.copy_(w)
        before = float(getattr(plain, "d", 1.0)) if t else 1e-3
        feed(plain, twins, 10 + t)
        feed(optimizer, params, 10 + t)
        for p, q, w in zip(params, twins, old, strict=True):
            size = KAPPA * rate_of(plain, q, before if hasattr(plain, "d") else 1.0)
            if "corrected" in kind:
                size *= share / max(shares[: t + 1])
            if t < plain.warmup_steps:
                size = 0.0
            mask = (w - q.detach()) * w >= 0
            mask = mask if "cautious" in kind else torch.ones_like(mask)
            expected = q.detach() - size * w * mask
            assert (p - expected).abs().max() < 1e-14


@pytest.mark.parametrize("name", CLASSES)
def test_without_decay_all_kinds_are_one(name):
    ends = []
    for kind in KINDS:
        params = leaves(tensors(0, torch.float32))
        optimizer = CLASSES[name](params, weight_decay=0.0, decay=kind)
        for t in range(3):
            feed(optimizer, params, t)
        ends.append(params)
    for params in ends[1:]:
        assert all(map(torch.equal, params, ends[0]))


@pytest.mark.parametrize("name", sorted(set(CLASSES) - COUPLED - {"SGD normalised"}))
def test_at_a_constant_rate_corrected_decay_is_that_of_decoupled_classes(name):
    ends = []
    for kind in ("plain", "corrected"):
        params = leaves(tensors(0))
        optimizer = CLASSES[name](params, weight_decay=KAPPA, decay=kind)
        for t in range(4):
            feed(optimizer, params, t)
        ends.append(params)
    gap = max(float((p - q).abs().max()) for p, q in zip(*ends, strict=True))
    # SOAP decays after its step: ηκ times a step apart, four times
    assert gap < (4 * 0.01 * KAPPA * 0.05 if name == "SOAP" else 1e-13)


RULES = torch.optim.lr_scheduler
SCHEDULES: dict[str, Any] = {
    "warm-up": functools.partial(RULES.LinearLR, start_factor=0.1, total_iters=5),
    "one cycle": functools.partial(RULES.OneCycleLR, max_lr=0.1, total_steps=20),
    "cyclic": functools.partial(RULES.CyclicLR, base_lr=0.01, max_lr=0.1),
    "cosine": functools.partial(RULES.CosineAnnealingLR, T_max=20),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_largest_rate_is_found_under_schedules_of_torch(name):
    """From the first step on, but where no one can know it: then the largest so far."""
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optim.Signum([w], lr=0.1, weight_decay=0.5, decay="corrected")
    schedule, top = SCHEDULES[name](optimizer), 0.0
    for _ in range(10):
        rate = optimizer.param_groups[0]["lr"]
        top = max(top, rate)
        w.grad = torch.zeros_like(w)
        before = w.detach().clone()
        optimizer.step()
        schedule.step()
        right = top if name == "cyclic" else 0.1
        expected = before * (1 - 0.5 * rate**2 / right)
        assert torch.allclose(w.detach(), expected, rtol=1e-14)


def test_a_schedule_goes_on_after_a_resume():
    ends = []
    for resumed in (False, True):
        params = leaves(tensors(0))
        make = functools.partial(
            optim.AdamW, lr=0.1, weight_decay=KAPPA, decay="corrected"
        )
        optimizer = make(params)
        for t, share in enumerate((1.0, 0.5, 0.2, 0.1)):
            if resumed and t == 2:
                saved = optimizer.state_dict()
                assert saved["param_groups"][0]["peak_lr"] == 0.1
                optimizer = make(params)
                optimizer.load_state_dict(saved)
            set_rate(optimizer, share)
            feed(optimizer, params, t)
        ends.append(params)
    assert all(map(torch.equal, *ends))


def test_the_functional_form_takes_the_same_steps_and_changes_nothing():
    params = tensors(0)
    rule = functional.adamw(lr=0.1, weight_decay=KAPPA, decay="cautious+corrected")
    state, now = rule.init(params), params
    optimizer = optim.AdamW(
        own := leaves(params), lr=0.1, weight_decay=KAPPA, decay="cautious+corrected"
    )
    for t, lr in enumerate((torch.tensor(0.1), 0.05, 0.2, 0.1)):
        groups = [dict(g) for g in state["groups"]]
        now, new = rule.update(now, tensors(t), state, lr=lr)
        assert state["groups"] == groups
        state = new
        optimizer.param_groups[0]["lr"] = lr
        feed(optimizer, own, t)
    assert all(torch.equal(p, q.detach()) for p, q in zip(now, own, strict=True))
    assert state["groups"][0]["peak_lr"] == 0.2


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("fused", [True, "compile"])
@pytest.mark.parametrize("make", [optim.AdamW, optim.Lion, optim.Prodigy])
def test_fused_passes_stand_aside(make, fused, kind, monkeypatch):
    """They are not compiled for it, and the numbers are those of foreach."""
    monkeypatch.setattr(passes, "LEAST", 2)
    kernels, ends = compiled_kernels(), []
    for way in (None, fused):
        params = leaves(tensors(0))
        optimizer = make(params, weight_decay=KAPPA, decay=kind, fused=way)
        for t in range(3):
            set_rate(optimizer, 1 / (1 + t))
            feed(optimizer, params, t)
        ends.append(params)
    assert compiled_kernels() == kernels
    gap = max(float((p - q).abs().max()) for p, q in zip(*ends, strict=True))
    assert gap < 1e-14


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_is_skipped_does_not_decay(kind, reads, monkeypatch):
    monkeypatch.setattr(batching, "reads_flags_for_free", lambda device: reads)
    params = leaves(tensors(0))
    optimizer = optim.AdamW(params, lr=0.1, weight_decay=KAPPA, decay=kind)
    feed(optimizer, params, 1)
    before = [p.detach().clone() for p in params]
    for p, g in zip(params, tensors(2), strict=True):
        p.grad = g
    params[0].grad[0, :2] = math.nan
    params[1].grad = None
    optimizer.step()
    still = torch.zeros_like(before[0], dtype=torch.bool)
    still[0, :2] = True
    assert torch.equal(params[0] == before[0], still)
    assert torch.equal(params[1], before[1])
    assert not torch.equal(params[2], before[2])


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("name", CLASSES)
def test_a_lone_tensor_that_is_skipped_stays(name, kind):
    w = torch.ones(4, 3, requires_grad=True)
    optimizer = CLASSES[name]([w], weight_decay=KAPPA, decay=kind)
    w.grad = torch.full((4, 3), math.nan)
    optimizer.step()
    assert torch.equal(w, torch.ones(4, 3))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "compensated"])
def test_bfloat16_is_rounded_once_after_the_decay(rounding):
    settings = {"lr": 0.1, "weight_decay": KAPPA, "decay": "cautious"}
    wide = leaves([x.bfloat16().float() for x in tensors(0, torch.float32)])
    narrow = leaves([x.bfloat16() for x in tensors(0, torch.float32)])
    exact = optim.AdamW(wide, **settings)
    rounded = optim.AdamW([{"params": narrow, "rounding": rounding}], **settings)
    for p, q, g in zip(wide, narrow, tensors(1, torch.float32), strict=True):
        q.grad = g.bfloat16()
        p.grad = q.grad.float()
    exact.step()
    rounded.step()
    for p, q in zip(wide, narrow, strict=True):
        near = p.detach().bfloat16()
        if rounding == "stochastic":
            assert (q.float() - p).abs().max() <= 2.0**-7 * p.abs().max()
        else:
            assert torch.equal(q, near)
        if rounding == "compensated":
            rest = rounded.state[q]["residual"].float()
            assert torch.equal(rest, (p.detach() - near.float()).bfloat16().float())


def test_complex_numbers_are_pairs_and_views_are_written():
    values = torch.randn(3, 4, 2, dtype=torch.float64)
    z = torch.view_as_complex(values.clone()).requires_grad_()
    x = values.clone().requires_grad_()
    g = torch.randn(3, 4, 2, dtype=torch.float64)
    z.grad, x.grad = torch.view_as_complex(g.clone()), g
    for p in (z, x):
        optim.AdamW([p], lr=0.1, weight_decay=KAPPA, decay="cautious").step()
    assert torch.equal(torch.view_as_real(z.detach()), x.detach())
    base = torch.ones(6, 4, dtype=torch.float64)
    view = base.T[::2].requires_grad_()
    view.grad = torch.ones_like(view)
    optim.Lion([view], lr=0.1, weight_decay=0.5, decay="cautious").step()
    assert torch.allclose(view.detach(), torch.full_like(view, 0.85))


def test_products_too_small_for_a_number_still_have_a_sign():
    w = torch.full((2,), 1e-30, requires_grad=True)
    w.grad = torch.tensor([1e-30, -1e-30])
    optim.SGD([w], lr=1e-3, weight_decay=100.0, decay="cautious").step()
    assert w[0] < 0.9e-30 * 0.9999 + 1e-33
    assert w[1] >= 1e-30


def test_huge_weights_stay_finite_and_zero_stays_zero():
    w = torch.tensor([3e38, -3e38, 0.0], requires_grad=True)
    w.grad = torch.tensor([1.0, 1.0, 0.0])
    optim.Lion([w], lr=0.1, weight_decay=0.5, decay="cautious").step()
    assert w.isfinite().all()
    assert w[2] == 0.0


def test_autograd_follows_the_rate_through_the_decay():
    start = torch.randn(5, dtype=torch.float64)
    g = torch.randn(5, dtype=torch.float64)

    def end(lr: Tensor) -> Tensor:
        rule = functional.sgd(
            lr=lr, weight_decay=KAPPA, decay="cautious", differentiable=True
        )
        (new,), _ = rule.update([start], [g], rule.init([start]))
        return new.square().sum()

    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    with torch.no_grad():
        plus, minus = end(lr + 1e-6), end(lr - 1e-6)
    assert float(slope) == pytest.approx(float(plus - minus) / 2e-6, rel=1e-6)


def test_a_rate_in_a_tensor_is_never_read_where_that_waits():
    """It stands in for a device; the largest is a tensor too, updated in its place."""
    from anthology.optim.core import decay

    groups = [{"lr": torch.tensor(0.1), "decay": "corrected", "max_lr": None}]
    assert decay.note_peaks(groups) is None
    assert groups[0]["peak_lr"] == pytest.approx(0.1)
    meta = {"lr": torch.ones((), device="meta"), "decay": "corrected", "max_lr": None}
    decay.note_peaks([meta])
    kept = meta["peak_lr"]
    decay.note_peaks([meta])
    assert kept.is_meta
    assert meta["peak_lr"] is kept
    assert decay.share(meta).is_meta


@pytest.mark.parametrize("wrong", ["Cautious", "correct", "", None, 1])
def test_other_kinds_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match="Invalid decay: .*'cautious' or 'corrected'"):
        optim.AdamW([torch.ones(1)], decay=wrong)
    optimizer = optim.AdamW([torch.ones(1)])
    with pytest.raises(ValueError, match="Invalid decay"):
        optimizer.add_param_group({"params": [torch.ones(1)], "decay": wrong})
    assert len(optimizer.param_groups) == 1


def test_a_largest_rate_must_be_one_and_scion_has_no_decay():
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="Invalid max_lr"):
            optim.AdamW([{"params": [torch.ones(1)], "max_lr": wrong}])
    with pytest.raises(ValueError, match="neither weight_decay nor decay"):
        optim.Scion([{"params": [torch.ones(1)], "decay": "cautious"}])


def test_a_given_largest_rate_comes_first():
    w = torch.ones(1, requires_grad=True)
    groups = [{"params": [w], "max_lr": 0.4}]
    optimizer = optim.Lion(groups, lr=0.1, weight_decay=0.5, decay="corrected")
    w.grad = torch.zeros(1)
    optimizer.step()
    assert float(w.detach()) == pytest.approx(1 - 0.1 * 0.5 * 0.25)
