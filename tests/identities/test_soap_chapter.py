"""What the chapter on SOAP states: its basis, its ε, its rank-one fit, the order."""

import itertools

import pytest
import torch
from torch import Tensor

from anthology.linalg import inverse_root, polar
from anthology.norms import Spectral
from anthology.optim import SOAP
from tests.random_steps import moves, relative

F64 = torch.float64
OFF = {"betas": (0.0, 0.0), "weight_decay": 0.0, "basis_eps": 0.0, "skip_first": False}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, dtype=F64)).Q


def seen(grads: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """D and the covariance of all entries."""
    x = grads.flatten(1)
    return (left.mT @ grads @ right).square().mean(0), x.mT @ x / len(x)


def grams(grads: Tensor) -> tuple[Tensor, Tensor]:
    return (grads @ grads.mT).mean(0), (grads.mT @ grads).mean(0)


def eigenbases(grads: Tensor) -> tuple[Tensor, Tensor]:
    left, right = (torch.linalg.eigh(gram)[1] for gram in grams(grads))
    return left, right


def noise(rows: int, columns: int) -> Tensor:
    """Gradients AZK, whose average is the mean over uncorrelated entries of Z."""
    units = torch.eye(rows * columns, dtype=F64).reshape(-1, rows, columns)
    left, right = (
        q * torch.logspace(0, -1.5, len(q), dtype=F64) @ q.mT
        for q in (rotation(rows), rotation(columns))
    )
    return (rows * columns) ** 0.5 * left @ units @ right


@pytest.mark.claim("soap-basis", tol=1e-10, trials=40)
def test_the_diagonal_is_the_nearest_and_its_squares_are_bounded(claim):
    """Random gradients, random rotations: the whole first half of the theorem."""
    for _ in range(claim.trials):
        grads = torch.randn(6, 4, 5, dtype=F64) * torch.randn(6, 1, 1, dtype=F64).exp()
        left, right = rotation(4), rotation(5)
        D, C = seen(grads, left, right)
        turn = torch.kron(left, right)
        turned = turn.mT @ C @ turn
        assert relative(turned.diagonal(), D.flatten()) < claim.tol
        least = C.square().sum() - D.square().sum()
        away = (turned - torch.diag(D.flatten())).square().sum()
        assert abs(away - least) < claim.tol * C.square().sum()
        other = torch.diag(D.flatten() + 0.1 * torch.randn(20, dtype=F64))
        assert (turned - other).square().sum() > away
        for A in (*grams(grads), C):
            assert D.square().sum() <= A.square().sum() * (1 + claim.tol)


@pytest.mark.claim("soap-basis", tol=1e-10, trials=20)
@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 2)])
def test_eigenvectors_attain_the_bound_at_both_ends(claim, shape):
    for _ in range(claim.trials):
        one = torch.randn(1, *shape, dtype=F64)
        D, C = seen(one, *eigenbases(one))
        L, _ = grams(one)
        sigma = torch.linalg.svdvals(one[0])
        assert abs(D.square().sum() / L.square().sum() - 1) < claim.tol
        share = sigma.pow(4).sum() / sigma.square().sum() ** 2
        assert abs(D.square().sum() / C.square().sum() - share) < claim.tol
        many = noise(*shape)
        D, C = seen(many, *eigenbases(many))
        assert abs(D.square().sum() / C.square().sum() - 1) < claim.tol


@pytest.mark.claim("soap-between", tol=1e-2)
def test_sparse_gradients_whose_gram_matrices_hide_the_best_axes(claim):
    e = torch.eye(2, dtype=F64)
    grads = torch.stack([e * e[0], e * e[1], torch.full((2, 2), 0.05, dtype=F64)])
    shares = []
    for bases in ((e, e), eigenbases(grads)):
        D, C = seen(grads, *bases)
        shares.append(float(D.square().sum() / C.square().sum()))
    assert abs(shares[0] - 1) < claim.tol
    assert abs(shares[1] - 0.5) < claim.tol


@pytest.mark.claim("soap-absolute-epsilon", tol=1e-12, trials=100)
def test_epsilon_stands_between_rounding_and_the_smallest_singular_value(claim):
    """The bound for random noise and any ε; it is attained at its two corners."""
    for trial in range(claim.trials):
        rows, columns = ((4, 4), (6, 3), (3, 7))[trial % 3]
        sigma = torch.linspace(1, 0.2, 3, dtype=F64)
        delta, eps = 10.0 ** -(1 + trial % 5), 10.0 ** -(trial % 7)
        ideal = torch.zeros(rows, columns, dtype=F64)
        ideal[range(3), range(3)] = 1
        N = delta * (2 * torch.rand(rows, columns, dtype=F64) - 1)
        N[range(3), range(3)] += sigma
        bound = max(delta / (delta + eps), eps / (0.2 - delta + eps))
        assert (N / (N.abs() + eps) - ideal).abs().max() <= bound + claim.tol
        N[0, 1], N[2, 2] = delta, 0.2 - delta
        assert abs((N / (N.abs() + eps) - ideal).abs().max() - bound) < claim.tol
        signs = N.sign()
        assert Spectral().norm(signs) >= max(rows, columns) ** 0.5 - claim.tol


@pytest.mark.claim("soap-absolute-epsilon", trials=10)
def test_so_does_the_package_in_single_precision(claim):
    for _ in range(claim.trials):
        u, v = (torch.linalg.qr(torch.randn(32, 32)).Q for _ in "uv")
        g = u * torch.linspace(1, 0.5, 32) @ v.mT
        w = torch.zeros(32, 32).requires_grad_()
        wild = SOAP([w], 1.0, eps=1e-30, relative_eps=False, **OFF)
        assert Spectral().norm(moves(wild, w, [g])[0]) > 32**0.5
        tame = SOAP([w], 1.0, eps=1e-3, **OFF)
        assert abs(Spectral().norm(moves(tame, w, [g])[0]) - 1) < 0.01


@pytest.mark.claim("soap-rank-one", tol=1e-9, trials=20)
def test_shampoo_is_the_rank_one_fit(claim):
    for _ in range(claim.trials):
        grads = torch.randn(30, 4, 6, dtype=F64)
        (L, R), (left, right) = grams(grads), eigenbases(grads)
        D, _ = seen(grads, left, right)
        a, b = D.sum(1), D.sum(0)
        assert relative(a, torch.linalg.eigvalsh(L)) < claim.tol
        assert relative(b, torch.linalg.eigvalsh(R)) < claim.tol
        x, y = a.clone(), b.clone()
        x, y = (z * torch.rand_like(z).exp() for z in (x, y))
        x, y = x.requires_grad_(), y.requires_grad_()

        def cost(fit, D=D):
            return (fit - D * fit.log()).sum()

        fit = torch.outer(a, b) / a.sum()
        assert cost(torch.outer(x, y)) > cost(fit)
        # the objective is convex in logarithms, so a flat place is the least
        p, q = a.log().requires_grad_(), (b / a.sum()).log().requires_grad_()
        slopes = torch.autograd.grad(cost((p[:, None] + q).exp()), (p, q))
        assert max(float(s.abs().max()) for s in slopes) < claim.tol * float(a.sum())
        g = grads[0]
        step = left @ (left.mT @ g @ right / fit.sqrt()) @ right.mT
        shampoo = a.sum().sqrt() * inverse_root(L) @ g @ inverse_root(R)
        assert relative(step, shampoo) < claim.tol


@pytest.mark.claim("soap-order", tol=1e-9, trials=20)
def test_the_polar_factor_of_the_step_is_that_of_the_gradient(claim):
    for trial in range(claim.trials):
        for shape in ((5, 5), (4, 7), (7, 3)):
            g = torch.randn(shape, dtype=F64)
            w = torch.zeros(shape, dtype=F64).requires_grad_()
            rule = SOAP([w], 1.0, eps=10.0 ** -(trial % 4), **OFF)
            assert relative(polar(-moves(rule, w, [g])[0]), polar(g)) < claim.tol
        o = polar(torch.randn(5, 5, dtype=F64))
        for gram in grams(o[None]):
            assert relative(gram, torch.eye(5, dtype=F64)) < claim.tol


@pytest.mark.claim("soap-order", trials=100)
def test_the_polar_factor_of_signs_climbs_from_five_rows_on(claim):
    for size in (5, 6):
        signs = torch.randn(claim.trials, size, size, dtype=F64).sign()
        against = signs * polar(signs)
        assert (against.amin((1, 2)) < -0.05).any()
        g = signs * torch.where(against < -0.05, 1000.0, 1.0)
        climbs = (g * polar(g.sign())).sum((1, 2)) < 0
        assert climbs.any()
    # up to four: flipping rows and columns makes the first of each positive
    rest = torch.tensor([*itertools.product((-1.0, 1.0), repeat=9)], dtype=F64)
    signs = torch.ones(512, 4, 4, dtype=F64)
    signs[:, 1:, 1:] = rest.reshape(512, 3, 3)
    assert (signs * polar(signs)).min() > -1e-12
