"""What Prodigy promises beside its formula: d, NaN, groups, memory, no waiting."""

import math

import pytest
import torch
from torch import Tensor

from anthology.optim import Prodigy
from anthology.optim.core import batch


def well(n: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(n, dtype=dtype).requires_grad_()


def pull(p: Tensor, end: float = 1.0) -> None:
    p.grad = p.detach() - end


def test_d_is_read_as_a_number_and_starts_at_d0():
    p = well()
    optimizer = Prodigy([p], d0=1e-4)
    assert optimizer.d == 1e-4 and optimizer.d_of_groups == [1e-4]
    for _ in range(60):
        pull(p)
        optimizer.step()
    assert isinstance(optimizer.d, float) and 0.05 < optimizer.d <= 1.0


def test_one_d_for_all_groups_or_one_for_each():
    for per_group in (False, True):
        near, far = well(), well()
        groups = [{"params": [near]}, {"params": [far]}]
        optimizer = Prodigy(groups, per_group=per_group)
        alone = Prodigy([lonely := well()])
        for _ in range(80):
            pull(near, 1e-3)
            pull(far, 100.0)
            pull(lonely, 1e-3)
            optimizer.step()
            alone.step()
        small, large = optimizer.d_of_groups
        assert optimizer.d == large > 1.0
        if per_group:
            assert small == alone.d <= 1e-3
            assert torch.equal(near, lonely)
        else:
            assert small == large


@pytest.mark.parametrize("device_path", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e300])
def test_one_bad_tensor_does_not_stop_the_others(monkeypatch, device_path, bad):
    """prodigyopt's global d stays where it is for ever after one NaN."""
    if device_path:
        monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    good, spoiled, lonely = well(), well(), well()
    optimizer, alone = Prodigy([good, spoiled]), Prodigy([lonely])
    for _ in range(80):
        pull(good)
        pull(lonely)
        spoiled.grad = torch.full_like(spoiled, 0.5)
        spoiled.grad[2] = bad
        optimizer.step()
        alone.step()
    assert optimizer.d == alone.d > 0.05
    assert torch.equal(good, lonely)
    assert torch.equal(spoiled.detach(), torch.zeros(6).double())
    assert optimizer.skipped == {"0.1": 80}
    for _ in range(5):
        pull(good)
        pull(spoiled)
        optimizer.step()
    assert bool((spoiled.detach() > 0).all())


def test_a_bad_step_leaves_d_where_it_was():
    p = well()
    optimizer = Prodigy([p])
    for _ in range(40):
        pull(p)
        optimizer.step()
    before = optimizer.d
    p.grad = torch.full_like(p, math.nan)
    optimizer.step()
    assert optimizer.d == before
    pull(p)
    optimizer.step()
    assert before <= optimizer.d < math.inf


def test_sums_that_overflow_leave_d_where_it_was():
    """Gradients of 1e13 in float32 on weights of 1e30: r is not finite."""
    p = torch.full((4,), 1e30).requires_grad_()
    optimizer = Prodigy([p])
    for k in range(5):
        p.grad = torch.full((4,), 1e13)
        optimizer.step()
        with torch.no_grad():
            p.fill_((-1.0) ** k * 1e30)
    assert 0 < optimizer.d < math.inf and bool(p.detach().isfinite().all())


@pytest.mark.parametrize("eps", [0.0, 1e-60])
def test_no_signal_and_no_epsilon_give_no_nan(eps):
    p = torch.ones(4).requires_grad_()
    optimizer = Prodigy([p], eps=eps)
    for _ in range(3):
        p.grad = torch.zeros(4)
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4)) and optimizer.d == pytest.approx(1e-6)


def test_the_step_reads_nothing_from_the_device(monkeypatch):
    """Every way in which a tensor becomes a number of the host is closed."""
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    p, q = well(), well(4)
    optimizer = Prodigy(
        [{"params": [p]}, {"params": [q], "lr": torch.tensor(0.5)}],
        use_bias_correction=True,
        capturable=True,
        growth_rate=2.0,
        slice_p=2,
    )
    pull(p)
    pull(q)
    optimizer.step()

    def refuse(*_: object) -> None:
        raise AssertionError("the host asked for a number")

    with monkeypatch.context() as closed:
        for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
            closed.setattr(Tensor, name, refuse)
        optimizer.step()
    assert optimizer.d > 0


def test_the_device_path_gives_the_same_steps(monkeypatch):
    ends = []
    for device_path in (False, True):
        if device_path:
            monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
        params = [well(), well(3)]
        optimizer = Prodigy(params, use_bias_correction=True, weight_decay=0.1)
        for _ in range(80):
            for p in params:
                pull(p)
            optimizer.step()
        ends.append(torch.cat([*params, torch.tensor([optimizer.d])]).detach())
    assert float((ends[0] - ends[1]).abs().max()) < 1e-12


@pytest.mark.parametrize(("every", "betas", "numbers"), [
    (1, (0.9, 0.999), 4 * 121),
    (11, (0.9, 0.999), 2 * 121 + 2 * 11),
    (11, (0.0, 0.999), 121 + 2 * 11),
])  # fmt: skip
def test_the_state_is_as_small_as_stated(every, betas, numbers):
    p = torch.ones(11, 11).requires_grad_()
    optimizer = Prodigy([p], slice_p=every, betas=betas)
    optimizer.create_state()
    kept = optimizer.state[p].values()
    assert sum(x.numel() for x in kept if x.ndim) == numbers


def test_a_checkpoint_keeps_d_and_the_start():
    p = well()
    optimizer = Prodigy([p], slice_p=2, growth_rate=1.5)
    for _ in range(50):
        pull(p)
        optimizer.step()
    q = p.detach().clone().requires_grad_()
    resumed = Prodigy([q], slice_p=2, growth_rate=1.5)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.d == optimizer.d > 1e-3
    assert torch.equal(resumed.state[q]["p0"], torch.zeros(3).double())
    for _ in range(50):
        pull(p)
        pull(q)
        optimizer.step()
        resumed.step()
    assert torch.equal(p, q) and resumed.d == optimizer.d


def test_a_group_at_rest_does_not_hold_d_back():
    p, resting, lonely = well(), well(), well()
    groups = [{"params": [p]}, {"params": [resting], "lr": 0.0}]
    optimizer, alone = Prodigy(groups), Prodigy([lonely])
    for _ in range(60):
        pull(p)
        pull(lonely)
        resting.grad = torch.full_like(resting, 1e6)
        optimizer.step()
        alone.step()
    assert optimizer.d == alone.d and torch.equal(p, lonely)
    assert torch.equal(resting.detach(), torch.zeros(6).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d0": 0.0}, "Invalid d0"),
        ({"d0": math.nan}, "Invalid d0"),
        ({"d_coef": -1.0}, "Invalid d_coef"),
        ({"growth_rate": 0.9}, "Invalid growth_rate"),
        ({"growth_rate": math.nan}, "Invalid growth_rate"),
        ({"beta3": 1.0}, "Invalid beta3 value"),
        ({"slice_p": 0}, "Invalid slice_p"),
        ({"slice_p": 1.5}, "Invalid slice_p"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1"),
        ({"eps": -1.0}, "Invalid epsilon value"),
        ({"lr": -1.0}, "Invalid learning rate"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Prodigy([well()], **options)


def test_groups_that_share_d_agree_on_how_it_grows():
    optimizer = Prodigy([well()])
    for options in ({"d0": 1e-3}, {"growth_rate": 2.0}, {"per_group": True}):
        with pytest.raises(ValueError, match="one choice"):
            optimizer.add_param_group({"params": [well()], **options})
    apart = Prodigy([well()], per_group=True)
    apart.add_param_group({"params": [well()], "d0": 1e-3})
    assert apart.d_of_groups == [1e-6, 1e-3]


def test_hyper_gradients_flow_through_d():
    """d(weights)/d(d0) by a schedule of rates, against a central difference."""

    def end(lr: Tensor) -> Tensor:
        w = torch.zeros(5, dtype=torch.float64).requires_grad_().clone()
        w.retain_grad()
        optimizer = Prodigy([w], lr=lr, d0=0.1, eps=0.1, differentiable=True)
        for k in range(6):
            w.grad = w.clone() * (1 + k) - torch.arange(1.0, 6.0).double()
            optimizer.step()
        return w.sum()

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    h = 1e-6
    central = (end(lr.detach() + h) - end(lr.detach() - h)) / (2 * h)
    assert float((slope - central).detach().abs()) < 1e-7 * (1 + float(slope.abs()))
