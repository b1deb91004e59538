"""The claims of the chapter on root-free methods, each by running the package."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from anthology.optim import RootFreeAdamW, RootFreeRMSProp

NO_EPS = 1e-300  # far below any S here, so that eps plays no part
TINY = 1e-200  # its square is zero; it is not, so the package takes the step


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def spread(*shape: int) -> Tensor:
    """Positive numbers over several decades."""
    return (2 * randn(*shape)).exp()


def steps_of(
    history: Tensor,
    start: Tensor | float = 1.0,
    weights: Tensor | None = None,
    **options,
) -> Tensor:
    """The package's steps, with the sign turned, on a history (time, weights).

    Each is taken from zero, or else from the weights given.
    """
    w = torch.nn.Parameter(torch.zeros_like(history[0]))
    settings = {"alpha": 0.9, "momentum": 0.0, "eps": NO_EPS, "batch_size": 1}
    optimizer = RootFreeRMSProp([w], **({"lr": 1.0} | settings | options))
    w.grad = torch.zeros_like(w)
    optimizer.step()  # makes the state, and moves nothing
    state = optimizer.state[w]["exp_avg_sq"]
    state.copy_(torch.as_tensor(start, dtype=torch.float64))
    steps = []
    for g, at in zip(
        history,
        torch.zeros_like(history) if weights is None else weights,
        strict=True,
    ):
        with torch.no_grad():
            w.copy_(at)  # zero: the step is read off without cancellation
        w.grad = g.clone()
        optimizer.step()
        steps.append(at - w.detach())
    return torch.stack(steps)


def powers(history: Tensor, p: float, start: Tensor | float = 1.0) -> Tensor:
    """The same rule with S to the power p, written out."""
    s, out = torch.as_tensor(start, dtype=torch.float64), []
    for g in history:
        s = 0.9 * s + 0.1 * g**2
        out.append(g / s**p)
    return torch.stack(out)


@pytest.mark.claim("root-exponent", tol=1e-12, trials=30)
@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_what_an_exponent_does_to_units(claim, p):
    for _ in range(claim.trials):
        history, c, d = randn(20, 6), spread(1), spread(6)
        base = powers(history, p)
        loss = powers(c * history, p, start=c**2)
        weights = d * powers(d * history, p, start=d**2)
        assert float((loss / (c ** (1 - 2 * p) * base) - 1).abs().max()) < claim.tol
        gap = (weights / (d ** (2 - 2 * p) * base) - 1).abs().max()
        assert float(gap) < claim.tol


@pytest.mark.claim("root-exponent", tol=1e-12, trials=50)
def test_the_package_is_blind_to_the_units_of_the_weights(claim):
    for _ in range(claim.trials):
        history, c, d = randn(20, 6), spread(1), spread(6)
        base = steps_of(history)
        assert float((base / powers(history, 1.0) - 1).abs().max()) < claim.tol
        moved = d * steps_of(d * history, start=d**2)
        assert float((moved / base - 1).abs().max()) < claim.tol
        scaled = steps_of(c * history, start=c**2)
        assert float((c * scaled / base - 1).abs().max()) < claim.tol


def decayed_path(
    target: Tensor, units: Tensor | float, c: float, kappa: float
) -> Tensor:
    """w after 20 steps with momentum on c·½‖w − target‖², taken in z = w/units.

    S₀, ε and the rate go with the units; κ is what is given.
    """
    units = torch.as_tensor(units, dtype=torch.float64).expand(4)
    z = torch.nn.Parameter(1 / units)
    opt = RootFreeRMSProp([z], 0.01 * c, eps=NO_EPS, weight_decay=kappa, batch_size=1)
    z.grad = torch.zeros_like(z)
    opt.step()  # makes the state
    opt.state[z]["exp_avg_sq"].copy_((c * units) ** 2)
    for _ in range(20):
        z.grad = (c * units * (units * z - target)).detach()
        opt.step()
    return (units * z).detach()


@pytest.mark.claim("root-exponent", tol=1e-11, trials=30)
def test_momentum_and_decay_respect_the_units_of_the_weights(claim):
    for _ in range(claim.trials):
        target = randn(4)
        base = decayed_path(target, 1.0, 1.0, 0.1)
        moved = decayed_path(target, spread(4), 1.0, 0.1)
        assert float((base - moved).abs().max()) < claim.tol


@pytest.mark.claim("root-exponent", tol=1e-11, trials=30)
@pytest.mark.parametrize("c", [1 / math.log(2), 3.0, 100.0])
def test_decay_sees_the_unit_of_the_loss(claim, c):
    for _ in range(claim.trials):
        target = randn(4)
        plain, decayed = (decayed_path(target, 1.0, 1.0, k) for k in (0.0, 0.1))
        without = decayed_path(target, 1.0, c, 0.0)  # momentum alone: no harm
        assert float((plain - without).abs().max()) < claim.tol
        kept = decayed_path(target, 1.0, c, 0.1)
        assert float((decayed - kept).abs().max()) > 1e-3
        scaled = decayed_path(target, 1.0, c, 0.1 / c)
        assert float((decayed - scaled).abs().max()) < claim.tol


@pytest.mark.claim("root-exponent", tol=1e-12, trials=50)
@pytest.mark.parametrize(("p", "steps"), [(0.0, 69078), (0.5, 691), (1.0, 1)])
def test_the_condition_number_to_the_power_one_minus_p(claim, p, steps):
    h = torch.tensor([1e-4, 1.0], dtype=torch.float64)
    effective = h ** (1 - p)
    eta = 2 / effective.sum()
    for _ in range(claim.trials):
        w = randn(2)
        once = w - eta * (h * w) / h**p
        assert float((once - (1 - eta * effective) * w).abs().max()) < claim.tol
    shrink = (1 - eta * effective).abs()
    assert float((shrink**steps).max()) <= 1e-6
    assert steps == 1 or float((shrink ** (steps - 1)).max()) > 1e-6


def power(s: Tensor, p: float) -> Tensor:
    values, q = torch.linalg.eigh(s)
    return q @ (values**p).diag() @ q.T


def matrix_path(a: Tensor, p: float, x: Tensor, y: Tensor) -> Tensor:
    """Least squares in coordinates z with w = A z + 1, S a whole matrix."""
    z, s, path = torch.zeros(a.shape[0], dtype=torch.float64), a.T @ a, []
    for inputs, targets in zip(x, y, strict=True):
        w, n = a @ z + 1, len(targets)
        g = a.T @ (inputs.T @ (inputs @ w - targets)) / n
        s = 0.9 * s + 0.1 * n * torch.outer(g, g)
        z = z - 0.05 * power(s, -p) @ g
        path.append(a @ z + 1)
    return torch.stack(path)


@pytest.mark.claim("root-free-affine", tol=1e-9, trials=20)
def test_a_full_matrix_without_root_is_affine_invariant(claim):
    eye = torch.eye(4, dtype=torch.float64)
    for _ in range(claim.trials):
        x, noise = randn(60, 8, 4), randn(60, 8)
        y = x.sum(-1) + noise
        u, v = (torch.linalg.qr(randn(4, 4))[0] for _ in range(2))
        a = u @ torch.logspace(-1, 1, 4, dtype=torch.float64).diag() @ v
        same = matrix_path(a, 1.0, x, y) - matrix_path(eye, 1.0, x, y)
        assert float(same.abs().max()) < claim.tol
        other = matrix_path(a, 0.5, x, y) - matrix_path(eye, 0.5, x, y)
        assert float(other.abs().max()) > 0.1
        turned = matrix_path(u, 0.5, x, y) - matrix_path(eye, 0.5, x, y)
        assert float(turned.abs().max()) < claim.tol


@pytest.mark.claim("root-free-affine", tol=1e-10, trials=100)
def test_only_orthogonal_coordinates_suit_the_root(claim):
    for _ in range(claim.trials):
        a, g = randn(4, 4), randn(4)
        wanted = torch.linalg.inv(a @ a.T)  # S, made of S₀ and a small multiple of g
        t = 0.5 / torch.sqrt(0.1 * g @ a @ a.T @ g)
        start = (wanted - 0.1 * t**2 * torch.outer(g, g)) / 0.9
        assert float(torch.linalg.eigvalsh(start)[0]) > 0
        seen = a @ power(a.T @ wanted @ a, -0.5) @ a.T @ g
        step = power(wanted, -0.5) @ g
        scale = float(step.norm())
        assert float((seen - a @ a.T @ g).norm()) / scale < claim.tol * 1e3
        p = a @ a.T
        if float((p - torch.eye(4)).abs().max()) > 0.1:
            moved = a @ power(a.T @ wanted @ a, -0.5) @ a.T - power(wanted, -0.5)
            assert float(moved.abs().max()) > 1e-3


@pytest.mark.claim("scaled-outer-product", tol=1e-12, trials=50)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_expectation_of_the_scaled_outer_product(claim, size):
    draws = torch.tensor(list(itertools.product(range(4), repeat=size)))
    for _ in range(claim.trials):
        terms = randn(4, 3) + randn(3)
        g = terms[draws].mean(1)
        mu, covariance = terms.mean(0), terms.T.cov(correction=0)
        mean = size * g.T @ g / len(g)  # over every batch there is: no sampling
        gap = mean - covariance - size * torch.outer(mu, mu)
        assert float(gap.abs().max()) < claim.tol


@pytest.mark.claim("scaled-outer-product", tol=1e-12, trials=20)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_with_the_models_own_labels_it_is_the_fisher_information(claim, size):
    for _ in range(claim.trials):
        probability = torch.softmax(randn(3), 0)
        terms = probability - torch.eye(3, dtype=torch.float64)  # label by label
        labels = torch.tensor(list(itertools.product(range(3), repeat=size)))
        chance = probability[labels].prod(1)
        g = terms[labels].mean(1)
        mean = size * (g.T * chance) @ g
        hessian = probability.diag() - torch.outer(probability, probability)
        assert float((mean - hessian).abs().max()) < claim.tol


@pytest.mark.claim("mean-and-sum", tol=1e-12, trials=50)
def test_mean_with_factor_b_is_the_sum_without(claim):
    for _ in range(claim.trials):
        b, eps = int(torch.randint(2, 200, ())), float(spread(1)) * 1e-3
        history = randn(20, 5)
        mean = steps_of(history, eps=eps, batch_size=b)
        total = steps_of(b * history, start=float(b), eps=b * eps)
        assert float((total / mean - 1).abs().max()) < claim.tol
        plain = steps_of(history, start=1 / b, eps=eps / b) / b
        assert float((plain / mean - 1).abs().max()) < claim.tol


@pytest.mark.claim("longest-root-free-step", tol=1e-12, trials=20)
def test_no_step_is_longer_than_the_bound(claim):
    k = torch.arange(1, 101, dtype=torch.float64)[:, None]
    for _ in range(claim.trials):
        b, eps, alpha = int(torch.randint(1, 500, ())), 1e-4, 0.97
        size = (1 - alpha) * b
        bound = 0.5 / ((alpha**k + eps) * size).sqrt()
        history = randn(100, 20) * (5 * randn(20)).exp()
        taken = steps_of(history, alpha=alpha, eps=eps, batch_size=b).abs()
        assert float((taken / bound).max()) <= 1 + claim.tol
        last = torch.full((100, 1), TINY, dtype=torch.float64)
        last[-1] = ((alpha**100 + eps) / size) ** 0.5
        longest = steps_of(last, alpha=alpha, eps=eps, batch_size=b)[-1]
        assert abs(float(longest / bound[-1]) - 1) < claim.tol
        first = steps_of(history[:1], start=0.0, alpha=alpha, batch_size=b, lr=0.3)
        assert float((first * size * history[:1] / 0.3 - 1).abs().max()) < claim.tol


@pytest.mark.claim("longest-root-free-step", tol=1e-12, trials=20)
def test_momentum_and_decay_lengthen_the_bound(claim):
    k, (alpha, eps, lr) = torch.arange(1, 61)[:, None], (0.9, 1e-4, 0.1)
    for _ in range(claim.trials):
        mu, kappa = float(torch.rand(())), float(spread(1))
        settings = {"momentum": mu, "weight_decay": kappa, "eps": eps, "lr": lr}
        history, weights = randn(60, 8) * (5 * randn(8)).exp(), randn(60, 8)
        taken = steps_of(history, weights=weights, alpha=alpha, **settings).abs()
        alone = 0.5 / ((alpha**k + eps) * (1 - alpha)).sqrt()
        bound = lr / (1 - mu) * (alone + kappa * weights.abs().cummax(0).values)
        assert float((taken / bound).max()) <= 1 + claim.tol


@pytest.mark.claim("longest-root-free-step", tol=1e-9, trials=1)
def test_two_steps_with_momentum_pass_the_bound_of_one(claim):
    alpha, eps, s, history = 0.99, 1e-4, 0.0, []
    for _ in range(2):  # each the gradient with the longest step from this S
        g = math.sqrt((alpha * s + eps) / (1 - alpha))
        s = alpha * s + (1 - alpha) * g**2
        history.append([g])
    alone, both = steps_of(
        torch.tensor(history, dtype=torch.float64),
        start=0.0,
        alpha=alpha,
        eps=eps,
        momentum=0.8,
    )
    assert abs(float(alone) - 500) < 500 * claim.tol  # 1/(2 sqrt(ε (1 − α)))
    assert 754 < float(both) < 755 < 500 / (1 - 0.8)


@pytest.mark.claim("longest-root-free-step", tol=1e-12, trials=100)
def test_a_root_based_step_is_bounded_by_its_average_alone(claim):
    for _ in range(claim.trials):
        history = randn(30, 10) * (5 * randn(10)).exp()
        steps = powers(history, 0.5, start=0.0).abs()
        assert float(steps.max()) <= (1 + claim.tol) / math.sqrt(0.1)
        assert abs(float(steps[0].max()) - 1 / math.sqrt(0.1)) < claim.tol * 10


@pytest.mark.claim("root-free-parity", tol=1e-12, trials=100)
@pytest.mark.parametrize("adam", [False, True])
def test_both_are_the_authors_published_updates(claim, adam):
    n, lr, a, b, eps, decay = 16, 0.02, 0.95, 0.8, 1e-4, 0.1
    settings = {"lr": lr, "eps": eps, "weight_decay": decay, "batch_size": n}
    w = torch.nn.Parameter(randn(6, 4))
    if adam:
        optimizer = RootFreeAdamW([w], betas=(b, a), **settings)
    else:
        optimizer = RootFreeRMSProp([w], alpha=a, momentum=b, **settings)
    theirs, m = w.detach().clone(), torch.zeros_like(w)
    s = torch.full_like(w, 1 / n)
    for _ in range(claim.trials):
        x = randn(n, 4)
        w.grad = (w.detach() @ x.T @ x) / n
        optimizer.step()
        g = (theirs @ x.T @ x) / n
        s = a * s + (1 - a) * g**2
        if adam:
            theirs, m = theirs * (1 - lr * decay), b * m + (1 - b) * g
            theirs = theirs - lr * m / (n * s + eps)
        else:
            m = b * m + g / (n * s + eps) + decay * theirs
            theirs = theirs - lr * m
        assert float((w.detach() - theirs).abs().max()) < claim.tol
