"""The claims of the chapter on Adam about the norm: sign descent, ε, axes."""

import math

import pytest
import torch
from torch import Tensor

from anthology.lab.problems import two_weights
from anthology.norms import LInf, MaxAbs, MaxOver
from anthology.optim import Adam, SteepestDescent

NO_EPS = 1e-300  # far below any gradient here, so that eps plays no part


def objective(g: Tensor, step: Tensor, lam: float) -> float:
    """⟨g, Δ⟩ + (λ/2)‖Δ‖_∞²."""
    return float((g * step).sum() + lam / 2 * step.abs().max() ** 2)


def positive(*shape: int) -> Tensor:
    """Numbers spread over eight decades."""
    return 10 ** (8 * torch.rand(*shape, dtype=torch.float64) - 4)


def dense(n: int) -> Tensor:
    """A gradient without a zero entry, over eight decades."""
    return positive(n) * torch.randn(n, dtype=torch.float64).sign()


def steps_of(optimizer_class: type, history: Tensor, **options: object) -> Tensor:
    """The steps, over lr, that an optimizer takes on a history (time, weights)."""
    lr = 0.5
    w = torch.nn.Parameter(torch.zeros_like(history[0]))
    optimizer = optimizer_class([w], lr=lr, **options)
    steps = []
    for g in history:
        before, w.grad = w.detach().clone(), g.clone()
        optimizer.step()
        steps.append((w.detach() - before) / lr)
    return torch.stack(steps)


@pytest.mark.claim("sign-descent", tol=1e-12, trials=200)
def test_sign_descent_solves_the_max_norm_problem(claim):
    for _ in range(claim.trials):
        n = int(torch.randint(1, 9, ()))
        g, lam = dense(n), float(positive(1))
        radius = float(g.abs().sum()) / lam
        best = -(float(g.abs().sum()) ** 2) / (2 * lam)
        step = -radius * LInf().dualize(g)
        assert abs(objective(g, step, lam) / best - 1) < claim.tol
        for size in (1e-3, 1e-1, 1.0):
            other = step + size * radius * torch.randn_like(g)
            assert objective(g, other, lam) > best * (1 - claim.tol)


@pytest.mark.claim("sign-descent", tol=1e-12, trials=100)
def test_sign_descent_is_unique_exactly_without_zeros(claim):
    for _ in range(claim.trials):
        g, lam = torch.cat([dense(3), torch.zeros(1, dtype=torch.float64)]), 2.0
        radius = float(g.abs().sum()) / lam
        best = -(float(g.abs().sum()) ** 2) / (2 * lam)
        free = -radius * g.sign()
        free[3] = radius * (2 * torch.rand(()) - 1)  # the zero entry may go anywhere
        assert abs(objective(g, free, lam) / best - 1) < claim.tol
        moved = -radius * g.sign()
        moved[0] *= 1 - 0.1 * float(torch.rand(())) - 1e-3  # a non-zero one may not
        assert objective(g, moved, lam) > best + 1e-4 * radius * float(g[0].abs())
    nothing = torch.zeros(4, dtype=torch.float64)
    assert torch.equal(LInf().dualize(nothing), nothing)
    assert objective(nothing, torch.full_like(nothing, 1e-3), 1.0) > 0


@pytest.mark.claim("sign-descent", tol=1e-5, trials=10)
def test_a_convex_solver_finds_the_same_minimum(claim):
    cvxpy = pytest.importorskip("cvxpy")
    for _ in range(claim.trials):
        g, lam = torch.randn(5, dtype=torch.float64), 1.7
        step = cvxpy.Variable(5)
        square = cvxpy.square(cvxpy.norm_inf(step))
        problem = cvxpy.Problem(cvxpy.Minimize(g.numpy() @ step + lam / 2 * square))
        problem.solve()
        best = -(float(g.abs().sum()) ** 2) / (2 * lam)
        assert abs(problem.value / best - 1) < claim.tol


@pytest.mark.claim("max-of-max", tol=1e-12, trials=100)
def test_max_of_max_is_one_global_sign_step(claim):
    for _ in range(claim.trials):
        shapes = [(3, 4), (1, 5), (2, 2), (4, 1)]
        grads = [dense(math.prod(s)).reshape(s) for s in shapes]
        lam = float(positive(1))
        layers = [torch.nn.Parameter(torch.zeros_like(g)) for g in grads]
        for w, g in zip(layers, grads, strict=True):
            w.grad = g.clone()
        SteepestDescent(
            layers, lr=1 / lam, norm=MaxAbs(), step="steepest", across="max"
        ).step()
        eta = sum(float(g.abs().sum()) for g in grads) / lam
        for w, g in zip(layers, grads, strict=True):
            gap = (w.detach() + eta * g.sign()).abs().max() / eta
            assert float(gap) < claim.tol
        flat_g = torch.cat([g.flatten() for g in grads])
        flat_w = torch.cat([w.detach().flatten() for w in layers])
        best = -lam * eta**2 / 2
        assert abs(objective(flat_g, flat_w, lam) / best - 1) < claim.tol
        joint = MaxOver([(MaxAbs(), 1.0)] * len(grads))
        assert abs(float(joint.dual(grads)) / (lam * eta) - 1) < claim.tol


@pytest.mark.claim("max-of-max", tol=1e-12, trials=100)
def test_largest_entry_is_the_norm_from_l1_to_linf(claim):
    for _ in range(claim.trials):
        w = torch.randn(3, 4, dtype=torch.float64)
        x = torch.randn(4, 50, dtype=torch.float64)
        ratios = (w @ x).abs().amax(0) / x.abs().sum(0)
        assert float(ratios.max()) < float(MaxAbs().norm(w)) + claim.tol
        basis = (w @ torch.eye(4, dtype=torch.float64)).abs().max()
        assert abs(float(basis - MaxAbs().norm(w))) < claim.tol


@pytest.mark.claim("sign-rotation", tol=1e-12, trials=100)
def test_sign_commutes_with_signed_permutations_only(claim):
    eye = torch.eye(5, dtype=torch.float64)
    for _ in range(claim.trials):
        g = dense(5)
        signs = torch.randn(5, dtype=torch.float64).sign()
        q = eye[torch.randperm(5)] * signs
        assert torch.equal(LInf().dualize(q @ g), q @ LInf().dualize(g))
        q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
        gaps = [LInf().dualize(q @ e) - q @ LInf().dualize(e) for e in eye]
        assert max(float(gap.abs().max()) for gap in gaps) > 0.01


@pytest.mark.claim("adam-without-averages", tol=1e-12, trials=50)
def test_adam_without_averages_is_the_softened_sign(claim):
    for _ in range(claim.trials):
        g, eps = dense(20), float(positive(1))
        expected = -g / (g.abs() + eps)
        for cls in (Adam, torch.optim.Adam):
            step = steps_of(cls, g[None], betas=(0.0, 0.0), eps=eps)[0]
            assert float((step / expected - 1).abs().max()) < claim.tol
        short = 1 - step.abs()
        assert float((short - eps / (g.abs() + eps)).abs().max()) < claim.tol
        scaled = steps_of(Adam, 8 * g[None], betas=(0.0, 0.0), eps=8 * eps)[0]
        assert float((scaled - step).abs().max()) < claim.tol


@pytest.mark.claim("adam-without-averages", tol=1e-12, trials=50)
def test_adam_without_averages_and_eps_is_sign_descent(claim):
    for _ in range(claim.trials):
        history = torch.stack([dense(20) for _ in range(5)])
        adam = steps_of(Adam, history, betas=(0.0, 0.0), eps=NO_EPS)
        sign = steps_of(SteepestDescent, history, norm=LInf())
        assert float((adam - sign).abs().max()) < claim.tol


def outside(v: Tensor, eps: float) -> Tensor:
    return eps * (-torch.log1p(-v.abs()) - v.abs())


def inside(v: Tensor, eps: float) -> Tensor:
    return math.sqrt(eps) * (1 - (1 - v**2).clamp(min=0).sqrt())


@pytest.mark.claim("epsilon-barrier", tol=1e-10, trials=100)
@pytest.mark.parametrize("barrier", [outside, inside])
def test_eps_is_the_strength_of_a_barrier(claim, barrier):
    for _ in range(claim.trials):
        g, eps = dense(1), float(positive(1))
        soft = g.abs() + eps if barrier is outside else (g**2 + eps).sqrt()
        v = (-g / soft).clone().requires_grad_()
        cost = g * v + barrier(v, eps)
        (slope,) = torch.autograd.grad(cost.sum(), v)
        near = min(1.0, float(1 - v.detach().abs()) * 0.5)
        scale = float(g.abs()) / max(near, 1e-8)  # the wall is steep: relative slope
        assert float(slope.abs()) / scale < claim.tol * 1e2
        grid = torch.linspace(-0.999999, 0.999999, 2001, dtype=torch.float64)
        worst = (g * grid + barrier(grid, eps)).min()
        assert float(worst - cost.detach()) > -claim.tol * float(g.abs() + eps)


@pytest.mark.claim("two-weight-sign", tol=1e-12, trials=20)
def test_sign_descent_keeps_the_difference_of_the_two_weights(claim):
    for _ in range(claim.trials):
        b, a = sorted((0.05 + 0.9 * torch.rand(2, dtype=torch.float64)).tolist())
        w = torch.nn.Parameter(torch.tensor([a, b], dtype=torch.float64))
        optimizer = SteepestDescent([w], lr=1e-2, norm=LInf())
        while two_weights.residual(w.detach()) < 0:
            w.grad = two_weights.gradient(w.detach())
            optimizer.step()
            assert abs(float((w[0] - w[1]).detach()) - (a - b)) < claim.tol
