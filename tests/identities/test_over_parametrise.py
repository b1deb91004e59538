"""The statements of the chapter shelf/over-parametrise."""

from collections.abc import Callable
from itertools import pairwise

import cvxpy
import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import lars_path
from torch import Tensor
from torch.autograd.functional import hessian

from anthology import lab, motion
from anthology.norms import Spectral


def problem(rows: int = 12, columns: int = 20) -> tuple[Tensor, Tensor]:
    A = torch.randn(rows, columns, dtype=torch.float64)
    return A, torch.randn(rows, dtype=torch.float64)


def diabetes() -> tuple[Tensor, Tensor]:
    """Ten columns and a target of length one."""
    A, y = (torch.tensor(x) for x in load_diabetes(return_X_y=True))
    y = (y - y.mean()) / (y - y.mean()).norm()
    return A, y


def path(A: Tensor, y: Tensor) -> Callable[[float], Tensor]:
    """The exact Lasso at any decay."""
    knots, _, corners = lars_path(A.numpy(), y.numpy(), method="lasso")
    knots = len(y) * knots[::-1]
    return lambda k: torch.tensor([np.interp(k, knots, w[::-1]) for w in corners])


def full(w: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    """L of both factors, one after the other."""
    a, b = w.chunk(2)
    return ((A @ (a * b) - y).square().sum() + decay * w @ w) / 2


def best_a(b: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    X = A * b
    ridge = X.T @ X + decay * torch.eye(len(b), dtype=b.dtype)
    return torch.linalg.solve(ridge, X.T @ y)


def reduced(b: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    """J, from the chapter's formula."""
    rest = y - A @ (best_a(b, A, y, decay) * b)
    return decay / 2 * b @ b + y @ rest / 2


def slope(b: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    g = A.T @ (A @ (best_a(b, A, y, decay) * b) - y)
    return b * (decay - g * g / decay)


def lbfgs(f: Callable[[Tensor], Tensor], start: Tensor) -> tuple[Tensor, int]:
    """Where L-BFGS ends, and after how many iterations."""
    b = torch.nn.Parameter(start.clone())
    rule = torch.optim.LBFGS(
        [b],
        max_iter=1000,
        max_eval=2000,
        tolerance_grad=1e-11,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value = f(b)
        (b.grad,) = torch.autograd.grad(value, b)
        return value.detach()

    rule.step(closure)
    return b.detach(), rule.state[b]["n_iter"]


def solved(start: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    """w, from b found by L-BFGS."""
    b, _ = lbfgs(lambda b: reduced(b, A, y, decay), start)
    return best_a(b, A, y, decay) * b


def lasso(w: Tensor, A: Tensor, y: Tensor, decay: float) -> Tensor:
    return (A @ w - y).square().sum() / 2 + decay * w.abs().sum()


@pytest.mark.claim("decay-is-lasso", tol=1e-12, trials=100)
def test_no_factors_are_cheaper_than_those_of_one_size(claim):
    for _ in range(claim.trials):
        w, z = torch.randn(2, 8, dtype=torch.float64)
        a = w.abs().sqrt()
        even = (a.square().sum() + (w / a).square().sum()) / 2
        assert abs(float(even - w.abs().sum())) < claim.tol * float(even)
        a = a * z.exp()
        assert (a.square().sum() + (w / a).square().sum()) / 2 > w.abs().sum()


@pytest.mark.claim("decay-is-lasso", "poon-solver", tol=1e-6, trials=5)
def test_l_bfgs_reaches_the_value_of_a_convex_solver(claim):
    for _ in range(claim.trials):
        A, y = problem()
        x = cvxpy.Variable(20)
        cost = 0.5 * cvxpy.sum_squares(A.numpy() @ x - y.numpy()) + cvxpy.norm1(x)
        best = cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
        start = torch.rand(20, dtype=torch.float64) + 0.1
        both, _ = lbfgs(
            lambda w, A=A, y=y: full(w, A, y, 1.0), torch.cat([start, start + 0.1])
        )
        for w in (solved(start, A, y, 1.0), torch.mul(*both.chunk(2))):
            assert abs(float(lasso(w, A, y, 1.0)) - best) < claim.tol * best


@pytest.mark.claim("decay-is-lasso", tol=1e-10, trials=20)
def test_the_reduced_loss_and_its_slope(claim):
    for _ in range(claim.trials):
        A, y = problem()
        b = torch.randn(20, dtype=torch.float64, requires_grad=True)
        a = best_a(b, A, y, 0.7)
        value = full(torch.cat([a, b]), A, y, 0.7)
        assert lab.gap(reduced(b, A, y, 0.7), value) < claim.tol
        (auto,) = torch.autograd.grad(reduced(b, A, y, 0.7), b)
        assert lab.gap(slope(b, A, y, 0.7), auto) < claim.tol


@pytest.mark.claim("decay-is-lasso", tol=1e-5, trials=20)
def test_the_way_out_of_a_wrong_rest(claim):
    """Stationary points are those of a part of the columns, the others at zero."""
    seen = 0
    for _ in range(claim.trials):
        A, y = problem(12, 6)
        start = 0.5 * (torch.arange(6) < 3).double()
        b, _ = lbfgs(lambda b, A=A, y=y: reduced(b, A, y, 1.0), start)
        w = torch.cat([best_a(b, A, y, 1.0), b])
        g = A.T @ (A @ (w[:6] * b) - y)
        i = 3 + int(g[3:].abs().argmax())
        assert w[i] == w[6 + i] == 0
        s, out = 1e-3, torch.zeros(12).double()
        out[i], out[6 + i] = s, -s * g[i].sign()
        fall = (full(w, A, y, 1.0) - full(w + out, A, y, 1.0)) / s**2
        # the rest of a square loss is s²‖A_i‖²/2
        exact = g[i].abs() - 1 - s**2 * A[:, i].square().sum() / 2
        assert abs(float(fall - exact)) < claim.tol
        seen += bool(g[i].abs() > 1)
    assert seen > 10


@pytest.mark.claim("poon-solver", tol=1e-4, trials=25)
def test_the_whole_path_of_the_diabetes_data(claim):
    A, y = diabetes()
    exact, start = path(A, y), torch.full((10,), 0.3, dtype=torch.float64)
    for k in range(claim.trials):
        decay = 0.58 * 0.8**k
        w = solved(start, A, y, decay)
        assert lab.gap(w, exact(decay)) < claim.tol
        # the path itself, by the conditions of the convex problem
        w, off = exact(decay), A.T @ (A @ exact(decay) - y)
        assert lab.gap(off[w != 0], -decay * w[w != 0].sign()) < 1e-9
        assert off.abs().max() < decay * (1 + 1e-9)


@pytest.mark.claim("poon-solver", tol=1e-5, trials=3)
def test_one_common_factor_is_the_group_lasso(claim):
    for _ in range(claim.trials):
        A, y = problem(15, 12)
        group = torch.arange(12) // 3

        def loss(b, A=A, y=y, group=group):
            wide = b[group]
            return reduced(wide, A, y, 1.5) + 0.75 * (b @ b - wide @ wide)

        b, _ = lbfgs(loss, torch.rand(4, dtype=torch.float64) + 0.3)
        w = best_a(b[group], A, y, 1.5) * b[group]
        x = cvxpy.Variable(12)
        sizes = sum(cvxpy.norm2(x[3 * i : 3 * i + 3]) for i in range(4))
        cost = 0.5 * cvxpy.sum_squares(A.numpy() @ x - y.numpy()) + 1.5 * sizes
        best = cvxpy.Problem(cvxpy.Minimize(cost)).solve(solver="CLARABEL")
        ours = (A @ w - y).square().sum() / 2
        ours = float(ours + 1.5 * w.view(4, 3).norm(dim=1).sum())
        assert abs(ours - best) < claim.tol * best


@pytest.mark.claim("decay-varpro", "poon-varpro", trials=4)
def test_eliminating_conditions_better(claim):
    A, y = diabetes()
    exact, seen = path(A, y), {}
    for decay in (0.4, 0.1, 0.02, 0.002)[: claim.trials]:
        w = exact(decay)
        b = w.abs().sqrt()
        both = torch.cat([w.sign() * b, b])
        ends = []
        for f, at in ((full, both), (reduced, b)):
            there = hessian(lambda x, f=f, k=decay: f(x, A, y, k), at)
            ends.append(torch.linalg.eigvalsh(there))
        large, small = ends
        assert large[0] > 0 and small[0] >= large[0] * (1 - 1e-9)
        assert small[-1] <= large[-1] * (1 + 1e-9)
        seen[decay] = [float(x[-1] / x[0]) for x in ends]
    assert [round(x) for x in seen[0.1]] == [55, 11]
    assert [round(x) for x in seen[0.002]] == [758, 3]


@pytest.mark.claim("poon-varpro", trials=1)
def test_eliminating_saves_iterations(claim):
    A, y = diabetes()
    b = torch.full((10,), 0.3, dtype=torch.float64)
    few = lbfgs(lambda b: reduced(b, A, y, 0.002), b)[1]
    many = lbfgs(lambda w: full(w, A, y, 0.002), torch.cat([1.1 * b, b]))[1]
    assert few < many / 4


@pytest.mark.claim("poon-solver", trials=1)
def test_zero_is_a_trap(claim):
    A, y = diabetes()
    exact, b = path(A, y), torch.full((10,), 0.3, dtype=torch.float64)
    b[2] = 0.0
    w = solved(b, A, y, 0.1)
    pull = (A.T @ (A @ w - y))[2].abs()
    assert w[2] == 0 and round(float(pull), 3) == 0.312
    assert round(float(lasso(w, A, y, 0.1)), 3) == 0.370
    assert round(float(lasso(exact(0.1), A, y, 0.1)), 3) == 0.337
    # and near zero a factor of a hundred takes 13 steps of 0.5
    steps = []
    for power in (4, 6, 8, 10):
        b, n = torch.full((10,), 0.3, dtype=torch.float64), 0
        b[2] = 10.0**-power
        while b[2] < 0.1:
            b, n = b - 0.5 * slope(b, A, y, 0.1), n + 1
        steps.append(n)
    assert [y - x for x, y in pairwise(steps)] == [13, 13, 13]


@pytest.mark.claim("poon-solver", trials=1)
def test_warm_starts_work_upward_only(claim):
    A, y = diabetes()
    exact, decays = path(A, y), (0.55, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
    off = {}
    for name, order in (("down", decays), ("up", decays[::-1])):
        b, off[name] = torch.full((10,), 0.3, dtype=torch.float64), []
        for k in order:
            b, _ = lbfgs(lambda b, k=k: reduced(b, A, y, k), b)
            off[name].append(lab.gap(best_a(b, A, y, k) * b, exact(k)))
    assert max(off["up"]) < 1e-5 and max(off["down"]) > 1e-3


@pytest.mark.claim("decay-three-factors", trials=1)
def test_three_factors_make_zero_a_minimum(claim):
    """The charge is 3/2 |w|^(2/3), and a start at 0.15 dies."""
    w = torch.rand(50, dtype=torch.float64)
    size = w ** (1 / 3)
    assert lab.gap(1.5 * size**2, 1.5 * w ** (2 / 3)) < 1e-12
    ends = []
    for start in (0.15, 0.4):
        t = torch.tensor([start, start + 0.01, start - 0.01]).double()
        for _ in range(1000):
            rest = t.prod() - 1
            t = t - 0.1 * (rest * t.prod() / t + 0.2 * t)
            t = torch.where(t.abs() < 1e-100, 1e-100, t)
        ends.append(float(0.5 * (t.prod() - 1) ** 2 + 0.1 * t @ t))
    assert [round(x, 2) for x in ends] == [0.5, 0.28]


@pytest.mark.claim("decay-nuclear", tol=1e-10, trials=50)
def test_two_layers_pay_the_sum_of_singular_values(claim):
    for _ in range(claim.trials):
        U = torch.randn(5, 3, dtype=torch.float64)
        W = U @ torch.randn(3, 6, dtype=torch.float64)
        left, sigma, right = torch.linalg.svd(W, full_matrices=False)
        price = float(Spectral().dual(W))
        W1, W2 = sigma.sqrt()[:, None] * right, left * sigma.sqrt()
        even = float(W1.square().sum() + W2.square().sum()) / 2
        assert abs(even - price) < claim.tol * price
        turn = torch.eye(5).double() + 0.3 * torch.randn(5, 5, dtype=torch.float64)
        W1, W2 = torch.linalg.solve(turn, W1), W2 @ turn
        assert lab.gap(W2 @ W1, W) < 1e-8
        assert (W1.square().sum() + W2.square().sum()) / 2 > price


@pytest.mark.claim("decay-nuclear", tol=1e-8, trials=3)
def test_decay_thresholds_singular_values(claim):
    for seed in range(claim.trials):
        net = lab.problems.two_matrices(seed=seed)
        p = [torch.nn.Parameter(W.clone()) for W in net.start]
        rule = torch.optim.SGD(p, lr=0.05, weight_decay=0.3)
        for _ in range(6000):
            p[0].grad, p[1].grad = net.gradient(*[W.detach() for W in p])
            rule.step()
        U, S, V = torch.linalg.svd(net.target, full_matrices=False)
        W = (p[1] @ p[0]).detach()
        assert lab.gap(W, U * (S - 0.3).clamp(0) @ V) < claim.tol


@pytest.mark.claim("decay-mirror", "poon-mirror", tol=1e-8, trials=5)
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_the_flow_of_two_factors(claim, decay):
    for _ in range(claim.trials):
        A, y = problem(5, 4)
        start = torch.randn(8, dtype=torch.float64)

        def gradient(w, A=A, y=y):
            return A.T @ (A @ w - y)

        def both(w, gradient=gradient):
            a, b = w.chunk(2)
            g = gradient(a * b)
            return -torch.cat([b * g, a * g]) - decay * w

        def alone(z, gradient=gradient):
            w, d = z.chunk(2)
            g = gradient(w)
            fast = (4 * w * w + d * d).sqrt()
            return torch.cat([-fast * g - 2 * decay * w, -2 * decay * d])

        def mirror(z, gradient=gradient, balance=None):
            w = balance * torch.sinh(2 * z) / 2
            return -gradient(w)

        a, b = start.chunk(2)
        ends = motion.flow(both, start, 1.0)
        w, d = torch.mul(*ends.chunk(2)), ends[:4] ** 2 - ends[4:] ** 2
        told = motion.flow(alone, torch.cat([a * b, a * a - b * b]), 1.0)
        assert lab.gap(torch.cat([w, d]), told) < claim.tol
        if decay == 0:
            balance = (a * a - b * b).abs()
            z = torch.asinh(2 * a * b / balance) / 2
            z = motion.flow(lambda z, k=balance, m=mirror: m(z, balance=k), z, 1.0)
            assert lab.gap(w, balance * torch.sinh(2 * z) / 2) < 1e-6


def end_of(rule: type[torch.optim.Optimizer], lr: float, steps: int) -> Tensor:
    A, y = diabetes()
    start = torch.full((10,), 0.3, dtype=torch.float64)
    p = torch.nn.Parameter(torch.cat([start, start + 0.01]))
    made = rule([p], lr=lr, weight_decay=0.1)
    normal, right = A.T @ A, A.T @ y
    for _ in range(steps):
        a, b = p.detach().chunk(2)
        g = normal @ (a * b) - right
        p.grad = torch.cat([b * g, a * g])
        made.step()
    return torch.mul(*p.detach().chunk(2))


@pytest.mark.claim("decay-adamw", tol=0.03, trials=1)
def test_whose_decay_is_the_lasso(claim):
    A, y = diabetes()
    for rule, lr in ((torch.optim.SGD, 0.2), (torch.optim.Adam, 0.01)):
        assert lab.gap(end_of(rule, lr, 4000), path(A, y)(0.1)) < 1e-4
    least = torch.linalg.lstsq(A, y[:, None]).solution[:, 0]
    w = end_of(torch.optim.AdamW, 0.01, 5000)
    assert lab.gap(w, least) < claim.tol and w.abs().min() > 1e-3


@pytest.mark.claim("decay-adamw", tol=0.01, trials=200)
@pytest.mark.parametrize("decay", [0.075, 0.3])
def test_adamw_in_noise_charges_another_power(claim, decay):
    """½(ab − 1)², noise of deviation 4 on its slope in ab."""
    p = torch.full((2, claim.trials), 0.7, dtype=torch.float64).requires_grad_()
    rule = torch.optim.AdamW([p], lr=1e-3, weight_decay=decay)
    noise, products = torch.Generator().manual_seed(0), []
    for k in range(16_000):
        a, b = p.detach()
        drawn = torch.randn(claim.trials, generator=noise, dtype=torch.float64)
        g = a * b - 1 + 4 * drawn
        p.grad = torch.stack([b * g, a * g])
        rule.step()
        if k >= 8000:
            products.append((a * b).mean())
    charged = 4 * decay  # 1 − w = κγ√w
    root = (-charged + (charged**2 + 4) ** 0.5) / 2
    assert abs(float(torch.stack(products).mean()) - root**2) < claim.tol
    assert root**2 < 1 - decay - 0.1  # the Lasso's is far away
