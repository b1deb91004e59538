"""Every conversion on the page of conventions, run as it is written there."""

from __future__ import annotations

import pytest
import torch

from anthology.norms import L2, RMSToRMS, Spectral
from anthology.optim import (
    SGD,
    SOAP,
    Adam,
    AdamW,
    FreeSteepestDescent,
    KrADagrad,
    Lion,
    Muon,
    Prodigy,
    RootFreeAdamW,
    RootFreeRMSProp,
    Scion,
    Shampoo,
    Signum,
    SteepestDescent,
)

muon = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon"), reason="this torch has no Muon (2.9 has)"
)


def walk(make, w, steps=30, factor=1.0):
    """Iterates of an optimizer on a seeded anisotropic quadratic."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(w.shape, generator=generator, dtype=w.dtype) + 0.1
    target = torch.randn(w.shape, generator=generator, dtype=w.dtype)
    p = w.clone().requires_grad_()
    optimizer = make([p])
    for _ in range(steps):
        optimizer.zero_grad()
        (factor * (weights * (p - target) ** 2).sum() / 2).backward()
        optimizer.step()
    return p.detach()


def start(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def assert_same(a, b, tol=1e-12):
    assert (a - b).abs().max() < tol


def first_step(make, *, shape=(256, 1024)):
    """The first step at lr = 1 on a Gaussian gradient, in float32."""
    p = torch.zeros(*shape, requires_grad=True)
    p.grad = start(*shape, dtype=torch.float32)
    make([p]).step()
    return torch.linalg.matrix_norm(p.detach(), 2).item()


@muon
def test_one_option_name_and_a_factor_of_ninety():
    def torch_muon(params, adjust="original"):
        return torch.optim.Muon(params, lr=1.0, weight_decay=0, adjust_lr_fn=adjust)

    ours = first_step(lambda p: SteepestDescent(p, lr=1.0, norm=RMSToRMS()))
    assert ours == pytest.approx((256 / 1024) ** 0.5, rel=1e-4)
    assert first_step(torch_muon) == pytest.approx(1.1, abs=0.1)
    matched = first_step(lambda p: torch_muon(p, "match_rms_adamw"))
    assert matched == pytest.approx(7, abs=0.5)
    adam = first_step(lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=0))
    assert adam == pytest.approx(48, abs=2)


def test_sgd():
    def ours(params):
        return SteepestDescent(params, lr=0.3, norm=L2(), step="steepest", across="l2")

    w = start(4, 3)
    assert_same(walk(lambda p: torch.optim.SGD(p, lr=0.3), w), walk(ours, w))


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum(nesterov):
    def theirs(params):
        return torch.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=nesterov)

    def ours(params):
        return SteepestDescent(
            params,
            lr=0.05 / (1 - 0.9),
            momentum=0.9,
            nesterov=nesterov,
            norm=L2(),
            step="steepest",
            across="l2",
        )

    w = start(4, 3)
    assert_same(walk(theirs, w), walk(ours, w))


@pytest.mark.parametrize(("theirs", "ours"), [("Adam", Adam), ("AdamW", AdamW)])
def test_adam(theirs, ours):
    w, options = start(4, 3), {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1}
    theirs = getattr(torch.optim, theirs)
    a = walk(lambda p: theirs(p, **options), w)
    assert_same(a, walk(lambda p: ours(p, **options), w))


@muon
@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon(shape, adjust):
    d_out, d_in = shape
    factor = {
        "original": max(1, d_out / d_in) ** 0.5,
        "match_rms_adamw": 0.2 * max(d_out, d_in) ** 0.5,
    }[adjust]
    lr, kappa, beta = 0.02, 0.1, 0.9

    def theirs(params):
        return torch.optim.Muon(
            params, lr=lr, momentum=beta, weight_decay=kappa, adjust_lr_fn=adjust
        )

    def ours(norm, rate):
        return lambda params: SteepestDescent(
            params,
            lr=rate,
            momentum=beta,
            nesterov=True,
            weight_decay=kappa * lr / rate,
            norm=norm,
        )

    w = start(*shape, dtype=torch.float32)
    a = walk(theirs, w, steps=10)
    for norm, rate in (
        (Spectral("muon"), lr * factor),
        (RMSToRMS("muon"), lr * factor * (d_in / d_out) ** 0.5),
    ):
        b = walk(ours(norm, rate), w, steps=10)
        # two digits are what bfloat16 leaves of a path
        assert (a - b).norm() < 0.02 * (a - w).norm()


def test_published_root_free_rmsprop():
    lr, lr_cov, damping, mu, decay, terms = 0.05, 0.1, 1e-4, 0.9, 0.01, 8
    w = start(4, 3)

    class Published(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        def step(self):
            (p,) = self.param_groups[0]["params"]
            kept = self.state[p]
            s = kept.get("s", torch.full_like(p, 1 / terms))
            kept["s"] = (1 - lr_cov) * s + lr_cov * p.grad**2
            u = p.grad / (terms * kept["s"] + damping) + decay * p.detach()
            kept["m"] = mu * kept.get("m", 0.0) + u
            p.data -= lr * kept["m"]

    def ours(params):
        return RootFreeRMSProp(
            params,
            lr=lr,
            alpha=1 - lr_cov,
            eps=damping,
            momentum=mu,
            weight_decay=decay,
            batch_size=terms,
        )

    assert_same(walk(Published, w), walk(ours, w))


def moved(make, factor, shape=(50,)):
    """The first step from the same point, for a loss times `factor`."""
    w = start(*shape)
    return walk(make, w, steps=1, factor=factor) - w


def test_units_of_the_learning_rate():
    """What ten times the loss does to one step."""
    dualized = [
        moved(lambda p: SteepestDescent(p, lr=0.1, norm=L2()), c) for c in (1, 10)
    ]
    assert_same(dualized[1], dualized[0])
    steepest = [
        moved(lambda p: SteepestDescent(p, lr=0.1, norm=L2(), step="steepest"), c)
        for c in (1, 10)
    ]
    assert_same(steepest[1], 10 * steepest[0])
    adam = [moved(lambda p: Adam(p, lr=0.1, eps=0.0), c) for c in (1, 10)]
    assert_same(adam[1], adam[0])


@pytest.mark.parametrize(
    ("make", "ratio"),
    [
        (lambda p: SGD(p, lr=0.1), 10),
        (lambda p: SGD(p, lr=0.1, normalised=True), 1),
        (lambda p: Signum(p, lr=0.1), 1),
        (lambda p: Lion(p, lr=0.1), 1),
        (lambda p: Scion(p, lr=0.1), 1),
        (lambda p: Shampoo(p, lr=0.1, eps=0.0), 1),
        (lambda p: SOAP(p, 0.1, eps=0.01, relative_eps=True, skip_first=False), 1),
        (lambda p: Muon(p, lr=0.1, method="svd", adamw_eps=0.0), 1),
        (lambda p: Prodigy(p, eps=0.0), 1),
        (lambda p: FreeSteepestDescent(p), 1),
        (lambda p: KrADagrad(p, lr=0.1, initial=1e-12), 10),
    ],
    ids=lambda x: "" if callable(x) else str(x),
)
def test_the_other_units(make, ratio):
    one, ten = moved(make, 1, (5, 10)), moved(make, 10, (5, 10))
    assert_same(ten, ratio * one)
    assert one.abs().max() > 0


def test_root_free_steps_shrink_once_the_start_is_forgotten():
    def forgetful(params):
        optimizer = RootFreeAdamW(
            params, lr=0.1, betas=(0.0, 0.9), eps=0.0, batch_size=1
        )
        optimizer.create_state()
        for p in params:
            optimizer.state[p]["exp_avg_sq"].zero_()
        return optimizer

    one, ten = moved(forgetful, 1), moved(forgetful, 10)
    assert_same(ten / one, torch.full_like(one, 0.1))


def test_decay_acts_without_a_gradient_but_not_without_a_tensor():
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    q = torch.ones(3, dtype=torch.float64, requires_grad=True)
    r = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = SteepestDescent([p, q, r], lr=0.5, weight_decay=0.1)
    p.grad, r.grad = torch.zeros_like(p), torch.full_like(r, torch.nan)
    optimizer.step()
    assert_same(p.detach(), torch.full_like(p, 1 - 0.5 * 0.1).detach())
    assert q.detach().eq(1).all() and r.detach().eq(1).all()
    assert optimizer.skipped == {"0.2": 1}


def test_a_bfloat16_weight_drops_steps_below_a_512th():
    """All significands there are, away from powers of two."""
    w = 1 + torch.arange(1, 128) / 128
    p = w.bfloat16().requires_grad_()
    p.grad = w.bfloat16()
    SteepestDescent([p], lr=1 / 513, norm="L2()", step="steepest", across="l2").step()
    assert p.detach().float().eq(w).all()
    SteepestDescent([p], lr=1 / 250, norm="L2()", step="steepest", across="l2").step()
    assert p.detach().float().lt(w).all()
