"""The claims of the chapter on SGD about its ruler: round, blind to axes, clipped."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from anthology import lab
from anthology.norms import L1, L2, LInf, Lp, Norm, Spectral
from anthology.optim import SGD, Adam

LOOSE = 1e-6  # what clip_grad_norm_ adds to a norm before it divides by it


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def turn(d: int) -> Tensor:
    """A random orthogonal matrix."""
    q, r = torch.linalg.qr(normal(d, d))
    return q * r.diagonal().sign()


@pytest.mark.claim("round-ruler", tol=1e-12, trials=100)
def test_only_the_round_ruler_turns_its_steps_with_the_gradient(claim):
    odd = [L1(), LInf(), Lp(1.5), Lp(3.0)]
    for _ in range(claim.trials):
        g, q = normal(5), turn(5)
        assert lab.gap(L2().dualize(q @ g), q @ L2().dualize(g)) < claim.tol
        for norm in odd:
            assert lab.gap(norm.dualize(q @ g), q @ norm.dualize(g)) > 1e-3
            assert abs(float(norm.norm(q @ g) / norm.norm(g)) - 1) > 1e-6
    g, p, q = normal(4, 3), turn(4), turn(3)  # turns of a matrix seen as a vector
    whole = turn(12)
    turned = (whole @ g.flatten()).reshape(4, 3)
    back = (whole.T @ Spectral().dualize(turned).flatten()).reshape(4, 3)
    assert lab.gap(Spectral().dualize(p @ g @ q), p @ Spectral().dualize(g) @ q) < 1e-9
    assert lab.gap(back, Spectral().dualize(g)) > 1e-3


@pytest.mark.claim("round-ruler", tol=1e-12, trials=100)
def test_the_reflection_of_the_proof(claim):
    """It keeps g and g/‖g‖ is the middle of a step and its mirror image."""
    for _ in range(claim.trials):
        g, t = normal(5), normal(5)
        mirror = 2 * torch.outer(g, g) / (g @ g) - torch.eye(5, dtype=torch.float64)
        t = t / (g @ t) * (g @ g)
        assert lab.gap(mirror @ g, g) < claim.tol
        assert float((0.5 * (t + mirror @ t) - g).norm()) < 1e-9 * float(t.norm())


def found(x: Tensor, truth: Tensor, kind: str) -> Tensor:
    """Where 1,500 steps from zero lead, on ½‖X(w − w*)‖²."""
    w = torch.zeros_like(truth).requires_grad_()
    step = 1 / float(torch.linalg.matrix_norm(x, 2) ** 2)
    normalised = kind == "normalised"
    rule = SGD([w], 0.05 if normalised else step, 0.9, normalised=normalised)
    for k in range(1500):
        rule.param_groups[0]["lr"] = (0.05 if normalised else step) * (1 - k / 1500)
        w.grad = x.T @ (x @ (w.detach() - truth))
        if kind == "clipped":
            clip_grad_norm_([w], 1.0)
        rule.step()
    return w.detach()


@pytest.mark.claim("round-share", tol=1e-3, trials=3)
@pytest.mark.parametrize("kind", ["momentum", "clipped", "normalised"])
def test_what_a_round_rule_finds_is_a_projection(claim, kind):
    for _ in range(claim.trials):
        x, truth = normal(6, 20), torch.eye(20, dtype=torch.float64)[3]
        rows = torch.linalg.pinv(x) @ x
        w = found(x, truth, kind)
        assert float((w - rows @ w).norm()) < 1e-9  # it never left the span
        assert lab.gap(w, rows @ truth) < claim.tol


@pytest.mark.claim("round-share", tol=0.01, trials=4000)
@pytest.mark.parametrize("n", [4, 10, 16])
def test_the_share_is_n_over_d(claim, n):
    x = normal(claim.trials, n, 20)
    rows = torch.linalg.pinv(x) @ x
    share = rows.mean(0)
    assert lab.gap(share, n / 20 * torch.eye(20, dtype=torch.float64)) < 4 * claim.tol
    needle = torch.eye(20, dtype=torch.float64)[3]
    left = ((rows @ needle - needle) ** 2).sum(-1).mean()
    assert abs(float(left) - (1 - n / 20)) < claim.tol


@pytest.mark.claim("round-share", tol=1e-12, trials=200)
def test_nothing_finds_more_of_a_truth_and_its_mirror_image(claim):
    for _ in range(claim.trials):
        x, truth, guess = normal(6, 20), normal(20), normal(20)
        rows = torch.linalg.pinv(x) @ x
        mirror = 2 * rows @ truth - truth
        assert lab.gap(x @ mirror, x @ truth) < 1e-9  # the same measurements
        assert abs(float(mirror.norm() / truth.norm()) - 1) < 1e-9
        least = float(((truth - rows @ truth) ** 2).sum())
        for w in (guess, rows @ truth, truth):
            both = ((w - truth) ** 2).sum() + ((w - mirror) ** 2).sum()
            assert float(both) / 2 >= least - 1e-9
        w = rows @ truth
        both = ((w - truth) ** 2).sum() + ((w - mirror) ** 2).sum()
        assert abs(float(both) / 2 - least) < 1e-9


@pytest.mark.claim("needle-under-l1", tol=1e-6, trials=20)
def test_the_ruler_of_axes_finds_the_needle(claim):
    """Steepest descent under ℓ₁: 20 measurements of 100 weights are enough."""
    for _ in range(claim.trials):
        x, truth = normal(30, 100), torch.eye(100, dtype=torch.float64)[50]
        h, w = x.T @ x, torch.zeros(100, dtype=torch.float64)
        for _ in range(200):
            g = h @ (w - truth)
            w = w - L1().dual(g) / h.diagonal().max() * L1().dualize(g)
        assert lab.gap(w, truth) < claim.tol


@pytest.mark.claim("mixed-inputs", tol=1e-9, trials=3)
def test_a_network_does_not_notice_that_its_inputs_are_mixed(claim):
    data, mix = lab.digits(), turn(64)

    def losses(make: object, turned: bool, seed: int) -> Tensor:
        net = lab.mlp([64, 32, 10], seed=seed).double()
        q = mix if turned else torch.eye(64, dtype=torch.float64)
        first = next(net.parameters())
        first.data = first.data @ q.T
        rule, seen = make(net.parameters()), []  # type: ignore[operator]
        for (x, y), _ in zip(data.batches(64, seed), range(60), strict=False):
            rule.zero_grad()
            loss = lab.cross_entropy(net(x.double().flatten(1) @ q.T), y)
            loss.backward()
            clip_grad_norm_(net.parameters(), 1.0)
            rule.step()
            seen.append(loss.detach())
        return torch.stack(seen)

    for seed in range(claim.trials):
        for make in (
            lambda p: SGD(p, 0.3, 0.9, nesterov=True),
            lambda p: SGD(p, 0.1, 0.9, normalised=True),
            lambda p: torch.optim.SGD(p, 0.3, 0.9, weight_decay=1e-3),
        ):
            assert lab.gap(losses(make, True, seed), losses(make, False, seed)) < (
                claim.tol
            )
        adam = [losses(lambda p: Adam(p, 3e-3), way, seed) for way in (True, False)]
        assert lab.gap(*adam) > 1e-2


def clipped(norm: Norm, g: Tensor, eta: float, c: float) -> Tensor:
    return -min(eta * float(norm.dual(g)), eta * c) * norm.dualize(g)


@pytest.mark.claim("clipping", tol=1e-12, trials=30)
def test_a_clipped_step_solves_the_problem_with_price_and_fence(claim):
    for norm in (L1(), L2(), LInf(), Lp(3.0)):
        for _ in range(claim.trials):
            g, (eta, c) = normal(6), (torch.rand(2) * 3 + 0.01).tolist()
            step = clipped(norm, g, eta, c)
            size = float(norm.norm(step))
            assert size <= eta * c * (1 + claim.tol)
            best = float(g @ step) + size**2 / (2 * eta)
            rivals = step + torch.logspace(-4, 0, 30)[:, None] * normal(30, 6)
            sizes = torch.stack([norm.norm(r) for r in rivals])
            rivals = rivals * (eta * c / sizes).clamp(max=1)[:, None]
            sizes = torch.stack([norm.norm(r) for r in rivals])
            costs = rivals @ g + sizes**2 / (2 * eta)
            assert float(costs.min()) > best - claim.tol * abs(best) - 1e-12


@pytest.mark.claim("clipping", tol=1e-5, trials=10)
def test_a_convex_solver_finds_the_clipped_step(claim):
    cvxpy = pytest.importorskip("cvxpy")
    for order, norm in ((1, L1()), (2, L2()), ("inf", LInf())):
        for _ in range(claim.trials):
            g, (eta, c) = normal(4), (torch.rand(2) * 2 + 0.1).tolist()
            step = cvxpy.Variable(4)
            size = cvxpy.norm(step, order)
            cost = g.numpy() @ step + cvxpy.square(size) / (2 * eta)
            problem = cvxpy.Problem(cvxpy.Minimize(cost), [size <= eta * c])
            problem.solve()
            ours = clipped(norm, g, eta, c)
            value = float(g @ ours) + float(norm.norm(ours)) ** 2 / (2 * eta)
            assert abs(problem.value / value - 1) < claim.tol


@pytest.mark.claim("clipping", tol=1e-5, trials=50)
def test_clipping_and_normalising_in_torch_are_that_step(claim):
    shapes = [(4, 3), (3,), (2, 3, 3)]
    for trial in range(claim.trials):
        c, eta = 0.3 if trial % 2 else 30.0, 0.7
        params = [torch.zeros(s, dtype=torch.float64).requires_grad_() for s in shapes]
        grads = [normal(*s) for s in shapes]
        g = torch.cat([x.flatten() for x in grads])
        for p, x in zip(params, grads, strict=True):
            p.grad = x.clone()
        clip_grad_norm_(params, c)
        torch.optim.SGD(params, eta).step()
        step = torch.cat([p.detach().flatten() for p in params])
        assert lab.gap(step, clipped(L2(), g, eta, c)) < claim.tol + LOOSE
        if c < float(g.norm()):  # always clipped: it is the normalised step
            same = [torch.zeros_like(p).requires_grad_() for p in params]
            for p, x in zip(same, grads, strict=True):
                p.grad = x.clone()
            SGD(same, eta * c, normalised=True).step()
            other = torch.cat([p.detach().flatten() for p in same])
            assert lab.gap(step, other) < claim.tol + LOOSE


@pytest.mark.claim("clipped-rest", tol=1e-3, trials=8)
def test_clipped_descent_rests_between_mean_and_median(claim):
    """On samples 0, 0, 3 at min(c/2, 1), where Huber's loss is least."""
    samples = torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
    for k in range(claim.trials):
        c = 0.1 * 1.5**k
        w = torch.tensor([2.5], dtype=torch.float64).requires_grad_()
        rule = torch.optim.SGD([w], 0.5)
        for _ in range(400):
            steps = []
            for x in samples:
                w.grad = w.detach() - x
                clip_grad_norm_([w], c)
                steps.append(w.grad.clone())
            w.grad = torch.stack(steps).mean(0)
            rule.step()
        assert abs(float(w.detach()) - min(c / 2, 1.0)) < claim.tol
        apart = (w.detach() - samples).abs()
        huber = torch.where(apart <= c, apart**2 / 2, c * apart - c**2 / 2).mean()
        for other in torch.linspace(-1, 4, 101, dtype=torch.float64):
            gap = (other - samples).abs()
            rival = torch.where(gap <= c, gap**2 / 2, c * gap - c**2 / 2).mean()
            assert float(rival) > float(huber) - 1e-6
    assert math.isclose(float(samples.mean()), 1.0)
