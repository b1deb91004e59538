"""Lion against a published implementation; Signum and Lion form by form."""

import pytest
import pytorch_optimizer
import torch
from torch import Tensor

from anthology.optim import Lion, Signum

SHAPES = [(4, 3), (3,), (), (2, 3, 3, 2)]
OPTIONS = [
    {},
    {"lr": 0.1, "betas": (0.8, 0.9)},
    {"lr": 0.01, "weight_decay": 0.1},
    {"lr": 0.01, "betas": (0.5, 0.5), "weight_decay": 0.5},
    {"betas": (0.0, 0.0)},
    {"maximize": True, "weight_decay": 0.05},
]


def run(kind, steps=300, dtype=torch.float64, **options) -> list[Tensor]:
    torch.manual_seed(1)
    params = [torch.randn(s, dtype=dtype).requires_grad_() for s in SHAPES]
    optimizer = kind(params, **options)
    for k in range(steps):
        for i, p in enumerate(params):
            sitting_out = (k + i) % 7 == 0
            p.grad = None if sitting_out else torch.randn(p.shape, dtype=dtype)
        optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.claim("lion-parity")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_to_the_published_update_bit_by_bit(options):
    """300 steps in double precision, both forms of both packages."""
    options = {"lr": 1e-4, **options}  # the default there
    reference = run(pytorch_optimizer.Lion, foreach=False, **options)
    for foreach in (None, False, True):
        for a, b in zip(run(Lion, foreach=foreach, **options), reference, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [Lion, Signum])
def test_every_form_agrees_bit_by_bit(kind):
    options = {"lr": 0.01, "weight_decay": 0.1}
    for dtype in (torch.float32, torch.float64, torch.complex128, torch.bfloat16):
        reference = run(kind, 30, dtype, foreach=False, **options)
        for form in ({"foreach": True}, {"capturable": True}):
            for a, b in zip(run(kind, 30, dtype, **form, **options), reference):
                assert torch.equal(a, b)


def test_it_resumes_from_the_others_checkpoint():
    p, q = torch.ones(4, 3).requires_grad_(), torch.ones(4, 3).requires_grad_()
    theirs, ours = pytorch_optimizer.Lion([p], lr=0.1), Lion([q], lr=0.5)
    for k in range(10):
        if k == 5:
            ours.load_state_dict(theirs.state_dict())
            q.data.copy_(p.data)
        p.grad = torch.randn(4, 3)
        q.grad = p.grad.clone()
        theirs.step()
        ours.step()
    assert torch.equal(p, q)


def test_every_entry_moves_by_lr_or_not_at_all():
    g = torch.tensor([1e-30, -1e30, 0.0, 3.0])
    for kind in (Lion, Signum):
        p = torch.zeros(4).requires_grad_()
        p.grad = g
        kind([p], lr=0.25).step()
        assert torch.equal(p.detach(), -0.25 * g.sign())


@pytest.mark.parametrize("kind", [Lion, Signum])
def test_opposite_huge_gradients_leave_the_average_finite(kind):
    """g − m may not overflow; what cannot be held is skipped and counted."""
    top = torch.finfo(torch.float32).max
    p = torch.zeros(2).requires_grad_()
    optimizer = kind([p])
    for sign in (1, -1, 1):
        p.grad = torch.full((2,), sign * top * 0.49)
        optimizer.step()
    assert not optimizer.skipped
    p.grad = torch.full((2,), top)
    optimizer.step()
    assert optimizer.skipped == {"0.0": 1}
    (average,) = (v for k, v in optimizer.state[p].items() if v.ndim)
    assert bool(torch.isfinite(average).all())


def test_momentum_can_be_switched_on_later():
    p = torch.zeros(2).requires_grad_()
    optimizer = Signum([p], lr=0.1, momentum=0.0)
    p.grad = torch.ones(2)
    optimizer.step()
    assert "momentum_buffer" not in optimizer.state[p]
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.step()
    assert torch.allclose(optimizer.state[p]["momentum_buffer"], torch.full((2,), 0.1))


def test_low_precision_is_rounded_once():
    start, g = torch.randn(50).bfloat16(), torch.randn(50).bfloat16()
    for kind in (Lion, Signum):
        p, q = start.clone().requires_grad_(), start.float().requires_grad_()
        p.grad, q.grad = g.clone(), g.float()
        optimizer = kind([p], lr=0.1)
        optimizer.step()
        kind([q], lr=0.1).step()
        assert torch.equal(p, q.bfloat16())
        floats = [v for v in optimizer.state[p].values() if v.ndim]
        assert [v.dtype for v in floats] == [torch.float32]


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (Lion, {"lr": -1.0}, "Invalid learning rate: -1.0"),
        (Lion, {"betas": (1.0, 0.0)}, "Invalid beta parameter at index 0: 1.0"),
        (Lion, {"betas": (0.9, float("nan"))}, "parameter at index 1: nan"),
        (Lion, {"weight_decay": -1}, "Invalid weight_decay value: -1"),
        (Signum, {"momentum": 1.0}, "Invalid momentum value: 1.0"),
        (Signum, {"momentum": float("nan")}, "Invalid momentum value: nan"),
        (Signum, {"momentum": 0.0, "nesterov": True}, "needs a momentum"),
        (Signum, {"lr": float("inf")}, "Invalid learning rate: inf"),
    ],
)
def test_impossible_options_are_refused(kind, options, text):
    p = torch.ones(3).requires_grad_()
    with pytest.raises(ValueError, match=text):
        kind([p], **options)
    optimizer = kind([p])
    with pytest.raises(ValueError, match=text):
        optimizer.add_param_group({"params": [torch.ones(2)], **options})
    assert len(optimizer.param_groups) == 1
