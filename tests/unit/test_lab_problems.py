"""The model problems: closed forms against autograd, and the facts used of them."""

import pytest
import torch
from torch.autograd.functional import hessian

from anthology.lab.problems import linear_regression, two_matrices, two_weights


def points(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 2, dtype=torch.float64)


def test_gradient_and_hessian_are_those_of_autograd():
    for w in points(50):
        w.requires_grad_()
        (g,) = torch.autograd.grad(two_weights(w), w)
        assert torch.allclose(two_weights.gradient(w), g, atol=1e-13)
        H = hessian(two_weights, w)
        assert torch.allclose(two_weights.hessian(w), H, atol=1e-13)


def test_everything_is_batched_over_leading_axes():
    w = points(3, 5)
    assert two_weights(w).shape == (3, 5)
    assert two_weights.gradient(w).shape == (3, 5, 2)
    assert two_weights.hessian(w).shape == (3, 5, 2, 2)
    assert two_weights.sharpness(w).shape == (3, 5)
    assert two_weights.imbalance(w).shape == (3, 5)
    assert two_weights.flow_limit(w).shape == (3, 5, 2)
    assert two_weights.gradient(w[1, 2]).equal(two_weights.gradient(w)[1, 2])


def test_at_a_minimum_the_sharpness_is_the_only_curvature():
    a = torch.tensor([-3.0, -0.5, 0.1, 1.0, 2.0], dtype=torch.float64)
    w = two_weights.minimum(a)
    assert two_weights(w).abs().max() < 1e-28
    eigenvalues = torch.linalg.eigvalsh(two_weights.hessian(w))
    assert eigenvalues[:, 0].abs().max() < 1e-10
    assert torch.allclose(eigenvalues[:, 1], two_weights.sharpness(w), rtol=1e-12)
    along = two_weights.hessian(w) @ w.flip(-1).unsqueeze(-1)
    assert torch.allclose(
        along.squeeze(-1), two_weights.sharpness(w)[:, None] * w.flip(-1), rtol=1e-12
    )


def test_one_step_multiplies_the_imbalance_exactly():
    w, eta = points(100), 0.3
    after = two_weights.imbalance(w - eta * two_weights.gradient(w))
    factor = 1 - eta**2 * two_weights.residual(w) ** 2
    assert torch.allclose(after, factor * two_weights.imbalance(w), rtol=1e-10)


def test_flow_limit_is_where_tiny_steps_end():
    w = torch.stack(
        [two_weights.start(), -two_weights.start(), torch.tensor([0.1, 1.5])]
    )
    end = w.clone()
    for _ in range(40_000):
        end = end - 1e-3 * two_weights.gradient(end)
    assert (end - two_weights.flow_limit(w)).abs().max() < 2e-3
    limit = two_weights.flow_limit(points(200))
    assert two_weights(limit).max() < 1e-24
    w = points(200)
    kept = two_weights.imbalance(two_weights.flow_limit(w))
    assert torch.allclose(kept, two_weights.imbalance(w), atol=1e-12)


def test_flow_from_the_ridge_ends_at_the_saddle():
    w = torch.tensor([1.5, -1.5], dtype=torch.float64)
    assert two_weights.flow_limit(w).abs().max() == 0


def test_a_point_of_another_shape_is_refused():
    for wrong in (torch.zeros(3), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"shape \(\.\.\., 2\)"):
            two_weights(wrong)


def test_two_matrices_gradient_and_seed():
    problem = two_matrices(seed=3)
    A, B = (t.clone().requires_grad_() for t in problem.start)
    gA, gB = torch.autograd.grad(problem(A, B), (A, B))
    closed = problem.gradient(A, B)
    assert torch.allclose(closed[0], gA) and torch.allclose(closed[1], gB)
    assert A.dtype == torch.float64
    assert two_matrices(seed=3).target.equal(problem.target)
    assert not two_matrices(seed=4).target.equal(problem.target)
    assert problem(A, B) > 0.1


def test_two_matrices_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    first = torch.randn(3)
    torch.manual_seed(5)
    two_matrices()
    linear_regression()
    assert torch.randn(3).equal(first)


def test_two_matrices_is_batched():
    problem = two_matrices()
    A, B = (t.expand(7, *t.shape) for t in problem.start)
    assert problem(A, B).shape == (7,)
    assert problem.gradient(A, B)[0].shape == A.shape


def test_linear_regression_is_majorised_in_the_spectral_norm():
    problem = linear_regression()
    rms = problem.inputs.square().mean(-1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), rtol=1e-14)
    W = problem.start.clone().requires_grad_()
    (g,) = torch.autograd.grad(problem(W), W)
    assert torch.allclose(problem.gradient(W), g, atol=1e-14)
    for _ in range(100):
        W, D = torch.randn(2, *problem.start.shape, dtype=torch.float64)
        bound = problem(W) + (problem.gradient(W) * D).sum()
        bound = bound + problem.sharpness / 2 * torch.linalg.matrix_norm(D, 2) ** 2
        assert problem(W + D) <= bound + 1e-12
