"""Adam and AdamW against torch.optim, form against form, state and errors."""

import copy
import itertools

import pytest
import torch
from torch import Tensor

from anthology.optim import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]
OPTIONS = [
    {},
    {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3},
    {"weight_decay": 0.1},
    {"amsgrad": True, "weight_decay": 0.05},
    {"maximize": True, "weight_decay": 0.05},
    {"betas": (0.0, 0.5)},
    {"betas": (0.9, 0.0), "amsgrad": True},
]
SHAPES = [(4, 3), (3,), (), (2, 3, 3, 2)]


def run(kind, dtype=torch.float64, steps=120, **options) -> list[Tensor]:
    torch.manual_seed(1)
    params = [torch.randn(s, dtype=dtype).requires_grad_() for s in SHAPES]
    optimizer = kind(params, **options)
    for k in range(steps):
        for i, p in enumerate(params):
            sitting_out = (k + i) % 7 == 0
            p.grad = None if sitting_out else torch.randn(p.shape, dtype=dtype)
        optimizer.step()
    return [p.detach() for p in params]


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float(abs((x - y) / (1 + y.abs())).max()) for x, y in pairs)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_equal_to_torch_bit_by_bit(ours, theirs, options):
    reference = run(theirs, **options)
    for foreach in (None, False, True):
        for a, b in zip(run(ours, foreach=foreach, **options), reference, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_every_form_agrees_to_a_few_ulp(kind, options):
    for dtype, ulp in ((torch.float64, 2.3e-16), (torch.float32, 1.2e-7)):
        reference = run(kind, dtype, 30, foreach=False, **options)
        for form in ({"fused": True}, {"capturable": True}, {"foreach": True}):
            assert gap(run(kind, dtype, 30, **form, **options), reference) < 8 * ulp


def test_complex_parameters_as_torch_treats_them():
    for (ours, theirs), options in itertools.product(PAIRS, OPTIONS):
        a = run(ours, torch.complex128, 30, **options)
        b = run(theirs, torch.complex128, 30, **options)
        assert gap(a, b) < 1e-14


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_it_resumes_from_torchs_checkpoint(ours, theirs, amsgrad):
    start, grads = torch.randn(4, 3), [torch.randn(4, 3) for _ in range(10)]
    p, q = start.clone().requires_grad_(), start.clone().requires_grad_()
    first = theirs([p], amsgrad=amsgrad)
    for g in grads[:5]:
        p.grad = g.clone()
        first.step()
    second = ours([q], lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    q.data.copy_(p.data)
    for g in grads[5:]:
        p.grad, q.grad = g.clone(), g.clone()
        first.step()
        second.step()
    assert torch.equal(p, q)
    assert second.skipped == {}


def test_and_torch_from_ours():
    p, q = torch.ones(4, 3).requires_grad_(), torch.ones(4, 3).requires_grad_()
    first, second = AdamW([p]), torch.optim.AdamW([q])
    for k in range(6):
        if k == 3:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            q.data.copy_(p.data)
        p.grad = torch.randn(4, 3)
        q.grad = p.grad.clone()
        first.step()
        second.step()
    assert torch.equal(p, q)


def test_low_precision_is_rounded_once():
    """A bfloat16 step is the float32 step of the same numbers, rounded."""
    start = torch.randn(50).bfloat16()
    g = torch.randn(50).bfloat16()
    p, q = start.clone().requires_grad_(), start.float().requires_grad_()
    p.grad, q.grad = g.clone(), g.float()
    optimizer = AdamW([p], lr=0.1)
    optimizer.step()
    AdamW([q], lr=0.1).step()
    assert torch.equal(p, q.bfloat16())
    assert optimizer.state[p]["exp_avg_sq"].dtype == torch.float32


def test_fused_copes_with_strides_the_kernel_does_not():
    for make in (lambda x: x.t().contiguous().t(), lambda x: torch.stack([x, x])[0]):
        p = make(torch.ones(6, 5)).requires_grad_()
        q = torch.ones(6, 5).requires_grad_()
        fused, plain = AdamW([p], fused=True), AdamW([q])
        for _ in range(3):
            q.grad = torch.randn(6, 5)
            p.grad = q.grad.t().contiguous().t()
            fused.step()
            plain.step()
        assert float((p - q).detach().abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"lr": float("nan")}, "Invalid learning rate: nan"),
        ({"lr": float("inf")}, "Invalid learning rate: inf"),
        ({"lr": torch.tensor([0.1, 0.2])}, "Tensor lr must be 1-element"),
        ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        ({"betas": (1.0, 0.0)}, "Invalid beta parameter at index 0: 1.0"),
        ({"betas": (0.9, float("nan"))}, "Invalid beta parameter at index 1: nan"),
        ({"betas": (0.9,)}, "there must be two"),
        ({"betas": 0.9}, "there must be two"),
        ({"weight_decay": -1}, "Invalid weight_decay value: -1"),
        ({"foreach": True, "differentiable": True}, "cannot be combined"),
    ],
)
def test_impossible_options_are_refused_everywhere(options, text):
    p = torch.ones(3).requires_grad_()
    for kind in (Adam, AdamW):
        with pytest.raises(ValueError, match=text.replace("(", r"\(")):
            kind([p], **options)
        with pytest.raises(ValueError):
            kind([{"params": [p], **options}])
        optimizer = kind([p])
        with pytest.raises(ValueError):
            optimizer.add_param_group({"params": [torch.ones(2)], **options})
        assert len(optimizer.param_groups) == 1


def test_other_refusals():
    p = torch.ones(3).requires_grad_()
    with pytest.raises(ValueError, match=r"betas\[0\] is a tensor"):
        Adam([p], betas=(torch.tensor(0.9), 0.999))
    with pytest.raises(RuntimeError, match="does not support `differentiable`"):
        Adam([p], fused=True, differentiable=True)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        Adam([p], fused=True, foreach=True)
    with pytest.raises(ValueError, match="empty parameter list"):
        Adam([])
    with pytest.raises(TypeError, match="iterable of Tensors"):
        Adam(p)


@pytest.mark.parametrize("name", ["lr", "eps", "weight_decay"])
def test_text_is_not_taken_for_a_number(name):
    p = torch.ones(3)
    for wrong in ("1e-3", None):
        with pytest.raises(TypeError, match=f"{wrong!r}; it must be a number"):
            Adam([p], **{name: wrong})
