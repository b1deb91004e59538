"""SGD and its normalised form are steepest descent in the Euclidean norm."""

import pytest
import torch
from torch import Tensor

from anthology.optim import SGD, SteepestDescent

SHAPES = [(4, 3), (3,), (), (2, 3, 3)]


def ends(first, second, steps: int) -> float:
    """The largest gap between two optimizers that see the same gradients."""
    a = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in SHAPES]
    b = [p.detach().clone().requires_grad_() for p in a]
    one, other = first(a), second(b)
    worst = 0.0
    for _ in range(steps):
        for p, q in zip(a, b, strict=True):
            p.grad = torch.randn(p.shape, dtype=torch.float64)
            q.grad = p.grad.clone()
        one.step()
        other.step()
        gaps = [(p - q).detach().abs().max() for p, q in zip(a, b, strict=True)]
        worst = max(worst, float(torch.stack(gaps).max()))
    return worst


@pytest.mark.claim("sgd-is-steepest", tol=1e-12, trials=200)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("normalised", [False, True])
def test_both_forms_are_steepest_descent(claim, momentum, normalised):
    rate = 0.1 if normalised else 0.1 / (1 - momentum)
    worst = ends(
        lambda p: SGD(p, 0.1, momentum, normalised=normalised),
        lambda p: SteepestDescent(
            p,
            rate,
            momentum,
            norm="L2()",
            step="dualize" if normalised else "steepest",
            across="l2",
        ),
        claim.trials,
    )
    assert worst < claim.tol


@pytest.mark.claim("normalised-step", tol=1e-12, trials=100)
def test_no_step_of_its_length_descends_a_linear_model_faster(claim):
    """⟨g, Δw⟩ = −η‖g‖₂ over all tensors, at ‖Δw‖₂ = η; random steps do no better."""
    for _ in range(claim.trials):
        params = [torch.zeros(s, dtype=torch.float64).requires_grad_() for s in SHAPES]
        for p in params:
            p.grad = torch.randn(p.shape, dtype=torch.float64)
        SGD(params, lr=0.5, normalised=True).step()
        g = flat([p.grad for p in params])
        step = flat([p.detach() for p in params])
        assert abs(float(step.norm()) - 0.5) < claim.tol
        assert abs(float(g @ step + 0.5 * g.norm())) < claim.tol * float(g.norm())
        other = torch.randn_like(g)
        assert float(g @ other) / float(other.norm()) * 0.5 > float(g @ step)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
