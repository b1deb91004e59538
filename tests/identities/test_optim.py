"""What ties the optimizers to one another and to the norms."""

import pytest
import torch
from torch import Tensor

from anthology.norms import MaxOver, from_spec
from anthology.optim import Adam, RootFreeRMSProp, SteepestDescent
from anthology.optim.parts.param_norm import as_points

TERMS = [("RMSToRMS()", 2.0), ("LInf()", 0.5), ("Conv(2)", 1.0), ("L2()", 3.0)]
SHAPES = [(4, 3), (5,), (3, 2, 2, 2), (6,)]


def problem() -> tuple[list[Tensor], list[dict]]:
    params = [torch.zeros(s, dtype=torch.float64).requires_grad_() for s in SHAPES]
    for p in params:
        p.grad = torch.randn(p.shape, dtype=torch.float64)
    groups = [
        {"params": [p], "norm": from_spec(norm), "scale": scale}
        for p, (norm, scale) in zip(params, TERMS, strict=True)
    ]
    return params, groups


def lengths(tensors: list[Tensor], dual: bool) -> Tensor:
    """s_l‖·‖_l of each tensor, or ‖·‖_l*/s_l."""
    found = []
    for x, (spec, scale) in zip(tensors, TERMS, strict=True):
        norm = from_spec(spec)
        points = as_points(x, norm)
        found.append(norm.dual(points) / scale if dual else norm.norm(points) * scale)
    return torch.stack(found)


@pytest.mark.claim("max-of-norms", tol=1e-12, trials=20)
@pytest.mark.parametrize("step", ["dualize", "steepest"])
def test_max_is_the_duality_map_of_max_over(claim, step):
    joint = MaxOver([(from_spec(norm), scale) for norm, scale in TERMS])
    for _ in range(claim.trials):
        params, groups = problem()
        grads = [p.grad for p in params]
        SteepestDescent(groups, lr=0.5, step=step, across="max").step()
        eta = 0.5 * (joint.dual(grads) if step == "steepest" else 1.0)
        for p, t in zip(params, joint.dualize(grads), strict=True):
            assert float((p.detach() + eta * t).abs().max() / eta) < claim.tol


@pytest.mark.parametrize("across", ["max", "l2"])
def test_both_lengths_minimise_what_they_should(across):
    """Unit length and slope for "dualize"; −‖g‖²/2λ of the model for "steepest"."""

    def whole(values: Tensor, dual: bool) -> Tensor:
        if across == "l2":
            return values.square().sum().sqrt()
        return values.sum() if dual else values.max()

    for _ in range(20):
        for step in ("dualize", "steepest"):
            params, groups = problem()
            lr = 0.4
            SteepestDescent(groups, lr=lr, step=step, across=across).step()
            moved = [p.detach() for p in params]
            grads = [p.grad for p in params]
            slope = sum((g * d).sum() for g, d in zip(grads, moved, strict=True))
            dual = whole(lengths(grads, True), True)
            length = whole(lengths(moved, False), False)
            reach = lr * (dual if step == "steepest" else 1.0)
            assert abs(float(length / reach) - 1) < 1e-10
            assert abs(float(slope / (-reach * dual)) - 1) < 1e-10


@pytest.mark.claim("l2-is-sgd", tol=1e-12, trials=100)
@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_torchs_with_another_rate(claim, nesterov):
    """An average m = (1−β)·buffer: lr/(1−β) here is lr there, step for step."""
    beta = 0.9
    a = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    b = a.detach().clone().requires_grad_()
    theirs = torch.optim.SGD([a], 0.1, momentum=beta, nesterov=nesterov)
    ours = SteepestDescent(
        [b],
        0.1 / (1 - beta),
        beta,
        nesterov,
        norm="L2()",
        step="steepest",
        across="l2",
    )
    for _ in range(claim.trials):
        a.grad = torch.randn(4, 3, dtype=torch.float64)
        b.grad = a.grad.clone()
        theirs.step()
        ours.step()
        assert float((a - b).detach().abs().max()) < claim.tol


@pytest.mark.parametrize("free", [True, False])
def test_averages_off_leave_the_norm(free, monkeypatch):
    """Adam without averages is ℓ∞ descent; RMSProp with S frozen at one is ℓ2."""
    from anthology.optim.core import batch

    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: free)
    makes = [
        (
            lambda p: Adam(p, 0.1, betas=(0.0, 0.0), eps=1e-300),
            lambda p: SteepestDescent(p, 0.1, norm="LInf()"),
        ),
        (
            lambda p: RootFreeRMSProp(p, 0.1, 1 - 1e-16, 0.0, momentum=0, batch_size=9),
            lambda p: SteepestDescent(
                p, 0.1, norm="L2()", step="steepest", across="l2"
            ),
        ),
    ]
    for first, second in makes:
        a = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
        b = a.detach().clone().requires_grad_()
        one, other = first([a]), second([b])
        for _ in range(50):
            a.grad = torch.randn(4, 3, dtype=torch.float64)
            b.grad = a.grad.clone()
            one.step()
            other.step()
        assert float((a - b).detach().abs().max()) < 1e-12
