"""The statements of the chapter shelf/complex-step, and what it says of stored runs."""

import math
import sys
from statistics import mean

import pytest
import torch
import torch.nn.functional as F

from anthology import lab, motion
from tools import address

sys.path.append(str(address.ROOT / "experiments"))
import complex_step as study

U = 2.0**-53


def product(f, w, x, h=1e-20):
    """The chapter's rule."""
    z = torch.complex(w, h * x).requires_grad_()
    (g,) = torch.autograd.grad(f(z).real, z)
    return -g.imag / h


def off(found, right) -> float:
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.claim("complex-step-digits", "csfd-accurate", tol=2e-14, trials=10)
@pytest.mark.parametrize("h", [1e-8, 1e-20, 2.0**-67, 1e-300])
def test_every_small_step_has_all_digits(claim, h):
    """15 digits, for whatever h below the root of the rounding unit."""
    for seed in range(claim.trials):
        w, x = study.start(seed), study.start(seed + 100)
        right = study.by_jvp(w, x)
        assert off(study.by_complex_step(w, x, h), right) < claim.tol
        assert off(product(study.loss, w, x, h), right) < claim.tol


@pytest.mark.claim("complex-step-digits", tol=1e-12, trials=20)
def test_the_error_is_bounded_by_the_third_derivative(claim):
    """Along sin and exp, whose derivatives on the imaginary axis are known."""
    for _ in range(claim.trials):
        w, x = torch.randn(2, 6, dtype=torch.float64)
        for h in (1.0, 0.1, 0.01):
            # f = -Σ cos w, so γ = sin(w + ρx), Re γ''' (iρ) = -x³ cos(w) cosh(ρx)
            found = product(lambda z: -torch.cos(z).sum(), w, x, h)
            right = torch.cos(w) * x
            most = (x.abs() ** 3 * torch.cos(w).abs() * torch.cosh(h * x)).norm()
            assert (found - right).norm() <= h**2 / 6 * most + claim.tol
            # and it is that, in small steps: x³ cos(w) h²/6
            if h == 0.01:
                first = (x**3 * torch.cos(w)) * h**2 / 6
                assert (found - right - first).norm() < h**2 * first.norm() * (
                    1 + float(x.abs().max()) ** 2
                )


@pytest.mark.claim("complex-step-digits", trials=2000)
def test_a_schoolbook_product_is_the_product_rule_to_the_bit(claim):
    h = 2.0**-67
    for a, b, x, y in torch.randn(claim.trials, 4, dtype=torch.float64).tolist():
        assert abs((h * x) * (h * y)) < U / 2 * abs(a * b)
        assert a * b - (h * x) * (h * y) == a * b
        assert a * (h * y) + (h * x) * b == h * (a * y + x * b)


@pytest.mark.claim("complex-step-digits", tol=1e-9)
def test_a_difference_has_half_the_digits(claim):
    """The least of the bound is 2√(u‖γ‖‖γ''‖), and differences stay near it."""
    for scale in (1e-3, 1.0, 1e3):
        sizes = [10.0 ** -(k / 10) for k in range(10, 150)]
        bound = [h / 2 * scale + 2 * U / h for h in sizes]
        least = 2 * math.sqrt(U * scale)
        assert min(bound) >= least * (1 - claim.tol)
        best = 2 * math.sqrt(U / scale)
        assert abs(best / 2 * scale + 2 * U / best - least) < claim.tol * least
    w, x = study.start(1), study.start(2)
    right = study.by_jvp(w, x)
    errors = [
        off((study.gradient(w + 10.0**-k * x) - study.gradient(w)) * 10**k, right)
        for k in range(2, 15)
    ]
    assert 1e-10 < min(errors) < 1e-6


@pytest.mark.claim("complex-step-motion", tol=1e-14, trials=10)
def test_the_first_counter_term_is_a_gradient_at_an_imaginary_step(claim):
    """Imaginary part over 2h; and the real part is the gradient itself."""
    two = lab.problems.two_weights
    w = two.start()
    found = product(two, w, two.gradient(w)) / 2
    assert off(found, w.new_tensor([0.1176, -2.388])) < claim.tol
    g = torch.func.grad(study.loss)
    for seed in range(claim.trials):
        w = study.start(seed)
        slope = g(w)
        there = study.gradient(torch.complex(w, 1e-20 * slope))
        right = motion.first_counter_term(g, w)
        size = float(slope.norm())
        assert float((there.imag / 2e-20 - right).norm()) < claim.tol * size
        assert float((there.real - slope).norm()) < claim.tol * size


@pytest.mark.claim("complex-step-motion", tol=1e-6)
def test_its_real_part_bends_by_the_third_derivative(claim):
    """By a step of 1e-3: what is left is of the fourth order in it."""
    two = lab.problems.two_weights
    w = two.start()
    g = two.gradient(w)
    bend = torch.func.hessian(lambda r: two.gradient(w + r * g))(w.new_zeros(()))
    there = two.gradient(torch.complex(w, 1e-3 * g)).real
    assert off((g - there) * 2e6, bend) < claim.tol
    assert float(bend.norm()) > 0.1


def test_autograd_returns_the_conjugate():
    z = torch.tensor(0.3 + 0.4j, dtype=torch.complex128, requires_grad=True)
    (given,) = torch.autograd.grad((z**3).real, z)
    assert float((given - (3 * z.detach() ** 2).conj()).abs()) < 1e-15


RIGHT = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "square": lambda z: z * z,
    "transpose": lambda z: z @ z.mT,
    "log-sum-exp": lambda z: z.exp().sum(1).log(),
    "softmax by hand": lambda z: _softmax(z),
}
WRONG = {
    "abs": torch.abs,
    "norm": torch.norm,
    "var": torch.var,
    "adjoint": lambda z: z @ z.mH,
    "convolution": lambda z: F.conv1d(z[None], z[:, :, None]),
}
REFUSED = {
    "relu": F.relu,
    "clamp": lambda z: z.clamp(0),
    "softmax": lambda z: z.softmax(1),
    "layer_norm": lambda z: F.layer_norm(z, (6,)),
}


def _softmax(z):
    e = (z - z.real.amax(1, keepdim=True)).exp()
    return e / e.sum(1, keepdim=True)


@pytest.mark.claim("csfd-any", "csfd-accurate", tol=1e-11)
@pytest.mark.parametrize("name", [*RIGHT, *WRONG, *REFUSED])
def test_which_operations_keep_the_derivative(claim, name):
    w, x = torch.randn(2, 6, 6, dtype=torch.float64)
    op = (RIGHT | WRONG | REFUSED)[name]

    def f(z):
        return op(z).pow(3).sum()

    right = study.along(f, w, x)
    if name in REFUSED:
        with pytest.raises((RuntimeError, NotImplementedError)):
            product(f, w, x)
    else:
        assert (off(product(f, w, x), right) < claim.tol) is (name in RIGHT)


@pytest.mark.claim("complex-step-gauss", tol=1e-13)
def test_three_real_products_for_one_complex_cancel(claim):
    """Gauss's rule loses the derivative of a convolution, a matrix product keeps it."""
    image = torch.randn(2, 3, 64, dtype=torch.float64)
    kernel, x = torch.randn(2, 4, 3, 5, dtype=torch.float64)

    def conv(k):
        return F.conv1d(image.to(k), k).tanh().square().mean()

    def unfolded(k):
        rows = image.unfold(2, 5, 1).transpose(1, 2).flatten(2).to(k)
        return (rows @ k.flatten(1).T).tanh().square().mean()

    right = study.along(conv, kernel, x)
    assert off(product(unfolded, kernel, x), right) < claim.tol
    assert off(product(conv, kernel, x), right) > 0.99
    assert 1e-12 < off(product(conv, kernel, x, 1e-6), right) < 1e-6
    for a, b in (1 + torch.rand(100, 2, dtype=torch.float64)).tolist():
        p, q = 1e-20 * b, 3e-20 * a
        assert (a + p) * (b + q) - a * b == 0.0


@pytest.fixture(scope="module")
def runs():
    return study.stored()


@pytest.mark.claim("csfd-order", trials=5)
def test_newton_takes_fewer_steps_and_as_many_gradients(claim, runs):
    assert len(study.SEEDS) == claim.trials
    ours = {
        what: study.came_of("complex step", "float64", what)
        for what in ("steps", "products", "stops", "loss")
    }
    plain = [runs[f"descent, rate 2.0, seed {seed}"] for seed in study.SEEDS]
    for rate in study.RATES:
        assert all(
            runs[f"descent, rate {rate}, seed {seed}"] >= found
            for seed, found in zip(study.SEEDS, plain, strict=True)
        )
    assert max(ours["loss"]) <= study.TARGET
    for steps, found in zip(ours["steps"], plain, strict=True):
        assert found > 10 * steps
    price = runs["prices, width 16"]["complex step"]
    gradients = mean(ours["steps"]) + price * mean(ours["products"])
    assert 0.8 < mean(plain) / gradients < 1.25
    assert 19 < mean(plain) / mean(ours["steps"]) < 20
    assert round(gradients) == 269 and round(mean(plain)) == 291
    assert 0.75 < mean(ours["stops"]) / mean(ours["steps"]) < 0.85


@pytest.mark.claim("csfd-efficient", trials=2)
def test_reverse_mode_twice_is_cheaper(claim, runs):
    narrow, wide = runs["prices, width 16"], runs["prices, width 1024"]
    for prices in (narrow, wide):
        assert prices["reverse twice"] < prices["complex step"]
    assert narrow["complex step"] < narrow["jvp"] / 2
    assert 0.9 < wide["complex step"] / wide["jvp"] < 1.1


def test_which_predictions_came_true(runs):
    def got(name, kind, what):
        return study.came_of(name, kind, what)

    assert got("complex step", "float64", "steps") == got("jvp", "float64", "steps")
    assert min(got("difference", "float32", "error")) > 1e-4
    assert max(got("complex step", "float32", "error")) < 1e-6
    assert max(got("difference", "float32", "loss")) <= study.TARGET
    for kind in study.TYPES:
        for name in study.PRODUCTS:
            assert max(got(name, kind, "loss")) <= study.TARGET


def test_one_step_again():
    """Conjugate gradients by complex steps and by jvp agree, and go down."""
    w = study.start(0)
    g = study.gradient(w)
    ours, theirs = (
        study.conjugate_gradients(study.PRODUCTS[name], w, g)
        for name in ("complex step", "jvp")
    )
    assert ours[1:] == theirs[1:]
    assert off(ours[0], theirs[0]) < 1e-9
    assert float(g @ ours[0]) < 0
