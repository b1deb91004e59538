"""How Muon reads weights as matrices: kernels, fused and transposed ones, sizes."""

import pytest
import torch

from anthology.linalg import polar
from anthology.optim import Muon


def first_step(p, group=None, **options):
    """Minus the first step at η = 1, and its gradient."""
    g = torch.randn(p.shape, dtype=p.dtype)
    p.grad = g.clone()
    before = p.detach().clone()
    options = {"method": "svd", "adjust_lr_fn": "none", "weight_decay": 0.0, **options}
    Muon([{"params": [p], **(group or {})}], 1.0, **options).step()
    return before - p.detach(), g


@pytest.mark.parametrize("foreach", [True, False])
def test_kernels_are_read_as_they_say(foreach):
    p = torch.randn(4, 3, 2, 5, dtype=torch.float64).requires_grad_()
    move, g = first_step(p, foreach=foreach)
    assert torch.allclose(move, polar(g.reshape(4, 30)).reshape(g.shape))
    move, g = first_step(p, foreach=foreach, kernel="positions")
    by_hand = torch.stack([polar(g[:, :, i, j]) for i in range(2) for j in range(5)])
    by_hand = by_hand.movedim(0, -1).reshape(g.shape) / 10
    assert torch.allclose(move, by_hand)
    move, g = first_step(p, foreach=foreach, kernel="stack")
    assert torch.allclose(move, polar(g))


@pytest.mark.parametrize("foreach", [True, False])
def test_fused_and_transposed_weights_are_read_as_their_norm_says(foreach):
    p = torch.randn(12, 5, dtype=torch.float64).requires_grad_()
    move, g = first_step(p, {"norm": "Split(RMSToRMS(), 3)"}, foreach=foreach)
    assert torch.allclose(move, torch.cat([polar(part) for part in g.split(4)]))
    kernel = torch.randn(6, 4, 3, dtype=torch.float64).requires_grad_()
    norm = {"norm": "Split(Transpose(Conv(1)), 2)"}
    move, g = first_step(kernel, norm, foreach=foreach)
    parts = []
    for part in g.split(3):  # stored in × out × space, in two groups
        flat = part.transpose(0, 1).reshape(4, 9)
        parts.append(polar(flat).reshape(4, 3, 3).transpose(0, 1))
    assert torch.allclose(move, torch.cat(parts))
    move, g = first_step(kernel, norm, foreach=foreach, kernel="positions")
    parts = [polar(part.movedim(-1, 0)).movedim(0, -1) / 3 for part in g.split(3)]
    assert torch.allclose(move, torch.cat(parts))


@pytest.mark.parametrize("foreach", [True, False])
def test_a_complex_matrix_has_a_complex_polar_factor(foreach):
    p = torch.randn(4, 3, dtype=torch.complex128).requires_grad_()
    move, g = first_step(p, foreach=foreach)
    assert torch.allclose(move, polar(g))


def test_a_scale_divides_the_step():
    p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
    move, g = first_step(p, {"scale": 4.0})
    assert torch.allclose(move, polar(g) / 4)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_size_of_the_gradient_does_not_matter(size):
    p = torch.zeros(4, 3).requires_grad_()
    g = torch.randn(4, 3)
    p.grad = g * size
    Muon([p], 1.0).step()
    q = torch.zeros(4, 3).requires_grad_()
    q.grad = g.clone()
    Muon([q], 1.0).step()
    assert float((p - q).detach().abs().max()) < 1e-5


def test_hyper_gradients_flow_through_the_orthogonalised_step():
    """d(weights)/d(lr) by autograd, against a central difference."""
    slopes = torch.randn(4, 5, 3, dtype=torch.float64)

    def end(lr):
        w = torch.ones(5, 3, dtype=torch.float64).requires_grad_().clone()
        w.retain_grad()
        optimizer = Muon([w], lr=lr, differentiable=True, method="cubic")
        for slope in slopes:
            w.grad = slope * w.clone() + lr
            optimizer.step()
        return w.sum()

    lr = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(end(lr), lr)
    h = 1e-6
    central = (end(lr.detach() + h) - end(lr.detach() - h)) / (2 * h)
    assert float((slope - central).detach().abs()) < 1e-7 * (1 + float(slope.abs()))


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_average_of_a_bfloat16_weight_is_not_touched_by_the_iteration(
    foreach, nesterov
):
    p = torch.randn(6, 4).bfloat16().requires_grad_()
    options = {"foreach": foreach, "nesterov": nesterov, "ns_dtype": "bfloat16"}
    optimizer = Muon([p], 0.1, momentum=0.5, **options)
    average = torch.zeros(6, 4)
    for _ in range(5):
        p.grad = 100 * torch.randn(6, 4).bfloat16()
        average.lerp_(p.grad.float(), 0.5)
        optimizer.step()
    kept = optimizer.state[p]["momentum_buffer"]
    assert kept.dtype == torch.float32 and torch.equal(kept, average)


@pytest.mark.parametrize(
    ("scale", "low", "high"),
    [
        ("original", 0.9, 1.21),
        ("match_rms_adamw", 6.0, 7.8),
        ("rms_to_rms", 0.45, 0.61),
        ("none", 0.9, 1.21),
    ],
)
def test_what_a_rate_of_one_means_for_a_wide_matrix(scale, low, high):
    p = torch.zeros(256, 1024).requires_grad_()
    p.grad = torch.randn(256, 1024)
    Muon([p], 1.0, adjust_lr_fn=scale).step()
    assert low < float(torch.linalg.matrix_norm(p.detach(), 2)) < high
