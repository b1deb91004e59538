"""SIRFShampoo against the authors' package, its formulas, and its fixed points."""

import json
import math
from itertools import pairwise

import pytest
import torch
from sirfshampoo import SIRFShampoo as Published
from torch import Tensor

from anthology.linalg import STRUCTURES, structure
from anthology.optim import SIRFShampoo, SteepestDescent
from experiments import sirf_factors

SHAPES = [(), (1,), (6,), (5, 3), (3, 1, 4), (4, 3, 2), (3, 2, 4, 2), (3, 5, 1, 1)]
Factors = tuple[list[Tensor], list[Tensor]]


class Holder(torch.nn.Module):
    """A model of one parameter, which the authors' package asks for."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(start.clone())


@pytest.mark.claim("sirf-parity", tol=1e-11, trials=40)
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("refresh", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_published_package(claim, shape, refresh, foreach) -> None:
    start = torch.randn(shape, dtype=torch.float64)
    theirs, ours = Holder(start), Holder(start)
    reference = Published(
        theirs, lr=0.05, beta2=0.3, lam=0.02, kappa=0.1, batch_size=7, T=refresh
    )
    optimizer = SIRFShampoo(
        ours.parameters(),
        lr=0.05,
        factor_lr=0.3,
        damping=0.02,
        weight_decay=0.1,
        batch_size=7,
        refresh=refresh,
        structures="dense",
        foreach=foreach,
    )
    for _ in range(claim.trials):
        gradient = torch.randn(shape, dtype=torch.float64)
        for model in (theirs, ours):
            model.w.grad = gradient.clone()
        reference.step()
        optimizer.step()
    assert (theirs.w - ours.w).abs().max() < claim.tol * (1 + start.abs().max())
    assert (ours.w - start).abs().max() > 0.01
    for n, factor in enumerate(reference.preconditioner[0]):
        d = factor.to_dense().shape[0]
        kept = optimizer.state[ours.w][f"factor_{n}"].reshape(d, d)
        assert (kept - factor.to_dense()).abs().max() < claim.tol


def test_the_published_defaults_but_for_the_rate() -> None:
    theirs = Published(Holder(torch.ones(2, 2)), batch_size=4).param_groups[0]
    ours = SIRFShampoo([torch.ones(2, 2)], batch_size=4).param_groups[0]
    names = {
        "beta2": "factor_lr",
        "alpha1": "momentum",
        "alpha2": "factor_momentum",
        "lam": "damping",
        "kappa": "weight_decay",
        "T": "refresh",
    }
    assert {name: theirs[name] for name in names} == {
        name: ours[mine] for name, mine in names.items()
    }


def closed_form(g: Tensor, c: Tensor, k: Tensor, momenta, kinds, b, lam, lr) -> Factors:
    """One update of both factors of a matrix, as one writes it on paper."""
    d_out, d_in = g.shape
    a, old = c.T @ g @ k, (c, k)
    curvature = (
        b / d_in * a @ a.T + lam * (k.T @ k).trace() / d_in * c.T @ c,
        b / d_out * a.T @ a + lam * (c.T @ c).trace() / d_out * k.T @ k,
    )
    new, averages = [], []
    for kind, x, m, u in zip(kinds, old, momenta, curvature, strict=True):
        step = kind.dense(kind.project(u - torch.eye(kind.dim).double())) / 2
        m = 0.6 * m + 0.4 * step
        new.append(x - lr / max(1.0, m.norm().item()) * x @ m)
        averages.append(m)
    return new, averages


@pytest.mark.claim("sirf-closed-form", tol=1e-11, trials=25)
@pytest.mark.parametrize("refresh", [1, 2])
@pytest.mark.parametrize(
    "names", [(n, n) for n in STRUCTURES] + [("lower", "diagonal"), ("dense", "upper")]
)
def test_the_matrix_case_in_closed_form(claim, names, refresh) -> None:
    kinds = [structure(names[0], 5), structure(names[1], 4)]
    w = torch.randn(5, 4, dtype=torch.float64)
    p = w.clone().requires_grad_()
    optimizer = SIRFShampoo(
        [p],
        lr=0.1,
        factor_lr=0.2,
        momentum=0.8,
        factor_momentum=0.6,
        damping=0.05,
        weight_decay=0.2,
        refresh=refresh,
        structures=names,
        batch_size=3,
    )
    factors = [torch.eye(5).double(), torch.eye(4).double()]
    momenta = [torch.zeros(5, 5).double(), torch.zeros(4, 4).double()]
    buffer = torch.zeros_like(w)
    for t in range(claim.trials):
        g = torch.randn_like(w)
        if t % refresh == 0:
            factors, momenta = closed_form(g, *factors, momenta, kinds, 3, 0.05, 0.2)
        c, k = factors
        buffer = 0.8 * buffer + c @ c.T @ g @ k @ k.T + 0.2 * w
        w = w - 0.1 * buffer
        p.grad = g
        optimizer.step()
    state = optimizer.state[p]
    for n, kind in enumerate(kinds):
        assert (kind.dense(state[f"factor_{n}"]) - factors[n]).abs().max() < claim.tol
        average = kind.dense(state[f"factor_momentum_{n}"])
        assert (average - momenta[n]).abs().max() < claim.tol * 10
    assert (p - w).abs().max() < claim.tol * (1 + w.abs().max())


def run(shape, gradients, **options) -> tuple[SIRFShampoo, Tensor]:
    """Feed gradients; the step size is zero, so only the factors learn."""
    p = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = SIRFShampoo([p], lr=0.0, **{"batch_size": 1, **options})
    for g in gradients:
        p.grad = g
        optimizer.step()
    return optimizer, p


def inverse_curvature(optimizer, p, n: int, dim: int, name: str = "dense") -> Tensor:
    k = structure(name, dim).dense(optimizer.state[p][f"factor_{n}"])
    return k @ k.T


@pytest.mark.claim("sirf-damping", tol=1e-6)
@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 4, 3)])
@pytest.mark.parametrize("name", STRUCTURES)
def test_where_gradients_vanish_the_amplification_ends_at_one_over_damping(
    claim, shape, name
) -> None:
    lam = 0.01
    # a zero would count as no gradient
    tiny = [torch.full(shape, 1e-100, dtype=torch.float64)] * 200
    options = {"factor_lr": 0.5, "damping": lam, "structures": name}
    optimizer, p = run(shape, tiny, **options)
    gain = 1.0
    for n, dim in enumerate(shape):
        inverse = inverse_curvature(optimizer, p, n, dim, name)
        size = inverse.trace() / dim
        assert (inverse - size * torch.eye(dim).double()).abs().max() < claim.tol * size
        gain = gain * size
    assert abs(gain * lam - 1) < claim.tol


@pytest.mark.claim("sirf-flip-flop", tol=1e-8)
def test_a_fixed_point_is_the_flip_flop_pair_of_factors(claim) -> None:
    """A constant gradient, so that the expectations are the gradient's own."""
    g = torch.randn(4, 3, dtype=torch.float64)
    lam, b = 0.1, 5
    optimizer, p = run(
        (4, 3), [g] * 3000, factor_lr=0.1, damping=lam, batch_size=b, structures="dense"
    )
    c = inverse_curvature(optimizer, p, 0, 4)
    k = inverse_curvature(optimizer, p, 1, 3)
    eye = torch.eye(4).double(), torch.eye(3).double()
    s_c = b / 3 * g @ k @ g.T + lam * k.trace() / 3 * eye[0]
    s_k = b / 4 * g.T @ c @ g + lam * c.trace() / 4 * eye[1]
    assert (c @ s_c - eye[0]).abs().max() < claim.tol
    assert (k @ s_k - eye[1]).abs().max() < claim.tol
    shampoo = torch.linalg.inv(b * g @ g.T + lam * eye[0])
    scale = (c * shampoo).sum() / shampoo.square().sum()
    assert (c - scale * shampoo).norm() > 0.01 * c.norm()


@pytest.mark.claim("sirf-positive", trials=1000)
def test_the_factors_stay_invertible(claim) -> None:
    """Stored runs of every structure; one of them is run again."""
    assert sirf_factors.STEPS == claim.trials
    runs = json.loads(sirf_factors.STORE.read_text(encoding="utf-8"))["runs"]
    for name in STRUCTURES:
        smallest, largest = runs[sirf_factors.key("invertible", name)]
        assert 0 < smallest <= largest < math.inf
    again = sirf_factors.eigenvalues("dense")
    assert again == pytest.approx(runs[sirf_factors.key("invertible", "dense")], 1e-6)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_short_run_of_every_structure_is_invertible_too(name) -> None:
    smallest, largest = sirf_factors.eigenvalues(name, steps=50)
    assert 0 < smallest <= largest < math.inf


@pytest.mark.claim("sirf-k-form", tol=0.15, trials=4)
def test_the_group_form_is_an_average_of_curvature_to_first_order(claim) -> None:
    """(KKᵀ)⁻¹ = (1 − β)S + βU + O(β²): halving β divides the error by four."""
    first, second = 0.3 * torch.randn(2, 5, dtype=torch.float64)
    errors = []
    for power in range(claim.trials):
        beta = 0.1 / 2**power
        options = {"factor_momentum": 0.0, "damping": 0.2, "structures": "dense"}
        optimizer, p = run((5,), [first], factor_lr=0.3, **options)
        s = torch.linalg.inv(inverse_curvature(optimizer, p, 0, 5))
        optimizer.param_groups[0]["factor_lr"] = beta
        p.grad = second
        optimizer.step()
        new = torch.linalg.inv(inverse_curvature(optimizer, p, 0, 5))
        u = torch.outer(second, second) + 0.2 * torch.eye(5).double()
        errors.append((new - (1 - beta) * s - beta * u).norm().item())
    for large, small in pairwise(errors):
        assert abs(large / small - 4) < 4 * claim.tol


@pytest.mark.claim("sirf-without-averages", tol=1e-12, trials=20)
def test_with_factors_at_rest_it_is_gradient_descent(claim) -> None:
    """Its norm is learned; unlearned it is the Euclidean one."""
    start = [torch.randn(shape).double() for shape in ((4, 3), (5,), (2, 3, 2))]
    ours = [x.clone().requires_grad_() for x in start]
    plain = [x.clone().requires_grad_() for x in start]
    optimizer = SIRFShampoo(ours, 0.1, factor_lr=0.0, momentum=0.0, batch_size=9)
    steepest = SteepestDescent(plain, 0.1, norm="L2()", step="steepest", across="l2")
    for _ in range(claim.trials):
        for a, b in zip(ours, plain, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        optimizer.step()
        steepest.step()
    for a, b in zip(ours, plain, strict=True):
        assert (a - b).abs().max() < claim.tol


@pytest.mark.claim("sirf-without-averages", tol=1e-10)
def test_the_step_minimises_its_quadratic(claim) -> None:
    """⟨G, Δ⟩ + (1/2η)⟨Δ, S_C Δ S_K⟩ has gradient zero at the step taken."""
    p = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimizer = SIRFShampoo([p], 0.3, factor_lr=0.4, momentum=0.0, batch_size=2)
    for _ in range(5):
        before = p.detach().clone()
        p.grad = torch.randn_like(p)
        optimizer.step()
    s_c = torch.linalg.inv(inverse_curvature(optimizer, p, 0, 4))
    s_k = torch.linalg.inv(inverse_curvature(optimizer, p, 1, 3))
    residual = p.grad + s_c @ (p.detach() - before) @ s_k / 0.3
    assert residual.abs().max() < claim.tol
