"""Any optimizer as a map: it takes the real steps, and leaves everything alone."""

import warnings

import pytest
import torch
from torch import nn

import anthology.optim as ours
from anthology.motion import generator, step_map
from tests.step_map_cases import (
    ALL,
    assert_same,
    built,
    everything,
    network,
    of_ours,
    of_torch,
    sgd,
    values,
    with_closure,
)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("warm", [0, 3], ids=["fresh", "warm"])
def test_the_map_takes_the_steps_that_the_optimizer_takes(make, warm):
    optimizer, closure = built(make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(warm):
            optimizer.step(closure)
        step = step_map(optimizer, closure)
        v = step.start
        assert torch.equal(step.parameters(v), values(optimizer))
        for _ in range(8):
            v = step(v)
            optimizer.step(closure)
            # NAdam keeps a product of numbers in float32, the map in float64
            gap = (step.parameters(v) - values(optimizer)).abs().max()
            assert gap <= (1e-8 if "NAdam" in repr(step) else 0)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("warm", [0, 2], ids=["fresh", "warm"])
def test_optimizer_and_model_are_left_bit_for_bit(make, warm):
    optimizer, closure = built(make)
    for _ in range(warm):
        optimizer.step(closure)
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    assert_same(before, everything(optimizer))
    step(step(step.start))
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize("failing", range(1, 5))
def test_an_exception_leaves_them_too(failing):
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    optimizer.step(closure)
    before = everything(optimizer)
    calls = 0

    def fails():
        nonlocal calls
        calls += 1
        value = closure()
        if calls == failing:
            raise ArithmeticError("stop")
        return value

    with pytest.raises(ArithmeticError, match="stop"):
        step = step_map(optimizer, fails)
        for _ in range(failing):
            step(step.start)
    assert_same(before, everything(optimizer))


def test_a_learning_rate_in_a_tensor_and_a_scheduler_are_left_alone():
    optimizer, closure = built(
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), weight_decay=0.1)
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    step(step.start)
    assert_same(before, everything(optimizer))
    optimizer.step(closure)
    scheduler.step()


def test_bits_that_compare_equal_or_never_do_are_kept():
    w = torch.tensor([-0.0, float("nan"), 5e-324], dtype=torch.float64)
    w.requires_grad_()
    optimizer, closure = with_closure(
        nn.ParameterList([w]), lambda: (w * w).sum(), lambda p: sgd(p, momentum=0.5)
    )
    w = optimizer.param_groups[0]["params"][0]
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    assert step(step.start)[1].isnan()
    assert_same(before, everything(optimizer))


def test_the_vector_holds_parameters_then_state():
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    step = step_map(optimizer, closure)
    d = sum(p.numel() for p in optimizer.param_groups[0]["params"])
    assert step.count == d
    assert step.start.shape == (d + 4 + 2 * d,)  # four counters, two moments
    assert repr(step) == f"StepMap(Adam: {d} parameters, {2 * d + 4} numbers of state)"
    v = step(step.start)
    state = step.state(v)
    parameters = optimizer.param_groups[0]["params"]
    assert [s["exp_avg"].shape for s in state] == [p.shape for p in parameters]
    assert all(s["step"] == 1 for s in state)
    optimizer.step(closure)
    for p, named in zip(parameters, state, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(named[name], optimizer.state[p][name])
    batch = torch.stack([v, v])
    assert step.parameters(batch).shape == (2, d)


def test_a_fractional_counter_is_a_fractional_time():
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    step = step_map(optimizer, closure)
    v = step(step.start)
    for named in step.state(v):
        named["step"].add_(0.25 + 2.0**-40)  # more digits than float32 has
    after = step.state(step(v))
    assert all(named["step"] == 2.25 + 2.0**-40 for named in after)


def test_the_counter_advances_at_one_a_step():
    optimizer, closure = built(lambda p: ours.AdamW(p, lr=0.01))
    step = step_map(optimizer, closure)
    velocity = step.state(generator(step, step.start, 3, 0.01))
    for named in velocity:
        torch.testing.assert_close(named["step"].item(), 1 / 0.01)
        assert named["skipped"] == 0


def test_parameters_without_a_gradient_stand_still():
    model, loss = network()
    model[0].weight.requires_grad_(False)
    for make in (of_torch("Adam", {}), of_ours("AdamW")):
        optimizer, closure = with_closure(model, loss, make)
        step = step_map(optimizer, closure)
        moved = step.parameters(step(step.start) - step.start)
        assert (moved[:12] == 0).all()
        assert (moved[12:] != 0).all()


def test_several_groups_and_stacked_batches():
    model, _ = network()
    x, y = torch.randn(2, 4, 4).double(), torch.randn(2, 4, 2).double()
    groups = [
        {"params": model[0].parameters()},
        {"params": model[2].parameters(), "lr": 0.2},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)

    def closure_of(batch):
        def closure():
            value = nn.functional.mse_loss(model(x[batch]), y[batch])
            value.backward()
            return value

        return closure

    first, second = (step_map(optimizer, closure_of(b)) for b in (0, 1))
    v = second(first(first.start))
    for batch in (0, 1):
        optimizer.zero_grad()
        optimizer.step(closure_of(batch))
    assert torch.equal(first.parameters(v), values(optimizer))
