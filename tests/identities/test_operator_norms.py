"""What the chapter norms/operator-norms states, and what its runs gave."""

import itertools
import math
import sys
from statistics import mean

import pytest
import torch

from anthology import norms as N
from tests.norm_catalogue import INF, draw
from tools import address

sys.path.append(str(address.ROOT / "experiments"))


def lp(x, p, dim=-1):
    return torch.linalg.vector_norm(x, p, dim)


def conjugate(p):
    return INF if p == 1 else 1.0 if p == INF else p / (p - 1)


def inner(a, b):
    return (a * b).sum((-2, -1))


def corners(n):
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * n)


def random_graph(n, seed):
    """The edges of a random graph, as ones above the diagonal."""
    return (draw((n, n), seed) > 0).double().triu(1)


EXPONENTS = [1, 1.25, 1.5, 2, 3, 7, INF]
FORMULAS = [("columns", p) for p in EXPONENTS] + [("rows", p) for p in EXPONENTS]
FORMULAS.append(("spectral", 2))


@pytest.mark.claim("tractable-norms", tol=1e-11, trials=200)
@pytest.mark.parametrize(("kind", "p"), FORMULAS)
@pytest.mark.parametrize("shape", [(5, 4), (3, 6), (1, 4), (4, 1)])
def test_formula_dual_and_step_by_their_own_definitions(claim, kind, p, shape):
    """Stretch of inputs, attained; ⟨G, t⟩ is the stated sum, and nothing exceeds it."""
    W, q = draw((claim.trials, *shape), 1), conjugate(p)
    if kind == "columns":
        norm, p_in, p_out = N.OneTo(p), 1, p
        size, dual = lp(W, p, -2).amax(-1), lp(W, q, -2).sum(-1)
        best = torch.nn.functional.one_hot(lp(W, p, -2).argmax(-1), shape[1]).double()
    elif kind == "rows":
        norm, p_in, p_out = N.ToInf(p), p, INF
        size, dual = lp(W, q).amax(-1), lp(W, p).sum(-1)
        longest = lp(W, q).argmax(-1)
        best = N.Lp(p).dualize(W[torch.arange(claim.trials), longest])
    else:
        norm, p_in, p_out = N.Spectral(), 2, 2
        s = torch.linalg.svdvals(W)
        size, dual, best = s[:, 0], s.sum(-1), torch.linalg.svd(W).Vh[:, 0]
    assert (norm.norm(W) - size).abs().max() < claim.tol
    assert (norm.dual(W) - dual).abs().max() < claim.tol * dual.max()
    x = draw((claim.trials, 50, shape[1]), 2)
    stretched = lp(x @ W.mT, p_out) / lp(x, p_in)
    assert (stretched <= size[:, None] * (1 + claim.tol)).all()
    reached = lp((W @ best[..., None])[..., 0], p_out) / lp(best, p_in)
    assert (reached - size).abs().max() < claim.tol * size.max()
    t = norm.dualize(W)
    assert (inner(W, t) - dual).abs().max() < claim.tol * dual.max()
    rival = t + draw((claim.trials, *shape), 3)
    rival = rival / norm.norm(rival)[:, None, None]
    assert (inner(W, rival) <= dual * (1 + claim.tol)).all()


@pytest.mark.claim("max-cut", tol=1e-12, trials=12)
def test_a_norm_of_a_laplacian_is_four_times_the_maximum_cut(claim):
    for seed in range(claim.trials):
        edges = random_graph(4 + seed % 6, seed)
        both = edges + edges.mT
        laplacian = both.sum(0).diag() - both
        sides = corners(len(edges))
        cut = ((sides[:, :, None] != sides[:, None, :]) * edges).sum((1, 2)).max()
        norm = (sides @ laplacian).abs().sum(-1).max()
        assert abs(norm - 4 * cut) < claim.tol


@pytest.mark.claim("climbing-stops-on-hills", trials=20)
def test_climbing_never_falls_and_seldom_arrives(claim):
    reached = []
    for seed in range(claim.trials):
        W, x = draw((12, 12), seed), draw((500, 12), 100 + seed).sign()
        before = (x @ W.T).abs().sum(-1)
        for _ in range(50):
            y = torch.where(x @ W.T < 0, -1.0, 1.0).double()
            x = torch.where(y @ W < 0, -1.0, 1.0).double()
            now = (x @ W.T).abs().sum(-1)
            assert (now >= before - 1e-9).all()
            before = now
        top = (corners(12) @ W.T).abs().sum(-1).max()
        reached.append((now > top - 1e-9).double().mean())
    assert 0.05 < sum(reached) / claim.trials < 0.3


@pytest.mark.claim("leverage", tol=1e-9, trials=40)
@pytest.mark.parametrize("shape", [(12, 4), (5, 5), (4, 9)])
@pytest.mark.parametrize("rank", [2, 4])
def test_rows_of_the_spectral_step_are_leverage_scores(claim, shape, rank):
    for seed in range(claim.trials):
        scale = torch.logspace(0, -2, shape[0]).double()[:, None]
        left, right = draw((shape[0], rank), seed), draw((rank, shape[1]), seed + 99)
        G = scale * left @ right
        rows = N.Spectral().dualize(G).square().sum(1)
        assert (rows - (G @ torch.linalg.pinv(G)).diagonal()).abs().max() < claim.tol
        assert abs(rows.sum() - rank) < claim.tol
        assert (rows <= 1 + claim.tol).all()
        weakest = torch.linalg.svdvals(G)[rank - 1]
        assert (rows <= (1 + 1e-6) * G.square().sum(1) / weakest**2).all()
        mixed = G @ (draw((shape[1], shape[1]), seed + 7) + 3 * torch.eye(shape[1]))
        moved = N.Spectral().dualize(mixed).square().sum(1)
        assert (moved - rows).abs().max() < 1e3 * claim.tol
        if rank == shape[0]:
            assert (rows - 1).abs().max() < claim.tol


INPUTS = [
    (N.RMSToRMS(), N.RMS()),
    (N.OneToRMS(), N.L1()),
    (2.5 * N.OneToRMS(), N.L1()),
]


@pytest.mark.claim("inputs-ruler", tol=1e-12, trials=300)
@pytest.mark.parametrize(("norm", "measure"), INPUTS, ids=lambda n: repr(n))
@pytest.mark.parametrize("kind", ["dense", "tokens", "any length"])
def test_the_mean_square_of_the_inputs_is_a_sharpness(claim, norm, measure, kind):
    x = draw((30, 6), 1)
    if kind == "tokens":
        x = torch.nn.functional.one_hot(x.argmax(1), 6).double()
    if kind == "dense":
        x = N.RMS().dualize(x)
    factor = 2.5**2 if isinstance(norm, N.Scaled) else 1.0  # a longer ruler
    sharpness = measure.norm(x).square().mean() / factor
    D = draw((claim.trials, 4, 6), 2)
    above = 0.5 * (D @ x.mT).square().mean(-2).mean(-1)
    assert (above <= sharpness / 2 * norm.norm(D).square() * (1 + claim.tol)).all()


@pytest.mark.claim("inputs-ruler", tol=1e-12)
def test_it_is_the_least_for_one_input(claim):
    """With one input the bound is attained by a step of rank one."""
    x = draw((6,), 3)
    for norm, measure in INPUTS[:2]:
        worst = torch.outer(torch.ones(4).double(), _norming(x, measure))
        worst = worst / norm.norm(worst)
        above = (worst @ x).square().mean() / 2
        assert abs(above - measure.norm(x) ** 2 / 2) < claim.tol


def _norming(x, measure):
    """The functional of length one that attains the length of x."""
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(measure.norm(y), y)
    return slope


@pytest.mark.claim("inputs-ruler", trials=200)
@pytest.mark.parametrize(("norm", "measure"), INPUTS[:2], ids=lambda n: repr(n))
def test_every_step_of_that_sharpness_descends(claim, norm, measure):
    x = N.RMS().dualize(draw((50, 6), 5))
    y, W = x @ draw((6, 4), 6) + 0.1 * draw((50, 4), 7), torch.zeros(4, 6).double()
    sharpness, losses, promised = measure.norm(x).square().mean(), [], []
    for _ in range(claim.trials):
        rest = x @ W.mT - y
        losses.append(rest.square().mean() / 2)
        G = rest.mT @ x / y.numel()
        promised.append(norm.dual(G) ** 2 / (2 * sharpness))
        W = W - norm.dual(G) / sharpness * norm.dualize(G)
    falls = torch.stack(losses).diff()
    assert (-falls >= torch.stack(promised)[:-1] - 1e-14).all()


@pytest.mark.claim("low-rank", tol=1e-11, trials=200)
@pytest.mark.parametrize("k", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (3, 7)])
def test_ky_fan_and_its_dual(claim, k, shape):
    G, D = draw((2, claim.trials, *shape), k)
    G[::3] *= torch.tensor(0.1).double() ** torch.arange(shape[1])
    U, s, Vh = torch.linalg.svd(G, full_matrices=False)
    lead, larger = s[:, :k].sum(1), torch.maximum(s[:, 0], s.sum(1) / k)
    fan, low = N.KyFan(k), N.LowRank(k)
    for norm, size, dual in ((fan, lead, larger), (low, larger, lead)):
        assert (norm.norm(G) - size).abs().max() < claim.tol
        assert (norm.dual(G) - dual).abs().max() < claim.tol
        assert (inner(G, D).abs() <= dual * norm.norm(D) * (1 + claim.tol)).all()
        t = norm.dualize(G)
        assert (norm.norm(t) - 1).abs().max() < claim.tol
        assert (inner(G, t) - dual).abs().max() < claim.tol * dual.max()
    step = U[..., :k] @ Vh[:, :k]
    assert (low.dualize(G) - step).abs().max() < claim.tol
    one, flat = U[..., :1] @ Vh[:, :1], U @ Vh / k
    steep = torch.where((s[:, 0] >= s.sum(1) / k)[:, None, None], one, flat)
    assert (fan.dualize(G) - steep).abs().max() < claim.tol


@pytest.mark.claim("dion-power-step", tol=1e-2, trials=100)
def test_dions_power_steps_find_the_leading_directions(claim):
    M, Q, shares, tops = draw((40, 60), 1), draw((60, 8), 2), [], []
    for _ in range(claim.trials):
        P = torch.linalg.qr(M @ Q).Q
        Q = M.T @ P
        Q = Q / Q.norm(dim=0)
        X = P @ Q.T
        tops.append(float(N.Spectral().norm(X)))
        share = inner(M, X) / N.KyFan(8).norm(M)
        shares.append(float(share))
    assert tops[0] > 1.2
    assert abs(shares[-1] - 1) < claim.tol
    assert abs(tops[-1] - 1) < 3 * claim.tol


@pytest.mark.claim("transposed-norms", tol=1e-12)
@pytest.mark.parametrize("p_in", [1, 2, INF])
@pytest.mark.parametrize("p_out", [1, 2, INF])
def test_a_transpose_has_the_norm_of_the_dual_rulers(claim, p_in, p_out):
    W = draw((3, 4), 8)
    assert abs(
        exact(W, p_in, p_out) - exact(W.T, conjugate(p_out), conjugate(p_in))
    ) < claim.tol * exact(W, p_in, p_out)


def exact(W, p_in, p_out):
    """The norm of a small matrix, from extreme points of one ball or the other."""
    if p_in == p_out == 2:
        return torch.linalg.svdvals(W)[0]
    if p_in == 2:  # extreme points of the ball of the outputs' dual
        n = len(W)
        y = corners(n) if p_out == 1 else torch.eye(n).double()
        return lp(y @ W, 2).max()
    x = torch.eye(W.shape[1]).double() if p_in == 1 else corners(W.shape[1])
    return lp(x @ W.T, p_out).max()


@pytest.mark.claim("chain-of-norms", trials=300)
def test_a_product_of_norms_bounds_the_largest_logit(claim):
    table, layer, head = (
        draw((claim.trials, *s), i) for i, s in enumerate(((8, 20), (12, 8), (5, 12)))
    )
    bound = N.OneToRMS().norm(table) * N.RMSToRMS().norm(layer)
    bound = bound * N.RMSToInf().norm(head)
    assert ((head @ layer @ table).abs().amax((1, 2)) <= bound).all()


def test_the_matrix_of_the_slider():
    """All nine stretches, by extreme points; three singular values by hand."""
    W = torch.tensor([[0.9, 0.6], [-0.2, 0.6]], dtype=torch.float64)
    found = [
        [round(float(exact(W, p, q)), 3) for q in (1, 2, INF)] for p in (1, 2, INF)
    ]
    assert found == [[1.2, 0.922, 0.9], [1.389, 1.1, 1.082], [1.9, 1.552, 1.5]]
    assert torch.allclose(N.Nuclear().norm(W), torch.tensor(1.7, dtype=W.dtype))
    assert math.isclose(float(torch.linalg.det(W)), 0.66)


@pytest.fixture(scope="module")
def runs():
    import operator_norms

    found = operator_norms.best(operator_norms.stored())
    assert all(len(rows) == 5 for _, rows in found.values())
    return found, operator_norms.outcomes(found)


def ends(found):
    return {name: mean(r["loss"] for r in rows) for name, (_, rows) in found.items()}


@pytest.mark.claim("spectral-leads-for-hidden-layers")
def test_spectral_steps_end_lowest_in_the_runs(runs):
    found, came = runs
    end = ends(found)
    others = [v for k, v in end.items() if k not in ("spectral", "even")]
    assert round(end["spectral"], 2) == 0.17
    assert round(min(others), 2) == 0.41
    assert len([k for k in came if k.startswith("spectral beats")]) == 6
    assert all(v == "holds" for k, v in came.items() if k.startswith("spectral beats"))
    for name, other in itertools.pairwise(["rank 8", "one a column", "rank 1"]):
        assert end[name] < end[other]


@pytest.mark.claim("rows-beat-columns")
def test_columns_beat_rows_in_the_runs(runs):
    found, came = runs
    end = ends(found)
    assert [v for k, v in came.items() if k.startswith("rows")] == ["is reversed"]
    assert [round(end[k], 2) for k in ("columns", "rows")] == [0.41, 0.46]


@pytest.mark.claim("even-rows-help")
def test_evening_rows_out_is_a_tie_in_the_runs(runs):
    found, came = runs
    end = ends(found)
    slow = [
        round(mean(r["slow"] for r in found[k][1]), 2) for k in ("spectral", "even")
    ]
    assert came["even rows beat spectral"] == "ties"
    assert slow == [0.23, 0.84]
    assert [round(end[k], 3) for k in ("even", "spectral")] == [0.168, 0.171]


def test_no_best_rate_is_at_an_end_of_the_search(runs):
    import operator_norms

    found, _ = runs
    ends_of = operator_norms.RATES[0], operator_norms.RATES[-1]
    assert not [name for name, (lr, _) in found.items() if lr in ends_of]


@pytest.mark.claim("feedback-helps-low-rank")
def test_a_buffer_helps_steps_of_rank_8_and_not_enough(runs):
    found, came = runs
    end = ends(found)
    assert came["feedback beats rank 8"] == came["spectral beats feedback"] == "holds"
    assert [round(end[k], 2) for k in ("feedback", "rank 8")] == [0.44, 0.54]


def test_without_feedback_its_rule_is_that_of_steepest_descent():
    """Averages dualized; only norms of low rank keep a buffer."""
    import operator_norms

    from anthology import optim

    start, runs = draw((6, 4), 9), []
    for make in (operator_norms.Feedback, optim.SteepestDescent):
        w = start.clone().requires_grad_()
        group = {"params": [w], "norm": N.RMSToRMS(), "scale": 1.3}
        options = {} if make is operator_norms.Feedback else {"momentum": 0.9}
        optimizer = make([group], lr=0.1, **options)
        for k in range(20):
            w.grad = draw((6, 4), 20 + k)
            optimizer.step()
        runs.append(w.detach())
    assert (runs[0] - runs[1]).abs().max() < 1e-12


def test_its_buffer_gives_up_a_tenth_of_what_a_step_used():
    import operator_norms

    w, g = torch.zeros(12, 10).double().requires_grad_(), draw((12, 10), 3)
    group = {"params": [w], "norm": N.LowRank(8), "scale": 1.0}
    optimizer = operator_norms.Feedback([group], lr=0.1)
    w.grad = g.clone()
    optimizer.step()
    U, s, Vh = torch.linalg.svd(g, full_matrices=False)
    s[:8] *= 0.9
    assert (optimizer.state[w]["m"] - (U * s) @ Vh).abs().max() < 1e-12
    assert (w.detach() + 0.1 * N.LowRank(8).dualize(g)).abs().max() < 1e-12
