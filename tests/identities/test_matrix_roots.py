"""Roots by products: their exact errors, those of their derivatives, and KrADagrad."""

import json
import math
import sys
from itertools import pairwise
from statistics import mean, median

import pytest
import torch
from torch import Tensor

from anthology.linalg import inverse_root, lyapunov, square_root
from anthology.linalg.roots import pade, taylor
from anthology.optim import KrADagrad
from tools import address

sys.path.append(str(address.ROOT / "experiments"))

import matrix_roots

KEPT = json.loads(matrix_roots.PATH.read_text())
RUNS = KEPT["runs"]
DOUBLE = torch.float64
TIMES = {
    tuple(map(int, key.split("/")[1:])): row
    for key, row in RUNS.items()
    if key.startswith("times/")
}


def cubic(x: Tensor, times: int) -> Tensor:
    """(3x − x³)/2, so many times."""
    for _ in range(times):
        x = (3 * x - x**3) / 2
    return x


def turned(values: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix with these eigenvalues, and its eigenvectors."""
    n = len(values)
    Q = torch.linalg.qr(torch.randn(n, n, dtype=DOUBLE)).Q
    return (Q * values) @ Q.mT, Q


@pytest.mark.claim("root-errors", tol=1e-9, trials=5)
@pytest.mark.parametrize("degree", [1, 3, 5])
def test_the_error_of_a_root_is_known_before(claim, degree: int) -> None:
    """Of matrices, by the package; scaled by the Frobenius norm, as MPA and MTP are.

    Rounding costs Padé 4^m/(2m+1) times n·eps at most: 1e-12 at degree 5.
    """
    j = torch.arange(1, 40001, dtype=DOUBLE)
    series = ((j - 1.5).abs() / j).cumprod(0)
    for _ in range(claim.trials):
        values = torch.logspace(-2, 0, 8, dtype=DOUBLE)
        A, Q = turned(values)
        u = values / values.norm()
        rho = (1 - u.sqrt()) / (1 + u.sqrt())
        power = rho ** (2 * degree + 1)
        tail = ((1 - u)[:, None] ** j * series)[:, degree:].sum(1)
        stated = {
            "mpa": (1 + power) / (1 - power),
            "mtp": 1 + tail / u.sqrt(),
        }
        for method, factor in stated.items():
            root = square_root(A, method, degree=degree)
            assert (
                (Q.mT @ root @ Q).diagonal() / values.sqrt() - factor
            ).abs().max() < (claim.tol)
            root = square_root(A, method, inverse=True, degree=degree)
            found = (Q.mT @ root @ Q).diagonal() * values.sqrt()
            assert (found - 1 / factor).abs().max() < claim.tol
            assert (factor.diff() <= 0).all()
        root = matrix_roots.by_newton_schulz(A, -0.5, degree)
        found = (Q.mT @ root @ Q).diagonal() * values.sqrt()
        assert (found - cubic(u.sqrt(), degree)).abs().max() < claim.tol
        root = matrix_roots.by_newton_schulz(A, 0.5, degree)
        found = (Q.mT @ root @ Q).diagonal() / values.sqrt()
        assert (found - cubic(u.sqrt(), degree)).abs().max() < claim.tol


def test_the_degrees_grow_like_the_condition_its_root_and_its_logarithm() -> None:
    """The limits in the proof, for K = χ and N = √χ."""
    limit = (math.exp(-1) - math.sqrt(math.pi) * math.erfc(1)) / math.sqrt(math.pi)
    for chi, tol in ((1e3, 1e-2), (1e5, 1e-4)):
        u = torch.tensor(1 / chi, dtype=DOUBLE)
        j = torch.arange(1, int(60 * chi), dtype=DOUBLE)
        series = ((j - 1.5).abs() / j).cumprod(0) * (1 - u) ** j
        assert float(series[int(chi) :].sum() / u.sqrt()) == pytest.approx(
            limit, rel=10 * tol
        )
        power = ((1 - u.sqrt()) / (1 + u.sqrt())) ** math.sqrt(chi)
        assert float(2 * power / (1 - power)) == pytest.approx(
            2 / (math.exp(2) - 1), rel=tol
        )
    steps = []
    for chi in (1e2, 1e4, 1e6, 1e8):
        x, k = torch.tensor(chi**-0.5, dtype=DOUBLE), 0
        while x < 0.99:
            x, k = cubic(x, 1), k + 1
        steps.append(k)
        assert k >= math.log(chi / 4) / math.log(9 / 4)
    # a hundred times the condition: ln 100/ln 2.25 = 5.7 steps
    assert all(b - a in (5, 6) for a, b in pairwise(steps))


@pytest.mark.claim("lyapunov-error", tol=1e-10, trials=20)
def test_the_derivative_errs_by_the_mean_of_two(claim) -> None:
    for trial in range(claim.trials):
        x = torch.logspace(-1.5, 0, 7, dtype=DOUBLE)
        X, Q = turned(x)
        C, c, steps = torch.randn(7, 7, dtype=DOUBLE), 0.8 + 0.1 * (trial % 7), trial
        steps = 1 + trial % 12
        D = lyapunov(X, C, steps, torch.tensor([[c]], dtype=DOUBLE))
        exact = (Q.mT @ C @ Q) / (x[:, None] + x)
        reached = cubic(x / c, steps)
        stated = exact * (reached[:, None] + reached) / 2
        scale = exact.abs().max()
        assert (Q.mT @ D @ Q - stated).abs().max() < claim.tol * scale


@pytest.mark.claim("krad-delay", tol=1e-6, trials=400)
@pytest.mark.parametrize("bound", ["trace", "frobenius"])
@pytest.mark.parametrize("initial", [1.0, 1e4])
def test_the_delay_on_gradients_of_equal_singular_values(claim, bound, initial) -> None:
    d = 6
    p = torch.zeros(d, d, dtype=DOUBLE, requires_grad=True)
    options = {"momentum": 0.0, "nesterov": False, "eps": 0.0, "refresh": 1000}
    optimizer = KrADagrad([p], 1.0, bound=bound, initial=initial, **options)
    size, start = (d if bound == "trace" else math.sqrt(d)), 1 / initial
    for step in range(1, claim.trials + 1):
        p.grad = torch.linalg.qr(torch.randn(d, d, dtype=DOUBLE)).Q
        optimizer.step()
        L = optimizer.state[p]["factor_0"]
        a = 1 / float(L.diagonal().mean())
        assert float((L * a - torch.eye(d)).abs().max()) < claim.tol
        late = math.log(a / start)
        low, high = a - start + (size - 1) * late, a - start + size * late
        assert low - claim.tol <= step <= high + claim.tol
    assert round(63 * 12 * math.log(10)) == 1741
    assert round(7 * 12 * math.log(10)) == 193


@pytest.mark.claim("roots-size", tol=5e-3)
def test_a_large_identity(claim) -> None:
    one = torch.eye(1000, dtype=DOUBLE)
    for method, off in (("mtp", 0.29), ("mpa", 0.039)):
        error = float((square_root(one, method) - one).abs().max())
        assert abs(error - off) < claim.tol
    for method in ("taylor", "pade"):
        assert (square_root(one, method) - one).abs().max() < 1e-12


@pytest.mark.claim("roots-coupled", trials=5)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_half_of_the_iteration_explodes(claim, dtype) -> None:
    for _ in range(claim.trials):
        values = torch.logspace(-2, 0, 16, dtype=DOUBLE)
        A, Q = turned(values)
        exact, A = (Q * values**-0.5) @ Q.mT, A.to(dtype)
        eye, size = torch.eye(16, dtype=dtype), A.norm()
        Z = eye
        for _ in range(60):
            Z = (3 * eye - Z @ Z @ A / size) @ Z / 2
        alone = (Z / size.sqrt()).double() - exact
        assert not alone.norm() < 0.1 * exact.norm()
        pair = matrix_roots.by_newton_schulz(A, -0.5, 60).double() - exact
        assert pair.norm() < 1e3 * torch.finfo(dtype).eps * exact.norm()


@pytest.mark.claim("roots-equal-eigenvalues", tol=1e-10)
def test_derivatives_at_equal_eigenvalues(claim) -> None:
    values = torch.tensor([1.0, 1.0, 1.0, 4.0], dtype=DOUBLE)
    A, C = torch.diag(values), torch.randn(4, 4, dtype=DOUBLE)
    root = values.rsqrt()
    # −A^(-1/2)(XD + DX = C)A^(-1/2) with sums of roots in the denominator
    exact = -(C + C.mT) / 2 / (1 / root[:, None] + 1 / root)
    exact = exact * root[:, None] * root
    for way, fine in (
        (inverse_root, True),
        # the exact root is degree 10 here: ρ is 1/3 at most, and ρ²¹ is 1e-10
        (lambda x: square_root(x, inverse=True, degree=10), True),
        (matrix_roots.by_autograd, False),
    ):
        x = A.clone().requires_grad_()
        D = torch.autograd.grad((way(x) * C).sum(), x)[0]
        D = (D + D.mT) / 2
        if fine:
            assert (D - exact).abs().max() < 10 * claim.tol
        else:
            assert torch.isnan(D).any()


def test_what_more_degrees_cost() -> None:
    for degree, times in ((5, 93), (12, 671089)):
        below = pade(degree)[1]
        assert round(sum(below) / below[0]) == times
        assert sum(pade(degree)[0]) == pytest.approx(sum(below))
    # ceilings of inverse roots: N, and about √(πK)
    above, below = pade(5)
    assert below[0] / above[0] == 11
    assert 1 / sum(taylor(10)) == pytest.approx(math.sqrt(math.pi * 10), rel=0.05)


def ratio(row: dict, what: str, name: str) -> float:
    """The median time over that of eigh."""
    return row[what][name][0]


@pytest.mark.claim("roots-faster", trials=7)
def test_what_was_measured_of_times() -> None:
    assert len(TIMES) == 12
    for (n, batch), row in TIMES.items():
        svd, ns = (ratio(row, "forward", name) for name in ("svd", "ns"))
        mtp = ratio(row, "forward", "mtp")
        assert (mtp < svd) == (n >= 64 or batch > 1), (n, batch)
        assert mtp < 1.01 * ns
        for name in ("mtp", "mpa"):
            both = ratio(row, "both", name)
            wins = both < ratio(row, "both", "svd")
            assert wins == (batch > 1 and 16 <= n <= 64), (name, n, batch)
            assert (both < 1) == ((name, n, batch) == ("mtp", 32, 64))
            assert 0.7 < both / ratio(row, "both", "ns") < 1.34
    small = TIMES[8, 1]["forward"]
    assert min(small["mtp"][0], small["mpa"][0]) > 4.5
    errors = TIMES[512, 1]["errors"]
    told = {"mtp": 0.53, "mpa": 0.18, "ns": 0.15, "pade": 0.021}
    assert {name: errors[name] for name in told} == told
    assert errors["eigh"] < 1e-5
    assert RUNS["underflows/128"] > 100
    held = [row["holds"] for row in KEPT["predictions"][:4]]
    assert held == [False, False, False, True]


@pytest.mark.claim("roots-layer", trials=5)
def test_what_was_measured_of_the_layer() -> None:
    ends = matrix_roots.layers(RUNS)
    loss = {n: [row["loss"] for row in rows] for n, (_, rows) in ends.items()}
    assert KEPT["predictions"][4]["holds"]
    for name in ("ns", "mtp", "mpa", "pade", "eigh, lifted", "batch norm"):
        pairs = zip(loss[name], loss["eigh"], strict=True)
        assert all(coarse < exact for coarse, exact in pairs)
    assert round(mean(loss["pade"]), 3) == 0.112
    assert round(mean(loss["eigh, lifted"]), 3) == 0.111
    assert mean(loss["batch norm"]) == min(map(mean, loss.values()))
    off = {n: [r.get("gradient off", 0) for r in rows] for n, (_, rows) in ends.items()}
    assert min(median(off[n]) for n in ("ns", "mtp", "mpa", "pade")) > 0.5
    # exact and its twin by autograd: eigenvalues of a covariance never coincide
    gaps = zip(loss["eigh"], loss["eigh, autograd"], strict=True)
    assert all(abs(a - b) < 1e-3 for a, b in gaps)


@pytest.mark.claim("krad-needs-no-double", trials=5)
def test_what_was_measured_of_precision() -> None:
    found = {key: rows for key, (_, rows) in matrix_roots.quadratics(RUNS).items()}
    for name in ("KrADagrad", "Shampoo"):
        pairs = zip(found[name, "float32"], found[name, "float64"], strict=True)
        assert all(abs(a / b - 1) < 0.01 for a, b in pairs)
    single, double = (found["Shampoo published", f"float{b}"] for b in (32, 64))
    assert sum(a > 1000 * b for a, b in zip(single, double, strict=True)) == 2
    assert 10 * max(double) < min(found["KrADagrad", "float32"])
    assert RUNS["precision/digits/KrADagrad/float32/1"] > 0.2
    assert KEPT["predictions"][8]["holds"]


def test_what_was_measured_of_slack() -> None:
    last = RUNS["slack/frobenius/1.0/1"]["descent"][-1]
    assert round(max(last), 2) == 1.05
    far = RUNS["slack/frobenius/1000000000000.0/1"]
    assert min(far["descent"][-1]) > 1000
    assert min(far["alike"][-1]) > 0.98


@pytest.mark.claim("krad-regret", trials=3)
def test_the_ratio_of_regrets_does_not_grow() -> None:
    found = matrix_roots.ratios(RUNS)
    assert len(found) == 5
    assert all(later < 1.02 * earlier for earlier, later in pairwise(found))
