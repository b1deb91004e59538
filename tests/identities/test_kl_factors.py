"""Factors that divide by each other, and a factor on one side only."""

import pytest
import torch
from torch import Tensor

from anthology.optim import SOAP, Shampoo
from tests.norm_catalogue import draw
from tests.random_steps import moves, relative

LETTERS = "abcd"
EXACT = {"betas": (0.0, 0.99), "eps": 0.0, "factors": "kl"}


def power(A: Tensor, exponent: float, epsilon: float = 0.0) -> Tensor:
    """A power of the positive part, or of all eigenvalues plus ε."""
    values, vectors = torch.linalg.eigh(A)
    if epsilon:
        return (
            vectors
            @ torch.diag((values.clamp_min(0) + epsilon) ** exponent)
            @ (vectors.mT)
        )
    good = values > 1e-13 * values.max()
    values = torch.where(good, values, 1.0) ** exponent * good
    return vectors @ torch.diag(values) @ vectors.mT


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    left = LETTERS[: x.ndim]
    right = left.replace(left[axis], "z")
    return torch.einsum(f"z{left[axis]},{left}->{right}", matrix, x)


def square(x: Tensor, axis: int) -> Tensor:
    flat = x.movedim(axis, 0).reshape(x.shape[axis], -1)
    return flat @ flat.mT


def reference(w: Tensor, gradients: list[Tensor], options: dict) -> Tensor:
    """Shampoo with KL factors, dense: old roots divide, new ones at the first step."""
    beta1, beta2 = options["betas"]
    axes = sorted(range(w.ndim), key=lambda a: -w.shape[a])
    factors = [torch.zeros(d, d, dtype=w.dtype) for d in w.shape]
    roots = [torch.eye(d, dtype=w.dtype) for d in w.shape]
    m = torch.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        by = list(roots)
        for a in axes:
            seen = g
            for other in axes:
                seen = seen if other == a else along(seen, by[other], other)
            new = square(seen, a) * w.shape[a] / w.numel()
            sums = beta2 == 1
            factors[a] = beta2 * factors[a] + (1 if sums else 1 - beta2) * new
            if (t - 1) % options.get("refresh", 1) == 0:
                hat = factors[a] / (1 if sums else 1 - beta2**t)
                top = hat.abs().max()
                roots[a] = power(hat / top, -0.5, options["eps"]) / top**0.5
            by[a] = roots[a] if t == 1 else by[a]
        u = m / (1 - beta1**t)
        for a in axes:
            u = along(u, roots[a], a)
        w = w - options["lr"] * u
    return w


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("shape", [(5,), (4, 6), (6, 4), (3, 4, 2), (2, 3, 2, 3)])
@pytest.mark.parametrize("options", [{}, {"betas": (0.8, 0.95), "refresh": 7}])
@pytest.mark.claim("kl-reference", tol=1e-9, trials=40)
def test_forty_steps_equal_a_dense_reference(claim, shape, options, foreach) -> None:
    options = {"lr": 0.01, "betas": (0.9, 1.0), "eps": 1e-4, **options}
    gradients = [draw(shape, 1 + step) for step in range(claim.trials)]
    w = draw(shape, 0).requires_grad_()
    start = w.detach().clone()
    expected = reference(start, gradients, options) - start
    optimizer = Shampoo([w], foreach=foreach, factors="kl", **options)
    moves(optimizer, w, gradients)
    assert relative(w.detach() - start, expected) < claim.tol


@pytest.mark.claim("kl-authors", tol=1e-9, trials=40)
def test_from_their_start_it_takes_the_steps_of_the_authors_one_gradient_earlier(
    claim,
) -> None:
    """Both factors start at 0.1 I and are updated together, after they were used;
    the eigenvalues are averaged in the basis, here a fresh one at every step."""
    beta, n, m = 0.98, 4, 6
    S, R = 0.1 * torch.eye(n).double(), 0.1 * torch.eye(m).double()
    w = torch.zeros(n, m, dtype=torch.float64).requires_grad_()
    ours = Shampoo([w], 1.0, (0.0, beta), eps=0.0, factors="kl")
    ours.create_state()
    state = ours.state[w]
    state["step"].fill_(1e5)  # no bias correction
    for axis, theirs in enumerate((S, R)):
        state[f"factor_0_{axis}"].copy_(theirs)
        state[f"root_0_{axis}"].copy_(power(theirs, -0.5))
    for k in range(claim.trials):
        g = draw((n, m), k)
        (step,) = moves(ours, w, [g])
        (a, q), (b, p) = torch.linalg.eigh(S), torch.linalg.eigh(R)
        turned = (q.mT @ g @ p).square()
        new_a, new_b = (turned / b).mean(1), (turned / a[:, None]).mean(0)
        S_new = beta * S + (1 - beta) * g @ torch.linalg.inv(R) @ g.mT / m
        R = beta * R + (1 - beta) * g.mT @ torch.linalg.inv(S) @ g / n
        kept = (q.mT @ S_new @ q).diagonal()
        assert relative(kept, beta * a + (1 - beta) * new_a) < claim.tol
        kept = (p.mT @ R @ p).diagonal()
        assert relative(kept, beta * b + (1 - beta) * new_b) < claim.tol
        S = S_new
        assert relative(state["factor_0_0"], S) < claim.tol
        assert relative(state["factor_0_1"], R) < claim.tol
        (a, q), (b, p) = torch.linalg.eigh(S), torch.linalg.eigh(R)
        theirs = q @ (q.mT @ g @ p / (a[:, None] * b).sqrt()) @ p.mT
        assert relative(-step, theirs) < claim.tol


@pytest.mark.claim("kl-first-step", tol=1e-10, trials=20)
def test_a_first_step_has_mean_square_one_and_equal_singular_values(claim) -> None:
    for seed in range(claim.trials):
        for shape in ((4, 4), (3, 7), (7, 3), (1, 5), (3, 4, 5)):
            g = draw(shape, seed)
            for scale in (1.0, 1e-6):
                w = torch.zeros(shape, dtype=torch.float64).requires_grad_()
                (step,) = moves(Shampoo([w], 1.0, **EXACT), w, [scale * g])
                assert abs(step.square().mean() - 1) < claim.tol
                if len(shape) == 2:
                    u, _, vh = torch.linalg.svd(g, full_matrices=False)
                    expected = -(max(shape) ** 0.5) * u @ vh
                    assert relative(step, expected) < claim.tol


@pytest.mark.claim("kl-fixed-point", tol=0.03)
def test_it_ends_at_the_flip_flop_pair_with_steps_of_mean_square_one(claim) -> None:
    """S_a = E[G S_b⁻¹Gᵀ]/d_b and S_b likewise, of a given set of gradients."""
    rows, columns = draw((4, 4), 1), draw((6, 6), 2)
    gs = torch.stack([rows @ draw((4, 6), 10 + k) @ columns for k in range(40)])
    S, R = torch.eye(4).double(), torch.eye(6).double()
    for _ in range(300):
        S = (gs @ torch.linalg.inv(R) @ gs.mT).mean(0) / 6
        R = (gs.mT @ torch.linalg.inv(S) @ gs).mean(0) / 4
    ideal = (power(S, -0.5) @ gs @ power(R, -0.5)).square().mean(0)
    assert (ideal.mean(0) - 1).abs().max() < 1e-10
    assert (ideal.mean(1) - 1).abs().max() < 1e-10
    w = torch.zeros(4, 6, dtype=torch.float64).requires_grad_()
    optimizer = Shampoo([w], 1.0, (0.0, 0.999), eps=0.0, factors="kl")
    order = torch.randperm(8000, generator=torch.Generator().manual_seed(0)) % 40
    moves(optimizer, w, [gs[i] for i in order.tolist()])
    found = [optimizer.state[w][f"factor_0_{axis}"] for axis in (0, 1)]
    assert relative(torch.kron(*found), torch.kron(S, R)) < claim.tol


@pytest.mark.claim("one-sided-shampoo", tol=1e-9, trials=20)
def test_one_side_is_the_root_of_the_smaller_gram_matrix(claim) -> None:
    """Accumulated: (ΣGGᵀ)^(−1/2)G or G(ΣGᵀG)^(−1/2); one gradient alone: UVᵀ."""
    for seed in range(claim.trials):
        for shape in ((4, 6), (6, 4), (5, 5), (1, 5)):
            gs = [draw(shape, 100 * seed + k) for k in range(4)]
            w = torch.zeros(shape, dtype=torch.float64).requires_grad_()
            one = Shampoo([w], 1.0, (0.0, 1.0), eps=0.0, sides="one")
            found = moves(one, w, gs)
            tall = shape[0] > shape[1]
            V = sum(g.mT @ g if tall else g @ g.mT for g in gs)
            root = power(V, -0.5)
            expected = gs[-1] @ root if tall else root @ gs[-1]
            assert relative(-found[-1], expected) < claim.tol
            u, _, vh = torch.linalg.svd(gs[0], full_matrices=False)
            assert relative(-found[0], u @ vh) < claim.tol
            assert {n for n in one.state[w] if n[0] == "f"} == {f"factor_0_{tall:d}"}


def test_one_side_of_a_kernel_is_that_of_its_first_axis() -> None:
    g = draw((3, 4, 5), 1)
    w = torch.zeros(3, 4, 5, dtype=torch.float64).requires_grad_()
    found = moves(Shampoo([w], 1.0, (0.0, 1.0), eps=0.0, sides="one"), w, [g])
    u, _, vh = torch.linalg.svd(g.reshape(3, 20), full_matrices=False)
    assert relative(found[0].reshape(3, 20), -u @ vh) < 1e-9


@pytest.mark.claim("kl-soap-reference", tol=1e-9, trials=30)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 4, 2)])
def test_the_matrices_of_soap_gather_the_divided_gradient(claim, shape, foreach):
    beta, refresh, rho = 0.9, 4, 0.1
    w = torch.zeros(shape, dtype=torch.float64).requires_grad_()
    soap = SOAP([w], gram_beta=beta, refresh=refresh, factors="kl", foreach=foreach)
    axes = sorted(range(len(shape)), key=lambda a: -shape[a])
    L = [torch.zeros(d, d, dtype=torch.float64) for d in shape]
    for k in range(claim.trials):
        g = draw(shape, k)
        bases = [soap.state[w][f"basis_{a}"].clone() for a in axes] if k else []
        old = list(L)
        moves(soap, w, [g])
        by: dict[int, Tensor] = {}
        for a, basis in zip(axes, bases, strict=False):
            lam = (basis.mT @ old[a] @ basis).diagonal() / (1 - beta**k)
            by[a] = basis.mT / (lam + rho * lam.max()).sqrt()[:, None]
        for a in axes:
            seen = g
            for other, matrix in by.items():
                seen = seen if other == a else along(seen, matrix, other)
            new = square(seen, a) * shape[a] / g.numel()
            L[a] = beta * L[a] + (1 - beta) * new
            assert relative(soap.state[w][f"gram_{a}"], L[a]) < claim.tol
            if not k:  # at the first gradient by what has just been gathered
                ranks = torch.linspace(1, 0, shape[a], dtype=torch.float64)
                tilted = L[a] / L[a].abs().max() + rho * torch.diag(ranks)
                q = torch.linalg.eigh(tilted)[1].flip(-1)
                lam = (q.mT @ L[a] @ q).diagonal() / (1 - beta)
                by[a] = q.mT / (lam + rho * lam.max()).sqrt()[:, None]
