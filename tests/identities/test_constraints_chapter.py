"""What the chapter on constraints states: the dual, rests, angles, frames, its runs."""

import math
import sys
from statistics import mean

import pytest
import torch

from anthology import norms, optim
from anthology.linalg import polar
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
SPHERES = [norms.Sphere(), norms.SpectralSphere()]
RULERS = [
    norms.Spectral(),
    norms.Frobenius(),
    norms.MaxAbs(),
    norms.Nuclear(),
    norms.RMSToRMS(),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def inner(a, b):
    return (a * b).sum((-2, -1))


def normal(surface, w):
    if surface.name == "sphere":
        return w / w.norm()
    u, _, vh = torch.linalg.svd(w)
    return u[:, :1] @ vh[:1]


def least(price, low, high, rounds=60):
    """Where a convex function of one number is least."""
    for _ in range(rounds):
        one, two = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, two) if price(one) < price(two) else (one, high)
    return (low + high) / 2


@pytest.mark.claim("constraints-dual", tol=1e-5, trials=3)
@pytest.mark.parametrize("norm", RULERS, ids=repr)
@pytest.mark.parametrize("surface", SPHERES, ids=lambda s: s.name)
def test_the_step_earns_the_least_dual_norm_among_normals(claim, surface, norm):
    """A certificate: no solver is asked, and no rival can do better."""
    for _ in range(claim.trials):
        w, g = random(5, 3), random(5, 3)
        n, a = normal(surface, w), surface.dualize(g, w, norm)
        bound = float(2 * norm.dual(g) / norm.dual(n))
        nu = least(lambda x: norm.dual(g + x * n), -bound, bound)  # noqa: B023
        assert abs(inner(n, a)) < claim.tol
        assert norm.norm(a) < 1 + claim.tol
        assert abs(inner(g, a) / norm.dual(g + nu * n) - 1) < claim.tol
        # the same number is the value of a step of the shifted gradient
        assert abs(inner(g + nu * n, a) / norm.dual(g + nu * n) - 1) < claim.tol


@pytest.mark.claim("constraints-dual", tol=1e-9, trials=10)
@pytest.mark.parametrize("norm", RULERS, ids=repr)
def test_the_product_with_the_normal_never_falls(claim, norm):
    for _ in range(claim.trials):
        g, n = random(4, 3), random(4, 3)
        bound = float(2 * norm.dual(g) / norm.dual(n))
        line = torch.linspace(-bound, bound, 41, dtype=torch.float64)
        steps = norm.dualize(g + line[:, None, None] * n)
        assert (inner(steps, n).diff() > -claim.tol).all()
        assert norm.dual(g + bound * n) > norm.dual(g) - claim.tol
        assert norm.dual(g - bound * n) > norm.dual(g) - claim.tol


@pytest.mark.claim("constraints-dual", tol=1e-5, trials=2)
@pytest.mark.parametrize("ruler", ["spectral", "max-abs", "frobenius"])
@pytest.mark.parametrize("surface", [*SPHERES, norms.Stiefel()], ids=lambda s: s.name)
def test_a_convex_solver_finds_no_steeper_step(claim, surface, ruler):
    cvxpy = pytest.importorskip("cvxpy")
    norm = {"spectral": norms.Spectral(), "max-abs": norms.MaxAbs()}.get(
        ruler, norms.Frobenius()
    )
    if surface.name == "stiefel" and ruler == "max-abs":
        pytest.skip("not a norm of singular values")
    for _ in range(claim.trials):
        w, g = random(4, 3), random(4, 3)
        w = surface.onto(w, surface.radius(w, norm), norm)
        a = cvxpy.Variable((4, 3))
        size = {
            "spectral": cvxpy.sigma_max(a),
            "max-abs": cvxpy.max(cvxpy.abs(a)),
            "frobenius": cvxpy.norm(a, "fro"),
        }[ruler]
        if surface.name == "stiefel":
            tangent = w.numpy().T @ a + a.T @ w.numpy() == 0
        else:
            tangent = cvxpy.sum(cvxpy.multiply(normal(surface, w).numpy(), a)) == 0
        value = cvxpy.sum(cvxpy.multiply(g.numpy(), a))
        best = cvxpy.Problem(cvxpy.Maximize(value), [size <= 1, tangent]).solve()
        ours = inner(g, surface.dualize(g, w, norm))
        low = 0.99 if surface.name == "stiefel" else 1 - 10 * claim.tol
        assert low * best < ours < best * (1 + 10 * claim.tol)


@pytest.mark.claim("constraints-dual", tol=1e-9, trials=1)
def test_the_number_that_the_chapter_works(claim):
    w = torch.tensor([0.8, 0.6], dtype=torch.float64)
    g = torch.tensor([2.0, 1.0], dtype=torch.float64)
    a = norms.Sphere().dualize(g, w, norms.LInf())
    assert torch.allclose(a, a.new_tensor([0.75, -1.0]), atol=1e-6)
    assert abs(norms.LInf().dual(g - 2.5 * w) - 0.5) < claim.tol


@pytest.mark.claim("constraints-rest", tol=1e-9, trials=40)
def test_between_gradient_and_step_bringing_back_climbs(claim):
    """Under every ruler but ℓ₂, for the package's own hyperball."""
    for trial in range(claim.trials):
        norm = (norms.Spectral(), norms.MaxAbs(), norms.Nuclear())[trial % 3]
        g = random(4, 3)
        t = norm.dualize(g)
        share = 0.1 + 0.8 * torch.rand(()).double()
        w = share * g / g.norm() + (1 - share) * t / t.norm()
        for name, climbs in (("hyperball", True), ("sphere", False)):
            p = w.clone().requires_grad_()
            p.grad = g
            optim.SteepestDescent([p], 1e-4, norm=norm, constrain=name).step()
            assert (inner(g, p.detach()) > inner(g, w)) == climbs
            assert abs(p.detach().norm() - w.norm()) < claim.tol


@pytest.mark.claim("constraints-rest", tol=1e-8, trials=20)
def test_brought_back_it_rests_where_decay_rests(claim):
    for trial in range(claim.trials):
        norm = (norms.Spectral(), norms.MaxAbs())[trial % 2]
        g, radius = random(4, 4), 1.7
        t = norm.dualize(g)
        w = -radius * t / t.norm()
        for options in (
            {"constrain": "hyperball"},
            {"weight_decay": float(t.norm()) / radius},
        ):
            p = w.clone().requires_grad_()
            p.grad = g
            optim.SteepestDescent([p], 0.1, norm=norm, **options).step()
            assert (p.detach() - w).abs().max() < claim.tol
        p = w.clone().requires_grad_()
        p.grad = g
        optim.SteepestDescent([p], 0.1, norm=norm, constrain="sphere").step()
        assert (p.detach() - w).abs().max() > 1e-3
        best = -radius * g / g.norm()
        assert norms.Sphere().dualize(g, best, norms.Frobenius()).abs().max() < 1e-6


@pytest.mark.claim("constraints-angle", tol=1e-12, trials=100)
def test_the_turn_at_equilibrium_and_on_a_sphere(claim):
    for trial in range(claim.trials):
        eta, kappa = 0.01 * (1 + trial), 0.3
        w, t = random(2, 9)
        t = t - (t @ w) / (w @ w) * w
        # the length of the step that leaves the size as it is
        keep = 1 - eta * kappa
        t = t / t.norm() * w.norm() * math.sqrt(1 - keep**2) / eta
        moved = keep * w - eta * t
        assert abs(moved.norm() / w.norm() - 1) < claim.tol
        cosine = (moved @ w) / moved.norm() / w.norm()
        assert abs(cosine - keep) < claim.tol
        length = math.tan(math.acos(keep))
        on = w - length * w.norm() * t / t.norm()
        assert abs((on @ w) / on.norm() / w.norm() - keep) < claim.tol


@pytest.mark.claim("constraints-stiefel", tol=1e-9, trials=5)
@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_square_frames_have_a_closed_form(claim, n):
    for _ in range(claim.trials):
        w, g = polar(random(n, n)), random(n, n)
        turn = w.mT @ g
        a = w @ polar((turn - turn.mT) / 2)
        least_dual = norms.Spectral().dual(g - w @ (turn + turn.mT) / 2)
        assert abs(inner(g, a) - least_dual) < claim.tol
        assert (w.mT @ a + a.mT @ w).abs().max() < claim.tol
        ours = norms.Stiefel().dualize(g, w, norms.Spectral())
        assert (ours - a).abs().max() < claim.tol


@pytest.mark.claim("constraints-stiefel", tol=1e-12, trials=20)
def test_the_way_back_is_a_division(claim):
    for _ in range(claim.trials):
        w = polar(random(9, 3))
        outside = torch.linalg.svd(w)[0][:, 3:6]  # tangent: orthogonal to all columns
        moved = w - 0.7 * outside
        size = torch.eye(3, dtype=torch.float64) * (1 + 0.7**2)
        assert (moved.mT @ moved - size).abs().max() < claim.tol
        assert (polar(moved) - moved / math.sqrt(1 + 0.7**2)).abs().max() < claim.tol
        cosine = inner(w, polar(moved)) / 3
        assert abs(math.acos(cosine) - math.atan(0.7)) < claim.tol


def ascent(w, g, rate=0.01):
    x = -(w.mT @ g + g.mT @ w) / 4
    for k in range(100):
        a = polar(g + 2 * w @ x)
        off = w.mT @ a + a.mT @ w
        x = x - rate * (1 - k / 100) * off
    return float(off.square().mean().sqrt())


@pytest.mark.claim("constraints-odd", tol=1e-4, trials=10)
@pytest.mark.parametrize(
    ("shape", "size", "converges"),
    [((64, 16), 1, True), ((64, 16), 32, False), ((5, 3), 1, False)],
)
def test_where_dual_ascent_stalls_projections_do_not(claim, shape, size, converges):
    w, g = polar(random(claim.trials, *shape)), random(claim.trials, *shape)
    g = size * g / g.flatten(1).norm(dim=1)[:, None, None]
    found = [ascent(*pair) for pair in zip(w, g, strict=True)]
    assert (mean(found) < claim.tol) == converges
    a = norms.Stiefel().dualize(g, w, norms.Spectral())
    assert (w.mT @ a + a.mT @ w).abs().max() < 1e-12


@pytest.mark.claim("constraints-spel", trials=60)
@pytest.mark.parametrize("shape", [(5, 3), (6, 4), (8, 8), (12, 6), (7, 4)], ids=str)
def test_the_projected_step_earns_nine_tenths(claim, shape):
    w, g = polar(random(claim.trials, *shape)), random(claim.trials, *shape)

    def along(x):
        turn = w.mT @ x
        return x - w @ (turn + turn.mT) / 2

    a = norms.Stiefel().dualize(g, w, norms.Spectral())
    t = along(polar(along(g)))
    share = inner(g, t) / norms.Spectral().norm(t) / inner(g, a)
    assert share.min() > 0.9


@pytest.mark.claim("constraints-odd", tol=1e-6, trials=3)
@pytest.mark.parametrize(
    ("shape", "singular"), [((5, 3), True), ((7, 4), True), ((6, 3), False)], ids=str
)
def test_odd_shapes_end_at_a_singular_gradient(claim, shape, singular):
    """By the multipliers of a convex solver."""
    cvxpy = pytest.importorskip("cvxpy")
    for _ in range(claim.trials):
        w, g = polar(random(*shape)), random(*shape)
        a = cvxpy.Variable(shape)
        tangent = w.numpy().T @ a + a.T @ w.numpy() == 0
        value = cvxpy.sum(cvxpy.multiply(g.numpy(), a))
        problem = cvxpy.Problem(
            cvxpy.Maximize(value), [cvxpy.sigma_max(a) <= 1, tangent]
        )
        best = problem.solve(solver="CLARABEL")
        x = torch.as_tensor(tangent.dual_value)
        # the sign of a multiplier is the solver's own
        found = [g + s * w @ (x + x.mT) for s in (1, -1)]
        shifted = min(found, key=norms.Spectral().dual)
        assert abs(norms.Spectral().dual(shifted) / best - 1) < claim.tol
        values = torch.linalg.svdvals(shifted)
        assert (values[-1] < 1e-3 * values[0]) == singular
