"""The theorems of the chapter norms/steepest-descent, one test or more each."""

import itertools
import math

import cvxpy
import pytest
import torch

from anthology import lab, linalg, motion, norms
from anthology.optim import SteepestDescent

VECTORS = [norms.L1(), norms.L2(), norms.Lp(1.5), norms.Lp(3), norms.LInf()]
MATRICES = [norms.Spectral(), norms.Nuclear(), norms.RMSToRMS(), norms.MaxAbs()]


def points(norm):
    """A stack of random gradients that fit a norm."""
    shape = (12,) if norm.ndim == 1 else (4, 3)
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


def inner(g, t):
    return (g * t).flatten(1).sum(1)


def spread(x, like):
    """Numbers, one for each point of a stack, as factors of the points."""
    return x.reshape(-1, *(1,) * (like.ndim - 1))


@pytest.mark.claim("steepest-descent", tol=1e-12, trials=200)
@pytest.mark.parametrize("norm", VECTORS + MATRICES, ids=repr)
def test_formula_attains_the_minimum_and_no_rival_beats_it(claim, norm):
    g, sharpness = points(norm)(claim.trials), 1.7

    def objective(d):
        return inner(g, d) + sharpness / 2 * norm.norm(d) ** 2

    step = -spread(norm.dual(g) / sharpness, g) * norm.dualize(g)
    best = -norm.dual(g).square() / (2 * sharpness)
    assert ((objective(step) - best).abs() / best.abs()).max() < claim.tol
    for size, shrink in itertools.product((1e-3, 0.1, 1.0), (0.9, 1.0, 1.1)):
        rival = shrink * step + size * points(norm)(claim.trials)
        assert (objective(rival) >= best * (1 - claim.tol)).all()


@pytest.mark.claim("steepest-descent", tol=1e-6, trials=5)
@pytest.mark.parametrize(
    ("norm", "as_cvxpy"),
    [
        (norms.L1(), lambda t: cvxpy.norm(t, 1)),
        (norms.Lp(3), lambda t: cvxpy.pnorm(t, 3)),
        (norms.LInf(), lambda t: cvxpy.norm(t, "inf")),
        (norms.Spectral(), lambda t: cvxpy.sigma_max(t)),
        (norms.Nuclear(), lambda t: cvxpy.normNuc(t)),
    ],
    ids=["l1", "l3", "linf", "spectral", "nuclear"],
)
def test_convex_solver_finds_the_same_minimum(claim, norm, as_cvxpy):
    for g in points(norm)(claim.trials):
        step = cvxpy.Variable(tuple(g.shape))
        value = cvxpy.sum(cvxpy.multiply(g.numpy(), step))
        value += 0.85 * cvxpy.square(as_cvxpy(step))
        minimum = cvxpy.Problem(cvxpy.Minimize(value)).solve(solver="CLARABEL")
        assert abs(minimum + norm.dual(g).item() ** 2 / 3.4) < claim.tol


@pytest.mark.claim("steepest-descent", tol=1e-12)
def test_minimisers_form_a_convex_set_where_the_sphere_has_a_segment(claim):
    """ℓ∞ with a zero entry, ℓ1 with a tie, spectral with a null space."""
    unit = torch.eye(2, dtype=torch.float64)
    cases = [
        (norms.LInf(), unit[0], unit[0] + unit[1], unit[0] - unit[1]),
        (norms.L1(), unit.sum(0), unit[0], unit[1]),
        (norms.Spectral(), torch.diag(unit[0]), unit, torch.diag(unit[0] - unit[1])),
    ]
    for norm, g, first, second in cases:
        for share in torch.linspace(0, 1, 11, dtype=torch.float64):
            t = share * first + (1 - share) * second
            assert abs((g * t).sum() - norm.dual(g)) < claim.tol
            assert abs(norm.norm(t) - 1) < claim.tol
        assert abs((g * norm.dualize(g)).sum() - norm.dual(g)) < claim.tol


@pytest.mark.claim("steepest-descent", tol=1e-4, trials=200)
@pytest.mark.parametrize("p", [1.5, 2, 4])
def test_minimiser_is_unique_on_a_round_sphere(claim, p):
    """Two unit steps that are apart leave a midpoint strictly inside."""
    norm = norms.Lp(p)
    g = torch.randn(claim.trials, 6, dtype=torch.float64)
    t = norm.dualize(g)
    other = norm.dualize(g + 0.3 * torch.randn_like(g))
    assert (norm.norm(t - other) > 1e-2).all()
    assert (norm.dual(g) - inner(g, other) > claim.tol).all()


@pytest.mark.claim("steepest-descent")
def test_zero_gradient_and_sharpness_that_is_not_positive():
    for norm in VECTORS + MATRICES:
        zero = torch.zeros_like(points(norm)(3))
        assert torch.equal(norm.dualize(zero), zero)
        assert not norm.dual(zero).any()
        g = points(norm)(3)
        for sharpness in (0.0, -1.0):
            lengths = torch.tensor([1e2, 1e4, 1e6], dtype=g.dtype)
            values = [-r * norm.dual(g) + sharpness / 2 * r**2 for r in lengths]
            assert (torch.stack(values).diff(dim=0) < 0).all()
            assert (values[-1] < -1e4).all()


@pytest.mark.claim("dual-lp", tol=1e-12, trials=1000)
@pytest.mark.parametrize("p", [1, 1.1, 1.5, 2, 3, 10, math.inf])
def test_lp_duality(claim, p):
    norm = norms.Lp(p)
    q = {1: math.inf, math.inf: 1}.get(p) or p / (p - 1)
    g, t = torch.randn(2, claim.trials, 7, dtype=torch.float64)
    dual = torch.linalg.vector_norm(g, q, dim=-1)
    assert ((norm.dual(g) - dual).abs() < claim.tol * dual).all()
    assert ((norm.norm(norm.dualize(g)) - 1).abs() < claim.tol).all()
    assert ((inner(g, norm.dualize(g)) - dual).abs() < claim.tol * dual).all()
    assert (inner(g, t).abs() <= dual * norm.norm(t) * (1 + claim.tol)).all()
    if 1 < p < math.inf:
        formula = g.sign() * (g.abs() / dual[:, None]) ** (q - 1)
        assert (norm.dualize(g) - formula).abs().max() < claim.tol


def quadratic(norm):
    """A random quadratic and its sharpness under ℓ1, ℓ2 or ℓ∞, exactly."""
    M = torch.randn(8, 8, dtype=torch.float64)
    H = M @ M.mT / 8
    if isinstance(norm, norms.L1):  # a convex function is largest at a vertex
        return H, H.diagonal().max()
    if isinstance(norm, norms.L2):
        return H, torch.linalg.eigvalsh(H)[-1]
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=8)))
    corners = corners.to(H.dtype)
    return H, ((corners @ H) * corners).sum(-1).max()


@pytest.mark.claim("guaranteed-decrease", tol=1e-12, trials=20)
@pytest.mark.parametrize("norm", [norms.L1(), norms.L2(), norms.LInf()], ids=repr)
def test_every_step_keeps_its_promise(claim, norm):
    for _ in range(claim.trials):
        H, sharpness = quadratic(norm)
        w = torch.randn(8, dtype=torch.float64)
        values, prices = [w @ H @ w / 2], []
        for _ in range(50):
            g = H @ w
            prices.append(norm.dual(g))
            w = w - prices[-1] / sharpness * norm.dualize(g)
            values.append(w @ H @ w / 2)
            promise = prices[-1].square() / (2 * sharpness)
            assert values[-2] - values[-1] > promise - claim.tol * values[0]
            bound = 2 * sharpness * values[0] / len(prices)
            assert min(prices).square() <= bound * (1 + claim.tol)


@pytest.mark.claim("square-loss", tol=1e-12, trials=500)
@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 7)])
def test_sharpness_of_the_square_loss(claim, shape):
    d_out, d_in = shape
    task = lab.problems.linear_regression(d_in=d_in, d_out=d_out)
    assert task.sharpness == d_in / d_out
    W, D = torch.randn(2, claim.trials, *shape, dtype=torch.float64)
    above = task(W + D) - task(W) - inner(task.gradient(W), D)
    spectral = norms.Spectral().norm(D).square()
    assert (above <= d_in / d_out / 2 * spectral * (1 + claim.tol)).all()
    assert (above <= norms.RMSToRMS().norm(D).square() / 2 * (1 + claim.tol)).all()
    if d_out >= d_in:  # an isometry attains the bound
        Q = linalg.polar(D)
        above = task(W + Q) - task(W) - inner(task.gradient(W), Q)
        assert (above - d_in / d_out / 2).abs().max() < 1e3 * claim.tol


@pytest.mark.claim("max-of-norms", tol=1e-12, trials=50)
def test_one_length_for_all_tensors(claim):
    terms = [(norms.Spectral(), 1.0), (norms.MaxAbs(), 3.0), (norms.L2(), 0.5)]
    shapes, sharpness, ruler = [(4, 3), (2, 5), (6,)], 2.0, norms.MaxOver(terms)
    for _ in range(claim.trials):
        gs = [torch.randn(s, dtype=torch.float64) for s in shapes]
        total = sum(n.dual(g) / s for (n, s), g in zip(terms, gs, strict=True))
        assert abs(ruler.dual(gs) - total) < claim.tol * total

        def objective(ds, gs=gs):
            first = sum((g * d).sum() for g, d in zip(gs, ds, strict=True))
            return first + sharpness / 2 * ruler.norm(ds) ** 2

        ws = [torch.zeros_like(g, requires_grad=True) for g in gs]
        groups = [
            {"params": [w], "norm": n, "scale": s}
            for w, (n, s) in zip(ws, terms, strict=True)
        ]
        optimizer = SteepestDescent(groups, lr=1 / sharpness, step="steepest")
        for w, g in zip(ws, gs, strict=True):
            w.grad = g.clone()
        optimizer.step()
        steps = [w.detach() for w in ws]
        best = -(total**2) / (2 * sharpness)
        assert abs(objective(steps) - best) < 10 * claim.tol * abs(best)
        for _ in range(20):
            rival = [d + 0.1 * torch.randn_like(d) for d in steps]
            assert objective(rival) > best


@pytest.mark.claim("ruler-picks-minimum", tol=1e-8)
@pytest.mark.parametrize("start", [(2.0, 0.2), (0.3, -1.5), (-0.7, -0.4)])
@pytest.mark.parametrize("p", [1.5, 2, 3, 4, math.inf])
def test_path_conserves_the_difference_of_powers(claim, p, start):
    problem, norm = lab.problems.two_weights, norms.Lp(p)
    q = 1 / (1 - 1 / p)

    def velocity(w):
        g = problem.gradient(w)
        return -norm.dual(g) * norm.dualize(g)

    w0 = torch.tensor(start, dtype=torch.float64)
    # before a weight changes its sign, where |b|^(q-1) is not smooth
    a, b = motion.flow(velocity, w0, [0.0, 0.02, 0.05, 0.1]).abs().T
    kept = a**q - b**q
    assert (kept - kept[0]).abs().max() < claim.tol
    if start == (2.0, 0.2):
        a, b = motion.flow(velocity, w0, 6.0)
        assert abs(a * b - 1) < claim.tol
        assert abs(a**q - b**q - kept[0]) < claim.tol


@pytest.mark.claim("ruler-picks-minimum", tol=1e-3)
def test_where_the_paths_end(claim):
    """a = 2, √((c+√(c²+4))/2) with c = 3.96, and the root of a(a − 1.8) = 1."""
    problem = lab.problems.two_weights
    ends = {norms.L1(): 2.0, norms.L2(): 2.049, norms.LInf(): 2.245}
    curvature = {norms.L1(): 4.25, norms.L2(): 4.436, norms.LInf(): 5.240}
    for norm, a in ends.items():

        def velocity(w, norm=norm):
            g = problem.gradient(w)
            return -norm.dual(g) * norm.dualize(g)

        end = motion.flow(velocity, problem.start(), 6.0)
        assert abs(end[0] - a) < claim.tol
        assert abs(problem.sharpness(end) - curvature[norm]) < claim.tol


@pytest.mark.claim("rulers-tie-at-a-minimum", tol=1e-3, trials=100)
@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_every_ruler_promises_the_whole_loss_near_a_minimum(claim, p):
    problem, norm = lab.problems.two_weights, norms.Lp(p)
    a = torch.rand(claim.trials, dtype=torch.float64) * 3 + 0.3
    minimum = problem.minimum(a)
    direction = norm.dualize(minimum.flip(-1))
    H = problem.hessian(minimum)
    sharpness = (direction[:, None] @ H @ direction[..., None]).flatten()
    assert torch.allclose(sharpness, norm.dual(minimum.flip(-1)).square())
    w = minimum * (1 + 1e-4)
    promise = norm.dual(problem.gradient(w)).square() / (2 * sharpness)
    assert ((promise / problem(w) - 1).abs() < claim.tol).all()


@pytest.mark.claim("newton-is-steepest", tol=1e-10, trials=100)
def test_newtons_step_is_steepest_under_the_hessian(claim):
    for _ in range(claim.trials):
        M = torch.randn(5, 5, dtype=torch.float64)
        H, g = M @ M.mT + torch.eye(5), torch.randn(5, dtype=torch.float64)
        newton = -torch.linalg.solve(H, g)
        best = g @ newton + newton @ H @ newton / 2
        assert abs(best + g @ torch.linalg.solve(H, g) / 2) < claim.tol
        rivals = newton + torch.randn(50, 5, dtype=torch.float64)
        values = rivals @ g + ((rivals @ H) * rivals).sum(-1) / 2
        assert (values > best).all()
