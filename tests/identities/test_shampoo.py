"""Shampoo: its limit without averages, and a dense reference for any order."""

import pytest
import torch
from torch import Tensor

from anthology.norms import Spectral
from anthology.optim import Shampoo, SteepestDescent
from tests.norm_catalogue import draw
from tests.random_steps import relative


def run(optimizer: torch.optim.Optimizer, w: Tensor, gradients: list[Tensor]) -> Tensor:
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


def power(A: Tensor, epsilon: float, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(A)
    values = values - min(float(values.min()), 0.0) + epsilon
    return vectors @ torch.diag(values**exponent) @ vectors.mT


LETTERS = "abcd"


def reference(w: Tensor, gradients: list[Tensor], options: dict) -> Tensor:
    """Shampoo by the book: one einsum for each factor and one for each root."""
    beta1, beta2 = options["betas"]
    k, epsilon = w.ndim, options["eps"]
    factors = [torch.zeros(d, d, dtype=w.dtype) for d in w.shape]
    roots = list(factors)
    m, v, buffer = (torch.zeros_like(w) for _ in range(3))
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        u = m_hat = m / (1 - beta1**t)
        for axis in range(k):
            left = LETTERS[:k]
            right = left.replace(left[axis], "z")
            new = torch.einsum(f"{left},{right}->{left[axis]}z", g, g)
            if beta2 == 1:
                factors[axis], weight = factors[axis] + new, 1.0
            else:
                factors[axis] = beta2 * factors[axis] + (1 - beta2) * new
                weight = 1 - beta2**t
            if t % options.get("refresh", 1) == 1 % options.get("refresh", 1):
                p = options.get("power") or 2 * k
                roots[axis] = power(factors[axis] / weight, epsilon, -1 / p)
            u = torch.einsum(f"z{left[axis]},{left}->{right}", roots[axis], u)
        if options.get("grafting", "none") == "sgd":
            u = u * m_hat.norm() / u.norm()
        elif options.get("grafting") == "rms":
            v = 0.999 * v + 0.001 * g**2
            adam = m_hat / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
            u = u * adam.norm() / u.norm()
        momentum = options.get("momentum", 0.0)
        buffer = momentum * buffer + u
        u = u + momentum * buffer if options.get("nesterov") else buffer
        w = w - options["lr"] * options.get("weight_decay", 0.0) * w
        w = w - options["lr"] * u
    return w


SUM = {"lr": 0.1, "betas": (0.9, 1.0), "eps": 1e-6, "relative_eps": False}
EMA = {
    "lr": 0.03,
    "betas": (0.8, 0.95),
    "eps": 1e-4,
    "relative_eps": False,
    "weight_decay": 0.1,
    "momentum": 0.7,
    "refresh": 7,
}
SHAPES = [(5,), (4, 6), (3, 4, 2), (2, 3, 2, 3)]


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        SUM,
        EMA,
        {**SUM, "grafting": "sgd", "power": 3},
        {**EMA, "grafting": "rms", "nesterov": True, "refresh": 2},
    ],
)
@pytest.mark.claim("shampoo-reference", tol=1e-9, trials=50)
def test_fifty_steps_equal_the_dense_reference(claim, shape, options, foreach) -> None:
    w = draw(shape, 0).requires_grad_()
    gradients = [draw(shape, 1 + step) for step in range(claim.trials)]
    start = w.detach().clone()
    expected = reference(start, gradients, options) - start
    assert expected.norm() > 1e-2 * start.norm()
    optimizer = Shampoo([w], foreach=foreach, **options)
    assert relative(run(optimizer, w, gradients) - start, expected) < claim.tol


@pytest.mark.claim("shampoo-limit", tol=1e-8, trials=20)
def test_without_averages_it_is_steepest_descent_in_the_spectral_norm(claim) -> None:
    """Full rank and deficient, wide and tall, vectors and scalars."""
    for seed in range(claim.trials):
        for shape in ((4, 6), (7, 3), (1, 5), (5,), ()):
            gradients = [draw(shape, 100 * seed + step) for step in range(3)]
            w = draw(shape, seed).requires_grad_()
            v = w.detach().clone().requires_grad_()
            ours = Shampoo([w], lr=0.1, betas=(0.0, 0.0), eps=0.0)
            theirs = SteepestDescent([v], lr=0.1, norm=Spectral())
            end = run(theirs, v, gradients)
            assert relative(run(ours, w, gradients), end) < claim.tol
        deficient = draw((5, 2), seed) @ draw((2, 6), seed + 1)
        w = torch.zeros(5, 6, dtype=torch.float64).requires_grad_()
        ours = Shampoo([w], lr=1.0, betas=(0.0, 0.0), eps=0.0)
        expected = -Spectral().dualize(deficient)
        assert relative(run(ours, w, [deficient]), expected) < claim.tol


@pytest.mark.parametrize("root", ["newton", "newton-schulz"])
def test_the_limit_holds_with_iterated_roots(root: str) -> None:
    """Square and well conditioned: both Gram matrices have to be invertible."""
    u, _, vh = torch.linalg.svd(draw((4, 4), 3))
    g = u @ torch.diag(torch.linspace(1, 3, 4, dtype=torch.float64)) @ vh
    w = torch.zeros(4, 4, dtype=torch.float64).requires_grad_()
    ours = Shampoo([w], lr=1.0, betas=(0.0, 0.0), eps=0.0, root=root)
    assert relative(run(ours, w, [g]), -u @ vh) < 1e-8


def test_three_axes_have_no_such_limit() -> None:
    """The exponents −1/6 undo the scale but leave singular values apart."""
    g = draw((3, 4, 5), 1)
    moves = []
    for scale in (1.0, 1e3):
        w = torch.zeros(3, 4, 5, dtype=torch.float64).requires_grad_()
        ours = Shampoo([w], lr=1.0, betas=(0.0, 0.0), eps=0.0)
        moves.append(run(ours, w, [scale * g]).clone())
    assert relative(moves[0], moves[1]) < 1e-8
    assert relative(moves[0], -Spectral().dualize(g)) > 0.1
    values = torch.linalg.svdvals(moves[0].reshape(3, 20))
    assert values.max() > 1.05 * values.min()


def test_diagonal_factors_of_vectors_are_adagrad_and_a_sign() -> None:
    gradients = [draw((6,), step) for step in range(30)]
    w, v = (torch.ones(6, dtype=torch.float64).requires_grad_() for _ in range(2))
    ours = Shampoo([w], lr=0.1, betas=(0.0, 1.0), eps=0.0, vectors="diagonal")
    theirs = torch.optim.Adagrad([v], lr=0.1, eps=0.0)
    end = run(theirs, v, gradients)
    assert relative(run(ours, w, gradients), end) < 1e-12
    w = torch.zeros(6, dtype=torch.float64).requires_grad_()
    ours = Shampoo([w], 1.0, (0.0, 0.0), eps=0.0, vectors="diagonal")
    assert torch.allclose(run(ours, w, gradients[:1]), -gradients[0].sign())


@pytest.mark.claim("shampoo-invariance", tol=1e-8, trials=5)
def test_it_turns_with_the_matrix(claim) -> None:
    """W → QWR for orthogonal Q, R: the whole run turns along."""
    options = {"lr": 0.05, "betas": (0.9, 0.9), "eps": 1e-6, "relative_eps": False}
    for seed in range(claim.trials):
        q = torch.linalg.qr(draw((4, 4), seed)).Q
        r = torch.linalg.qr(draw((5, 5), seed + 50)).Q
        gradients = [draw((4, 5), 100 + seed + step) for step in range(20)]
        w = draw((4, 5), seed)
        plain = w.clone().requires_grad_()
        turned = (q @ w @ r).requires_grad_()
        end = run(Shampoo([plain], **options), plain, gradients)
        other = run(
            Shampoo([turned], **options), turned, [q @ g @ r for g in gradients]
        )
        assert relative(other, q @ end @ r) < claim.tol
