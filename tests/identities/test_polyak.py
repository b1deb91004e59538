"""The statements of the chapter shelf/polyak, and what it says of stored runs."""

import math
import sys
from statistics import mean

import cvxpy
import pytest
import torch
from torch import Tensor

from anthology import lab, motion, norms
from anthology.norms import from_spec
from anthology.optim import SteepestDescent
from anthology.optim.parts.param_norm import as_points
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import polyak as study

NORMS = ["L1()", "L2()", "LInf()", "Lp(3.0)", "Spectral()", "Nuclear()", "RMSToRMS()"]


def stepped(g: Tensor, loss: float, norm: str) -> Tensor:
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g.clone()
    optimizer = SteepestDescent([p], 1e9, norm=norm, step="polyak")
    optimizer.step(lambda: loss)
    return p.detach()


def measured(x: Tensor, norm: str) -> Tensor:
    kind = from_spec(norm)
    return kind.norm(as_points(x, kind))


@pytest.mark.claim("polyak-any-norm", tol=1e-10, trials=50)
@pytest.mark.parametrize("norm", NORMS)
def test_polyaks_step_is_the_shortest_to_the_best_value(claim, norm):
    for _ in range(claim.trials):
        g, gap = torch.randn(4, 3, dtype=torch.float64), 2.5
        step = stepped(g, gap, norm)
        assert abs(float(gap + (g * step).sum())) < claim.tol
        long = float(measured(step, norm))
        for size in (0.01, 0.3, 3.0):
            rival = step + size * torch.randn_like(step)
            slope = float((g * rival).sum())
            if slope < 0:  # stretched until it is allowed as well
                rival = rival * (-gap / slope)
                assert float(measured(rival, norm)) >= long * (1 - claim.tol)


@pytest.mark.claim("polyak-any-norm", tol=1e-5, trials=3)
@pytest.mark.parametrize(
    ("norm", "as_cvxpy"),
    [
        ("L1()", lambda t: cvxpy.norm(cvxpy.vec(t, order="C"), 1)),
        ("LInf()", lambda t: cvxpy.norm(cvxpy.vec(t, order="C"), "inf")),
        ("Spectral()", cvxpy.sigma_max),
        ("Nuclear()", cvxpy.normNuc),
    ],
)
def test_a_convex_solver_finds_the_same_length(claim, norm, as_cvxpy):
    for _ in range(claim.trials):
        g, gap = torch.randn(4, 3, dtype=torch.float64), 1.5
        t = cvxpy.Variable((4, 3))
        model = gap + cvxpy.sum(cvxpy.multiply(g.numpy(), t))
        shortest = cvxpy.Problem(cvxpy.Minimize(as_cvxpy(t)), [model <= 0]).solve()
        assert abs(float(measured(stepped(g, gap, norm), norm)) - shortest) < claim.tol


def convex(kind: int):
    a = torch.randn(9, 12, dtype=torch.float64)
    end = torch.randn(4, 3, dtype=torch.float64)

    def loss(p: Tensor) -> Tensor:
        rest = a @ (p - end).reshape(-1)
        return (rest.square(), rest.abs(), rest.abs() ** 1.5)[kind].sum()

    return loss, end, torch.linalg.svd(a)[2][9:]


@pytest.mark.claim("polyak-any-norm", tol=1e-9, trials=30)
@pytest.mark.parametrize("norm", NORMS)
def test_it_is_no_longer_than_the_way_to_any_minimum(claim, norm):
    for trial in range(claim.trials):
        loss, end, silent = convex(trial % 3)
        p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
        value = loss(p)
        (g,) = torch.autograd.grad(value, p)
        long = float(measured(stepped(g, value.item(), norm), norm))
        for size in (0.0, 0.1, 1.0):  # along directions that the loss does not see
            other = end + size * (torch.randn(3).double() @ silent).reshape(4, 3)
            assert abs(float(loss(other))) < 1e-9
            assert long <= float(measured(p.detach() - other, norm)) * (1 + claim.tol)


@pytest.mark.claim("polyak-any-norm", tol=1e-9, trials=30)
def test_the_distance_falls_under_the_euclidean_norm_and_not_under_others(claim):
    for trial in range(claim.trials):
        loss, end, _ = convex(trial % 3)
        p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
        for _ in range(20):
            value = loss(p)
            (p.grad,) = torch.autograd.grad(value, p)
            far = (p.detach() - end).square().sum()
            SteepestDescent([p], 1e9, norm="L2()", step="polyak").step(
                lambda value=value: value.detach()
            )
            gain = value.detach() ** 2 / p.grad.square().sum()
            near = (p.detach() - end).square().sum()
            assert near <= far - gain + claim.tol * far
    w, end = (
        torch.tensor([1.0, 0.0]).double(),
        torch.tensor([-0.1, 1.0], dtype=torch.float64),
    )
    new = w + stepped(torch.tensor([1.0, 0.1], dtype=torch.float64), 1.0, "LInf()")
    assert abs(float((w - end).abs().max()) - 1.1) < claim.tol
    assert round(float((new - end).abs().max()), 3) == 1.909


@pytest.mark.claim("polyak-descent", tol=1e-9, trials=200)
@pytest.mark.parametrize("share", [1.0, 2 / 7, 0.5])
def test_a_bound_of_the_loss_after_the_step(claim, share):
    """½(w₁² + 6w₂²) in the max norm: λ = 7, ν = 1."""
    curve = torch.tensor([1.0, 6.0], dtype=torch.float64)
    bound, worst = 1 - share + share**2 * 7 / 4, 0.0
    starts = [torch.tensor([1.0, 1e-5]).double()]
    starts += list(torch.randn(claim.trials, 2, dtype=torch.float64))
    for w in starts:
        loss = float((curve * w * w).sum() / 2)
        new = w + stepped(curve * w, share * loss, "LInf()")
        worst = max(worst, float((curve * new * new).sum() / 2) / loss)
    assert worst <= bound * (1 + claim.tol)
    assert worst > 0.99 * bound


def velocity(loss, norm):
    """The field of the motion that Polyak's step follows when it gets small."""

    def field(w: Tensor) -> Tensor:
        w = w.detach().requires_grad_()
        value = loss(w)
        (g,) = torch.autograd.grad(value, w)
        return -value.detach() / norm.dual(g) * norm.dualize(g)

    return field


@pytest.mark.claim("polyak-clock", tol=1e-8, trials=3)
@pytest.mark.parametrize("norm", ["L2()", "Spectral()", "RMSToRMS()"])
def test_the_loss_falls_by_the_clock_in_every_norm(claim, norm):
    """A network with tanh, fitted to data it cannot fit: its loss stays above zero."""
    kind = from_spec(norm)
    for _ in range(claim.trials):
        x, y = torch.randn(6, 7, dtype=torch.float64).split([5, 2], dim=1)
        start = torch.randn(2, 5, dtype=torch.float64)

        def loss(w: Tensor, x=x, y=y) -> Tensor:
            w = w.reshape(2, 5)
            return (torch.tanh(x @ w.T) - y).square().mean()

        field, flat = velocity(loss, kind), norm == "L2()"
        w = motion.flow(field, start.flatten() if flat else start, 0.05)
        assert abs(float(loss(w) / loss(start)) / math.exp(-0.05) - 1) < claim.tol


@pytest.mark.claim("polyak-clock", tol=1e-9, trials=20)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_a_step_on_a_power_of_an_affine_function(claim, norm, power):
    for _ in range(claim.trials):
        a, w = torch.randn(2, 4, 3, dtype=torch.float64)
        c = (a * w).sum() + 0.7
        g = power * c.abs() ** (power - 1) * c.sign() * a
        for share in (0.1, 1.0, power, 2.5):
            loss = c.abs() ** power
            new = (a * (w + stepped(g, share * float(loss), norm))).sum() + 0.7
            left = abs(1 - share / power) ** power
            assert abs(float(new.abs() ** power / loss) - left) < claim.tol


@pytest.mark.claim("polyak-clock", tol=1e-6)
def test_the_clock_stops_where_the_loss_is_least(claim):
    """½(w² + 1) from w = 1: the loss comes to ½ at the time ln 2, and no later."""
    field = velocity(lambda w: (w.square().sum() + 1) / 2, norms.L2())
    start = torch.ones(1, dtype=torch.float64)
    for early in (1e-1, 1e-2):
        w = motion.flow(field, start, math.log(2) - early)
        assert abs(float((w * w + 1) / 2) - 0.5 * math.exp(early)) < claim.tol


@pytest.mark.claim("polyak-clock", tol=0.01)
def test_the_rulers_share_a_curve_and_not_an_end(claim):
    """What the first figure says of a tenth of the step."""
    problem, ends, losses = lab.problems.two_weights, [], []
    for p in (1.0, 1.5, 2.0, 4.0, math.inf):
        w, norm = problem.start(), norms.Lp(p)
        for _ in range(40):
            g = problem.gradient(w)
            w = w - 0.1 * problem(w) / norm.dual(g) * norm.dualize(g)
        ends.append(float(w[0]))
        losses.append(float(problem(w)))
    assert max(losses) / min(losses) < 1 + claim.tol
    assert ends == sorted(ends) and ends[-1] - ends[0] > 0.1


def newton(w: float, height: float) -> float:
    return w - (w * w + height**2) / (2 * w)


@pytest.mark.claim("polyak-chaos", tol=1e-8, trials=50)
def test_a_step_without_a_root_doubles_the_angle(claim):
    for trial in range(claim.trials):
        height, angle = 0.3 + trial / 10, 0.02 + 3.1 * trial / claim.trials
        w = height / math.tan(angle)
        new = height / math.tan(2 * angle)
        assert abs(newton(w, height) - new) < claim.tol * (1 + abs(new))
        step = stepped(
            torch.tensor([w], dtype=torch.float64), (w * w + height**2) / 2, "L2()"
        )
        assert abs(w + float(step) - new) < claim.tol * (1 + abs(new))


@pytest.mark.claim("polyak-chaos", tol=0.02)
def test_its_points_are_spread_as_cauchys_law_says(claim):
    """Shares beyond c·h against (2/π) arctan(1/c), by 200,000 starts of the law."""
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    w = 1.7 / torch.tan(math.pi * quantiles)
    for _ in range(5):
        w = (w - 1.7**2 / w) / 2
    for c in (0.1, 1.0, 10.0):
        share = float((w.abs() > c * 1.7).double().mean())
        law = 2 / math.pi * math.atan(1 / c)
        assert abs(share / law - 1) < claim.tol


@pytest.fixture(scope="module")
def runs():
    return study.stored()


def accuracy(runs, *run) -> float:
    return mean(study.came_of(runs, *run))


def test_the_stored_study_is_whole(runs):
    for task, shares in study.SHARES.items():
        for share in shares:
            for rule in (*study.CAPS, "SGD"):
                assert len(study.came_of(runs, task, share, rule)) == len(study.SEEDS)


@pytest.mark.claim("sprunger-roots", tol=0.02, trials=5)
def test_roots_are_minima_as_long_as_the_labels_are_right(claim, runs):
    """Of five seeds with a fifth of the labels drawn by lot one still reads."""
    assert accuracy(runs, "classes", 0.0, "full") > 0.96
    full = study.came_of(runs, "classes", 0.2, "full")
    assert mean(full) < 0.3 and sum(x < 0.3 for x in full) == 4
    assert round(max(full), 2) == 0.79
    capped, tuned = (accuracy(runs, "classes", 0.2, r) for r in ("capped", "SGD"))
    assert abs(capped - tuned) < claim.tol


@pytest.mark.claim("sprunger-strength", tol=0.01, trials=5)
@pytest.mark.parametrize("task", ["classes", "regression"])
def test_the_full_step_is_level_with_tuned_sgd_without_noise(claim, runs, task):
    full, tuned = (accuracy(runs, task, 0.0, rule) for rule in ("full", "SGD"))
    assert abs(full - tuned) < claim.tol


@pytest.mark.claim("sprunger-strength", trials=5)
def test_as_a_regression_it_survives_the_noise(claim, runs):
    assert accuracy(runs, "regression", 0.2, "full") > 0.9


def test_one_run_again(runs):
    """Fifty of its steps are enough to read most of the digits."""
    again = study.train("classes", 0.0, "full", 1e9, 1, steps=50)
    assert again["accuracy"] > 0.8
