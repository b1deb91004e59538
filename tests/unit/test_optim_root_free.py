"""RootFreeRMSProp and RootFreeAdamW against a transcription of their formulas."""

import pytest
import torch

from anthology.optim import RootFreeAdamW, RootFreeRMSProp

FORMS = [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}]


def close(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs() / (1 + b.abs())).max())


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("decay", "momentum"), [(0.0, 0.9), (0.1, 0.9), (0.1, 0.0)])
def test_rmsprop_is_its_formula(form, decay, momentum):
    """s ← αs + (1−α)g², u = g/(Bs+ε) + κw, m ← μm + u, w ← w − ηm, s₀ = 1/B."""
    b, lr, alpha, eps = 7, 0.01, 0.95, 1e-4
    w = torch.randn(5, 3, dtype=torch.float64)
    p = w.clone().requires_grad_()
    optimizer = RootFreeRMSProp(
        [p], lr, alpha, eps, decay, momentum, batch_size=b, **form
    )
    s, m = torch.full_like(w, 1 / b), torch.zeros_like(w)
    for _ in range(200):
        g = torch.randn(5, 3, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        s = alpha * s + (1 - alpha) * g**2
        m = momentum * m + g / (b * s + eps) + decay * w
        w = w - lr * m
    assert close(p.detach(), w) < 1e-12
    assert close(optimizer.state[p]["exp_avg_sq"], b * s) < 1e-12


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("corrected", [False, True])
def test_adamw_is_its_formula(form, corrected):
    b, lr, eps, decay, beta1, beta2 = 32, 0.01, 1e-4, 0.1, 0.9, 0.97
    w = torch.randn(5, 3, dtype=torch.float64)
    p = w.clone().requires_grad_()
    optimizer = RootFreeAdamW(
        [p], lr, (beta1, beta2), eps, decay, corrected, batch_size=b, **form
    )
    s, m = torch.full_like(w, 1 / b), torch.zeros_like(w)
    for t in range(1, 201):
        g = torch.randn(5, 3, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        w = (1 - lr * decay) * w
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g**2
        c1 = 1 - beta1**t if corrected else 1.0
        c2 = 1 - beta2**t if corrected else 1.0
        w = w - lr / c1 * m / (b * s / c2 + eps)
    assert close(p.detach(), w) < 1e-12


def test_batch_size_may_vary_from_step_to_step():
    """S keeps what it has gathered; only the new gradient is weighed by the new B."""
    p = torch.ones(4, dtype=torch.float64).requires_grad_()
    optimizer = RootFreeRMSProp([p], alpha=0.5, batch_size=2)
    s = torch.ones(4, dtype=torch.float64)
    for b in (2, 10, 1):
        optimizer.param_groups[0]["batch_size"] = b
        p.grad = torch.randn(4, dtype=torch.float64)
        optimizer.step()
        s = 0.5 * s + 0.5 * b * p.grad**2
    assert close(optimizer.state[p]["exp_avg_sq"], s) < 1e-14


@pytest.mark.parametrize("kind", [RootFreeRMSProp, RootFreeAdamW])
def test_the_first_step_is_gradient_descent(kind):
    """S₀ = 1: what a start at zero would make of the first step is a sign/|g|."""
    p = torch.zeros(4, dtype=torch.float64).requires_grad_()
    settings = {"betas": (0.0, 1 - 1e-12)} if kind is RootFreeAdamW else {}
    settings = settings or {"alpha": 1 - 1e-12, "momentum": 0.0}
    optimizer = kind([p], lr=0.1, eps=0.0, batch_size=8, **settings)
    p.grad = torch.randn(4, dtype=torch.float64)
    optimizer.step()
    assert close(p.detach(), -0.1 * p.grad) < 1e-9


def test_complex_parameters_are_pairs_of_real_ones():
    start = torch.randn(6, dtype=torch.complex128)
    p = start.clone().requires_grad_()
    q = torch.view_as_real(start).clone().requires_grad_()
    ours = [RootFreeRMSProp([x], batch_size=4, weight_decay=0.1) for x in (p, q)]
    for _ in range(5):
        p.grad = torch.randn(6, dtype=torch.complex128)
        q.grad = torch.view_as_real(p.grad).clone()
        for optimizer in ours:
            optimizer.step()
    assert torch.equal(torch.view_as_real(p.detach()), q.detach())


@pytest.mark.parametrize("kind", [RootFreeRMSProp, RootFreeAdamW])
def test_a_gradient_whose_square_overflows_is_skipped(kind):
    p = torch.ones(3).requires_grad_()
    optimizer = kind([p], batch_size=100)
    p.grad = torch.tensor([1.0, 1e19, 0.0])  # 100·1e38 does not fit into float32
    optimizer.step()
    assert (p == 1).tolist() == [False, True, True]
    assert optimizer.state[p]["exp_avg_sq"][1] == 1
    assert optimizer.skipped == {"0.0": 1}


@pytest.mark.parametrize("kind", [RootFreeRMSProp, RootFreeAdamW])
def test_batch_size_has_to_be_said_and_to_be_possible(kind):
    p = torch.ones(3).requires_grad_()
    with pytest.raises(TypeError, match="batch_size"):
        kind([p])
    for wrong in (0, -3, 0.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="number of terms that the loss averages"):
            kind([p], batch_size=wrong)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 1.0}, "Invalid alpha value: 1.0"),
        ({"momentum": -0.1}, "Invalid momentum value: -0.1"),
        ({"eps": float("nan")}, "Invalid epsilon value: nan"),
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"weight_decay": -1.0}, "Invalid weight_decay value: -1.0"),
    ],
)
def test_impossible_options_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        RootFreeRMSProp([torch.ones(3)], batch_size=1, **options)
