"""SOAP against a published implementation, form against form, shape by shape."""

import inspect
import itertools

import pytest
import pytorch_optimizer
import torch
from torch import Tensor

from anthology.optim import SOAP
from anthology.optim.core.state import real
from anthology.testing import contract

# The first Gram matrices of these have at most one null direction: the basis of a
# larger null space is arbitrary, and two programs choose differently.
SHAPES = [(5, 5), (4, 3), (3,), (2, 3, 4), (2, 3, 3, 2), (9, 1, 9)]
OPTIONS = [
    {},
    {"lr": 0.05, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1},
    {"refresh": 1, "weight_decay": 0.0},
    {"refresh": 4, "gram_beta": 0.5},
    {"max_dim": 3, "refresh": 3},
    {"maximize": True, "refresh": 7},
]


class _DoubleTorch:
    """torch, except that the QR the other package does in float32 stays double."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


@pytest.fixture
def published(monkeypatch):
    """SOAP of pytorch-optimizer under the option names used here."""
    module = inspect.getmodule(pytorch_optimizer.SOAP)
    monkeypatch.setattr(module, "torch", _DoubleTorch())
    names = {
        "refresh": "precondition_frequency",
        "max_dim": "max_precondition_dim",
        "gram_beta": "shampoo_beta",
    }

    def make(params, **options):
        return pytorch_optimizer.SOAP(
            params, **{names.get(name, name): x for name, x in options.items()}
        )

    return make


PUBLISHED = {"eps": 1e-8, "relative_eps": False, "basis_eps": 0.0}


def run(kind, steps=50, dtype=torch.float64, shapes=SHAPES, **options) -> list[Tensor]:
    torch.manual_seed(1)
    params = [torch.randn(s, dtype=dtype).requires_grad_() for s in shapes]
    optimizer = kind(params, **options)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, dtype=dtype)
        optimizer.step()
    return [p.detach() for p in params]


def gap(a: list[Tensor], b: list[Tensor]) -> float:
    pairs = zip(a, b, strict=True)
    return max(float(abs((x - y) / (1 + y.abs())).max()) for x, y in pairs)


@pytest.mark.claim("soap-parity", tol=1e-10, trials=50)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("foreach", [False, True])
def test_equal_to_the_published_update(claim, published, options, foreach):
    theirs = run(published, claim.trials, **options)
    ours = run(SOAP, claim.trials, foreach=foreach, **PUBLISHED | options)
    assert gap(ours, theirs) < claim.tol


def test_equal_to_the_published_update_with_full_vectors(published):
    shapes = [(2,), (3, 2)]
    theirs = run(published, shapes=shapes, precondition_1d=True)
    ours = run(SOAP, shapes=shapes, vectors="full", **PUBLISHED)
    assert gap(ours, theirs) < 1e-10


def test_alike_tensors_go_together_and_arrive_where_they_would_alone():
    shapes = [(4, 3)] * 3 + [(3,)] * 2 + [()] * 2 + [(2, 3, 4)] * 2
    for options in OPTIONS:
        loop = run(SOAP, 30, shapes=shapes, foreach=False, **options)
        for form in ({"foreach": True}, {"foreach": True, "capturable": True}):
            assert gap(run(SOAP, 30, shapes=shapes, **form, **options), loop) < 1e-9


def test_the_first_gradient_only_sets_the_bases():
    p = torch.ones(4, 3, dtype=torch.float64).requires_grad_()
    optimizer = SOAP([p], **PUBLISHED)
    p.grad = torch.randn_like(p)
    optimizer.step()
    assert torch.equal(p, torch.ones_like(p))
    for axis in (0, 1):
        q = optimizer.state[p][f"basis_{axis}"]
        turned = q.mT @ optimizer.state[p][f"gram_{axis}"] @ q
        assert torch.allclose(turned, turned.diagonal().diag(), atol=1e-14)
        assert bool((turned.diagonal().diff() <= 1e-14).all())
    optimizer.step()
    assert not torch.equal(p, torch.ones_like(p))


def test_the_published_default_declares_its_first_gradient():
    """Were it silent, the demands for a first move would fail, and only they."""

    class Silent(SOAP):
        warmup_steps = 0

    assert SOAP([torch.ones(2, 2)]).warmup_steps == 1
    assert SOAP([torch.ones(2, 2)], skip_first=False).warmup_steps == 0
    assert contract(SOAP).failed == []
    assert contract(Silent).failed == [
        "missing gradient",
        "late gradient",
        "first move",
        "closure",
        "hooks",
        "named parameters",
        "added group",
    ]


def test_the_bases_stay_orthogonal_and_follow_the_gram_matrices():
    torch.manual_seed(2)
    p = torch.zeros(6, 4, dtype=torch.float64).requires_grad_()
    scale = torch.logspace(0, -2, 6, dtype=torch.float64)[:, None]
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    optimizer = SOAP([p], betas=(0.9, 0.99), refresh=2, **PUBLISHED)
    for _ in range(400):
        p.grad = turn @ (scale * torch.randn(6, 4, dtype=torch.float64))
        optimizer.step()
    q, kept = optimizer.state[p]["basis_0"], optimizer.state[p]["gram_0"]
    assert torch.allclose(q.mT @ q, torch.eye(6, dtype=torch.float64), atol=1e-13)
    turned = q.mT @ kept @ q
    size = turned.diagonal().sqrt()
    off = turned / (size[:, None] * size) - torch.eye(6, dtype=torch.float64)
    assert float(off.abs().max()) < 0.1


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_zero_gradients_never_move_it(relative, eps):
    options = {"relative_eps": relative, "eps": eps, "weight_decay": 0.0}
    for shape, first in itertools.product([(), (3,), (4, 3), (2, 3, 4)], (True, False)):
        p = torch.ones(shape).requires_grad_()
        optimizer = SOAP([p], refresh=1, skip_first=first, **options)
        for _ in range(5):
            p.grad = torch.zeros(shape)
            optimizer.step()
        assert torch.equal(p, torch.ones(shape))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15])
def test_any_scale_of_gradient_leaves_it_finite(scale):
    p = torch.ones(4, 3).requires_grad_()
    optimizer = SOAP([p], refresh=2, relative_eps=True)
    for _ in range(9):
        p.grad = scale * torch.randn(4, 3)
        optimizer.step()
    assert bool(p.isfinite().all())
    assert all(bool(x.isfinite().all()) for x in optimizer.state[p].values())


def test_low_rank_gradients_leave_it_finite():
    p = torch.ones(6, 5).requires_grad_()
    optimizer = SOAP([p], refresh=1)
    for _ in range(30):
        p.grad = torch.outer(torch.arange(6.0), torch.ones(5))
        optimizer.step()
    assert bool(p.isfinite().all())
    q = optimizer.state[p]["basis_0"]
    assert torch.allclose(q.mT @ q, torch.eye(6), atol=1e-5)


def test_state_has_the_size_that_the_card_says():
    p = torch.ones(6, 4).requires_grad_()
    optimizer = SOAP([p])
    optimizer.create_state()
    entries = sum(x.numel() for x in optimizer.state[p].values()) - 2
    assert entries == 24 * (2 + 2 * (6 / 4 + 4 / 6))
    small = SOAP([p], max_dim=4)
    small.create_state()
    assert "gram_1" in small.state[p]
    assert "gram_0" not in small.state[p]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refresh": 0}, "Invalid refresh: 0; it must be a positive integer"),
        ({"max_dim": 2.5}, "Invalid max_dim: 2.5"),
        ({"gram_beta": 1.0}, "Invalid gram_beta value: 1.0"),
        ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
        ({"eps": -1.0}, "Invalid epsilon value: -1.0"),
        ({"basis_eps": -1.0}, "Invalid basis_eps value: -1.0"),
        ({"vectors": "none"}, "Invalid vectors: 'none'"),
    ],
)
def test_it_says_what_is_wrong(options, words):
    with pytest.raises(ValueError, match=words):
        SOAP([torch.ones(2, 2)], **options)


@pytest.mark.parametrize("shape", [(4, 3), (3,), (2, 3, 4), (2,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("later", [3, 2])
def test_an_average_that_was_not_kept_in_the_basis_is_turned_on_loading(
    shape, dtype, later
):
    torch.manual_seed(0)
    grads = [torch.randn(shape, dtype=dtype) for _ in range(9)]
    w = torch.zeros(shape, dtype=dtype, requires_grad=True)
    optimizer = SOAP([w], lr=0.1, refresh=3)
    for g in grads[:5]:
        w.grad = g
        optimizer.step()
    v = w.detach().clone().requires_grad_()
    saved = optimizer.state_dict()
    kept = dict(saved["state"][0])
    bases = {n[6:]: real(q) for n, q in kept.items() if n.startswith("basis")}
    if bases:  # as versions before wrote it
        m = real(kept.pop("exp_avg_rotated"))
        for axis, q in bases.items():
            m = torch.tensordot(m, q, dims=([int(axis)], [1])).movedim(-1, int(axis))
        kept["exp_avg"] = torch.view_as_complex(m.contiguous()) if w.is_complex() else m
    resumed = SOAP([v], lr=0.1, refresh=3)
    resumed.load_state_dict({**saved, "state": {0: kept}})
    optimizer.param_groups[0]["refresh"] = resumed.param_groups[0]["refresh"] = later
    for g in grads[5:]:
        w.grad, v.grad = g, g.clone()
        optimizer.step()
        resumed.step()
    assert (w - v).abs().max() < 1e-12
    assert set(resumed.state[v]) == set(optimizer.state[w])
    assert ("exp_avg_rotated" in resumed.state[v]) == (later > 2 and bool(bases))
