"""Optimizers in use: schedules, mixed models, gradients through the steps."""

import io
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor

from anthology.norms import LInf, Norm, metrize
from anthology.optim import (
    Adam,
    AdamW,
    RootFreeAdamW,
    RootFreeRMSProp,
    SteepestDescent,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rate_that_is_a_tensor_is_read_anew_at_each_step(dtype):
    lr = torch.tensor([0.5], dtype=dtype)
    p = torch.zeros(3).requires_grad_()
    optimizer = SteepestDescent([p], lr, norm=LInf())
    for size in (0.5, 0.25, 0.0):
        lr.fill_(size)
        before = p.detach().clone()
        p.grad = torch.ones(3)
        optimizer.step()
        assert torch.equal(before - p.detach(), torch.full((3,), size))


def test_mixed_dtypes_and_groups_in_one_optimizer():
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
    params = [torch.zeros(4, 3, dtype=d).requires_grad_() for d in dtypes]
    empty = torch.zeros(0).requires_grad_()
    for options in ({}, {"step": "steepest"}, {"across": "l2"}):
        optimizer = SteepestDescent([*params[:2], empty], lr=0.1, **options)
        optimizer.add_param_group({"params": params[2:], "lr": 0.2})
        for p in (*params, empty):
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert all(bool((p.detach().real < 0).all()) for p in params)


@pytest.mark.parametrize(
    "kind",
    [
        partial(AdamW, weight_decay=0.1, eps=0.1),
        partial(Adam, weight_decay=0.1, eps=0.1, amsgrad=True),
        partial(RootFreeRMSProp, weight_decay=0.1, batch_size=4),
        partial(RootFreeAdamW, weight_decay=0.1, batch_size=4, bias_correction=True),
        partial(SteepestDescent, norm="L2()", step="steepest", momentum=0.5),
        partial(SteepestDescent, norm="Lp(3.0)", across="l2", weight_decay=0.1),
    ],
)
def test_hyper_gradients_flow_through_the_steps(kind):
    """d(weights)/d(lr) by autograd, against a central difference."""
    slopes = torch.randn(4, 5, dtype=torch.float64)

    def end(lr: Tensor) -> Tensor:
        w = torch.ones(5, dtype=torch.float64).requires_grad_().clone()
        w.retain_grad()
        optimizer = kind([w], lr=lr, differentiable=True)
        for slope in slopes:
            w.grad = slope * w.clone() + lr
            optimizer.step()
        return w.sum()

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    h = 1e-6
    central = (end(lr.detach() + h) - end(lr.detach() - h)) / (2 * h)
    assert float((slope - central).detach().abs()) < 1e-8 * (1 + float(slope.abs()))


def test_library_tools_work_on_top():
    """Gradient scaling, one-cycle schedules and clipping meet a plain optimizer."""
    model = torch.nn.Linear(4, 1)
    optimizer = AdamW(model.named_parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=30)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    x = torch.randn(64, 4)
    y = x.sum(1, keepdim=True)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize(
    "kind",
    [
        partial(SteepestDescent, lr=0.1),
        AdamW,
        partial(RootFreeAdamW, batch_size=4),
        torch.optim.AdamW,
    ],
)
def test_checkpoints_of_a_metrized_model_load_with_the_safe_loader(kind):
    model = torch.nn.Linear(4, 2)
    optimizer = kind(metrize(model))
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    kind(metrize(model)).load_state_dict(torch.load(file, weights_only=True))


def test_a_norm_that_is_defined_again_replaces_the_first():
    """As in a notebook, where a cell runs twice."""
    for length in (1.0, 2.0):

        @dataclass(frozen=True, repr=False)
        class Longer(Norm):
            def _norm(self, x: Tensor, length: float = length) -> Tensor:
                return x.abs().amax(-1) / length

            def _dual(self, g: Tensor, length: float = length) -> Tensor:
                return g.abs().sum(-1) * length

            def _dualize(self, g: Tensor, length: float = length) -> Tensor:
                return g.sgn() * length

        p = torch.zeros(3).requires_grad_()
        p.grad = torch.ones(3)
        SteepestDescent([p], lr=1.0, norm=Longer()).step()
        assert torch.equal(p.detach(), torch.full((3,), -length))
