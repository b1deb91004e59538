"""SGD against torch.optim form by form, and its normalised step."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from anthology.optim import SGD
from anthology.optim.core import batch

SHAPES = [(4, 3), (3,), (), (2, 3, 3, 2)]
OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.05},
    {"momentum": 0.8, "maximize": True},
    {"momentum": 1.0},
]
DAMPED = [
    {"momentum": 0.9, "dampening": 0.1},
    {"momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "dampening": -0.3},
]


def run(kind, dtype=torch.float64, steps=300, **options) -> list[Tensor]:
    torch.manual_seed(1)
    params = [torch.randn(s, dtype=dtype).requires_grad_() for s in SHAPES]
    optimizer = kind(params, **{"lr": 0.01, **options})
    for k in range(steps):
        for i, p in enumerate(params):
            sitting_out = (k + i) % 7 == 0
            p.grad = None if sitting_out else torch.randn(p.shape, dtype=dtype)
        optimizer.step()
    return [p.detach() for p in params]


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float(abs((x - y) / (1 + y.abs())).max()) for x, y in pairs)


@pytest.mark.claim("sgd-parity")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_torch_bit_by_bit(options):
    """300 steps in double precision, loop and lists."""
    reference = run(torch.optim.SGD, foreach=False, **options)
    for foreach in (None, False, True):
        for a, b in zip(run(SGD, foreach=foreach, **options), reference, strict=True):
            assert torch.equal(a, b)


@pytest.mark.claim("sgd-parity", tol=1e-12, trials=300)
@pytest.mark.parametrize("options", DAMPED, ids=str)
def test_dampening_is_torchs(claim, options):
    reference = run(torch.optim.SGD, steps=claim.trials, **options)
    for form in ({}, {"foreach": False}, {"capturable": True}):
        ours = run(SGD, steps=claim.trials, **form, **options)
        assert gap(ours, reference) < claim.tol


def test_complex_parameters_as_torch_treats_them():
    for options in (*OPTIONS, *DAMPED):
        a = run(SGD, torch.complex128, 30, **options)
        b = run(torch.optim.SGD, torch.complex128, 30, **options)
        assert gap(a, b) < 1e-14


@pytest.mark.parametrize("options", [*OPTIONS, *DAMPED], ids=str)
@pytest.mark.parametrize("forwards", [True, False])
def test_checkpoints_go_to_torch_and_back(options, forwards):
    """The first optimizer takes some steps (or none), the second goes on."""
    kinds = (torch.optim.SGD, SGD) if forwards else (SGD, torch.optim.SGD)
    for start in (0, 4):
        p = torch.ones(4, 3, dtype=torch.float64).requires_grad_()
        q = p.detach().clone().requires_grad_()
        first, second = kinds[0]([p], 0.1, **options), kinds[1]([q], 0.7)
        for k in range(10):
            if k == start:
                second.load_state_dict(copy.deepcopy(first.state_dict()))
                q.data.copy_(p.data)
            p.grad = torch.randn(4, 3, dtype=torch.float64)
            q.grad = p.grad.clone()
            first.step()
            second.step()
        assert gap([q.detach()], [p.detach()]) < 1e-14


@pytest.mark.parametrize("late", [{"momentum": 0.9}, {"dampening": 0.4}])
def test_options_switched_on_later_act_as_in_torch(late):
    p = torch.ones(3, dtype=torch.float64).requires_grad_()
    q = p.detach().clone().requires_grad_()
    early = {} if "momentum" in late else {"momentum": 0.9}
    pair = torch.optim.SGD([p], 0.1, **early), SGD([q], 0.1, **early)
    for k in range(9):
        p.grad = torch.randn(3, dtype=torch.float64)
        q.grad = p.grad.clone()
        for optimizer in pair:
            if k == 4:
                optimizer.param_groups[0].update(late)
            optimizer.step()
    assert gap([q.detach()], [p.detach()]) < 1e-14


def test_a_first_gradient_with_a_bad_entry_is_the_first():
    """With dampening it enters undamped; the bad entry has later ones only."""
    for free in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch, "reads_flags_for_free", lambda device, f=free: f)
            for foreach in (True, False):
                p = torch.zeros(2).requires_grad_()
                q = torch.zeros(2).requires_grad_()
                options = {"momentum": 0.9, "dampening": 0.5, "foreach": foreach}
                one, other = SGD([p], 0.1, **options), SGD([q], 0.1, **options)
                p.grad = torch.tensor([float("nan"), 1.0])
                q.grad = torch.tensor([0.0, 1.0])
                one.step()
                other.step()
                for _ in range(3):
                    p.grad = torch.randn(2)
                    q.grad = p.grad.clone()
                    one.step()
                    other.step()
                assert torch.equal(p, q)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize("foreach", [True, False])
def test_the_normalised_step_has_the_length_it_says(scale, foreach):
    params = [torch.zeros(s).requires_grad_() for s in ((50, 40), (7,), ())]
    for p in params:
        p.grad = torch.randn(p.shape) * scale
    whole = torch.cat([p.grad.double().reshape(-1) for p in params])
    SGD(params, lr=0.3, normalised=True, foreach=foreach).step()
    step = torch.cat([p.detach().double().reshape(-1) for p in params])
    if scale > 1e-38:
        assert abs(float(step.norm()) / 0.3 - 1) < 1e-6
        assert float((step / 0.3 + whole / whole.norm()).abs().max()) < 1e-6
    else:  # denormal gradients have lost their digits; the step is short, not NaN
        assert 0 < float(step.norm()) < 0.3 * 1.01


def test_normalised_over_groups_dtypes_and_rates():
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]
    params = [torch.zeros(4, 3, dtype=d).requires_grad_() for d in dtypes]
    plain, empty = torch.zeros(3).requires_grad_(), torch.zeros(0).requires_grad_()
    rates = [0.1, 0.2, 0.3, 0.4]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)]
    groups += [{"params": [plain, empty], "normalised": False, "lr": 1.0}]
    optimizer = SGD(groups, normalised=True)
    for p in (*params, plain, empty):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(plain.detach(), -torch.ones(3))
    share = 48**-0.5  # 48 ones
    for p, lr in zip(params, rates, strict=True):
        close = 1e-2 if p.dtype == torch.bfloat16 else 1e-6
        assert float((p.detach() / (lr * share) + 1).abs().max()) < close


@pytest.mark.parametrize("free", [True, False])
def test_a_skipped_tensor_does_not_count_in_the_length(free, monkeypatch):
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: free)
    p, q = torch.zeros(2).requires_grad_(), torch.zeros(3).requires_grad_()
    optimizer = SGD([p, q], lr=1.0, momentum=0.9, normalised=True)
    for bad in (False, True):
        p.grad, q.grad = torch.randn(2), torch.randn(3)
        if bad:
            q.grad[1] = float("inf")
        before = [x.detach().clone() for x in (p, q)]
        optimizer.step()
        moved = [x.detach() - y for x, y in zip((p, q), before, strict=True)]
        assert abs(float(torch.cat(moved).norm()) - 1) < 1e-6
        assert bool(moved[1].any()) is not bad
    assert optimizer.skipped == {"0.1": 1}


def test_normalised_without_a_gradient_stays():
    p = torch.ones(3).requires_grad_()
    p.grad = torch.zeros(3)
    for options in ({}, {"momentum": 0.9}):
        SGD([p], lr=1.0, normalised=True, **options).step()
        assert torch.equal(p.detach(), torch.ones(3))


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1},
        {"momentum": 0.5, "nesterov": True, "normalised": True, "weight_decay": 0.1},
        {"normalised": True},
    ],
)
def test_hyper_gradients_flow_through_the_steps(options):
    """d(weights)/d(lr) by autograd, against a central difference."""
    slopes = torch.randn(4, 5, dtype=torch.float64)

    def end(lr: Tensor) -> Tensor:
        w = torch.ones(5, dtype=torch.float64).requires_grad_().clone()
        w.retain_grad()
        optimizer = SGD([w], lr=lr, differentiable=True, **options)
        for slope in slopes:
            w.grad = slope * w.clone() + lr
            optimizer.step()
        return w.sum()

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    h = 1e-6
    central = (end(lr.detach() + h) - end(lr.detach() - h)) / (2 * h)
    assert float((slope - central).detach().abs()) < 1e-8 * (1 + float(slope.abs()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"momentum": -0.1}, "Invalid momentum value: -0.1"),
        ({"momentum": float("nan")}, "Invalid momentum value: nan"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ({"dampening": float("nan")}, "Invalid dampening value: nan"),
        ({"nesterov": True}, "requires a momentum and zero dampening"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "zero dampening"),
    ],
)
def test_impossible_options_are_refused(options, text):
    p = torch.ones(3).requires_grad_()
    with pytest.raises(ValueError, match=text):
        SGD([p], **options)
    optimizer = SGD([p])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": [torch.ones(2)], **options})
    assert len(optimizer.param_groups) == 1


def test_opposite_huge_gradients_leave_the_momentum_finite():
    top = torch.finfo(torch.float32).max
    for normalised, sign in itertools.product((True, False), (1, -1)):
        p = torch.zeros(2).requires_grad_()
        optimizer = SGD([p], lr=1e-39, momentum=0.9, normalised=normalised)
        for k in range(60):
            p.grad = torch.full((2,), sign**k * top * 0.049)
            optimizer.step()
        assert not optimizer.skipped
        assert bool(torch.isfinite(optimizer.state[p]["momentum_buffer"]).all())
