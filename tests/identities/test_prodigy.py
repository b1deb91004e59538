"""Prodigy against its authors' code, against the paper, and against its bound."""

import math

import prodigyopt
import pytest
import torch
from torch import Tensor

from anthology.norms import LInf
from anthology.optim import Prodigy, SteepestDescent

SHAPES = [(6, 4), (5,), (2, 3, 2), ()]


def start() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(s, dtype=torch.float64).requires_grad_() for s in SHAPES]


def noisy_gradients(params: list[Tensor], ends: list[Tensor]) -> None:
    """Of a quartic well, with noise that depends on the generator only."""
    for p, end in zip(params, ends, strict=True):
        gone = p.detach() - end
        p.grad = gone + gone**3 + 0.1 * torch.randn(p.shape, dtype=p.dtype)


def trained(optimizer: torch.optim.Optimizer, params: list[Tensor], schedule=None):
    ends = [3 * torch.ones_like(p.detach()) for p in params]
    torch.manual_seed(5)
    found = []
    for k in range(300):
        for group in optimizer.param_groups:
            group["lr"] = schedule(k) if schedule else group["lr"]
        noisy_gradients(params, ends)
        optimizer.step()
        ours = isinstance(optimizer, Prodigy)
        found.append(optimizer.d if ours else optimizer.param_groups[0]["d"])
    return found


OPTIONS = {
    "defaults": {},
    "rate": {"lr": 0.3},
    "betas": {"betas": (0.5, 0.9)},
    "beta3": {"beta3": 0.9},
    "eps": {"eps": 1e-2},
    "decay": {"weight_decay": 0.1},
    "bias correction": {"use_bias_correction": True},
    "safeguard": {"safeguard_warmup": True, "lr": 0.5},
    "d0": {"d0": 1e-3},
    "d_coef": {"d_coef": 0.5},
    "growth": {"growth_rate": 1.1},
    "slices": {"slice_p": 3},
    "all": {
        "lr": 0.7,
        "betas": (0.8, 0.99),
        "beta3": 0.95,
        "weight_decay": 0.02,
        "use_bias_correction": True,
        "safeguard_warmup": True,
        "d_coef": 2.0,
        "growth_rate": 1.3,
        "slice_p": 2,
    },
}


@pytest.mark.claim("prodigy-authors", tol=1e-9)
@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_the_authors_prodigy_for_300_steps(claim, name, foreach):
    ours, theirs = start(), start()
    halves = [{"params": ours[:2]}, {"params": ours[2:]}]
    d = trained(Prodigy(halves, foreach=foreach, **OPTIONS[name]), ours)
    halves = [{"params": theirs[:2]}, {"params": theirs[2:]}]
    reference = trained(prodigyopt.Prodigy(halves, **OPTIONS[name]), theirs)
    assert reference[-1] > 100 * reference[0] or name == "d0"  # it has adapted
    for p, q in zip(ours, theirs, strict=True):
        assert float((p - q).detach().abs().max()) < claim.tol
    assert max(abs(a / b - 1) for a, b in zip(d, reference, strict=True)) < claim.tol


@pytest.mark.claim("prodigy-authors", tol=1e-9)
def test_it_is_the_authors_prodigy_under_a_schedule(claim):
    ours, theirs = start(), start()

    def schedule(k: int) -> float:
        return min(1.0, (k + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * k / 300))

    for safeguard in (True, False):
        options = {"safeguard_warmup": safeguard, "weight_decay": 0.01}
        trained(Prodigy(ours, **options), ours, schedule)
        trained(prodigyopt.Prodigy(theirs, **options), theirs, schedule)
        for p, q in zip(ours, theirs, strict=True):
            assert float((p - q).detach().abs().max()) < claim.tol


def test_without_a_first_average_the_authors_code_steps_with_the_new_d():
    """The paper's numerator has the old d, and so has theirs for a β₁ of 1e-300."""
    ends = []
    for make in (
        lambda p: Prodigy(p, betas=(0.0, 0.999)),
        lambda p: prodigyopt.Prodigy(p, betas=(1e-300, 0.999)),
        lambda p: prodigyopt.Prodigy(p, betas=(0.0, 0.999)),
    ):
        params = start()
        trained(make(params), params)
        ends.append(torch.cat([p.detach().reshape(-1) for p in params]))
    assert float((ends[0] - ends[1]).abs().max()) < 1e-9
    assert float((ends[0] - ends[2]).abs().max()) > 1e-6


@pytest.mark.claim("prodigy-sign-descent", tol=1e-12, trials=60)
def test_without_averages_it_is_sign_descent_with_the_escape_velocity(claim):
    """Bernstein & Newhouse 2024, eqs. 28-29, over several tensors."""
    params = start()
    optimizer = Prodigy(params, betas=(0.0, 0.0), eps=0.0, d0=1e-3)
    w = [p.detach().clone() for p in params]
    w0, eta = [x.clone() for x in w], torch.tensor(1e-3, dtype=torch.float64)
    for _ in range(claim.trials):
        noisy_gradients(params, [3 * torch.ones_like(x) for x in w])
        optimizer.step()
        g = [p.grad for p in params]
        product = sum((a * (b - c)).sum() for a, b, c in zip(g, w0, w, strict=True))
        w = [x - eta * a.sign() for x, a in zip(w, g, strict=True)]
        eta = torch.maximum(eta, product / sum(a.abs().sum() for a in g))
        for p, x in zip(params, w, strict=True):
            assert float((p.detach() - x).abs().max()) < claim.tol
        assert abs(optimizer.d / float(eta) - 1) < claim.tol
    assert optimizer.d > 0.1


@pytest.mark.claim("prodigy-sign-descent", tol=1e-12, trials=40)
def test_without_averages_a_step_is_steepest_under_the_max_norm(claim):
    params, twins = start(), start()
    optimizer = Prodigy(params, betas=(0.0, 0.0), eps=0.0, weight_decay=0.1)
    twin = SteepestDescent(twins, lr=0.0, norm=LInf(), weight_decay=0.1)
    for _ in range(claim.trials):
        twin.param_groups[0]["lr"] = optimizer.d
        noisy_gradients(params, [3 * torch.ones_like(p.detach()) for p in params])
        for p, q in zip(params, twins, strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
        for p, q in zip(params, twins, strict=True):
            assert float((p - q).detach().abs().max()) < claim.tol


@pytest.mark.claim("prodigy-fibonacci", tol=1e-12)
def test_on_a_linear_loss_the_steps_are_fibonacci_numbers(claim):
    p = torch.zeros(7, dtype=torch.float64).requires_grad_()
    slope = torch.randn(7, dtype=torch.float64)
    optimizer = Prodigy([p], betas=(0.0, 0.0), eps=0.0, d0=1e-4)
    steps = []
    for _ in range(30):
        before = p.detach().clone()
        p.grad = slope.clone()
        optimizer.step()
        steps.append(float((p.detach() - before).abs().max()) / 1e-4)
    numbers = [1.0, 1.0, 1.0]
    while len(numbers) < 30:
        numbers.append(numbers[-1] + numbers[-2])
    assert numbers[:9] == [1, 1, 1, 2, 3, 5, 8, 13, 21]
    gaps = [abs(a / b - 1) for a, b in zip(steps, numbers, strict=True)]
    assert max(gaps) < claim.tol


@pytest.mark.claim("prodigy-bound", tol=1e-12, trials=30)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.0, 0.0), "eps": 0.0},
        {"lr": 5.0, "use_bias_correction": True},
        {"weight_decay": 1.0, "beta3": 0.5, "growth_rate": 3.0},
    ],
)
def test_d_never_exceeds_the_distance_on_a_convex_loss(claim, options):
    """Least squares, smoothed and plain absolute values, over two tensors."""
    for trial in range(claim.trials):
        a = torch.randn(12, 8, dtype=torch.float64)
        end = 10.0 ** torch.randn(1).double() * torch.randn(8, dtype=torch.float64)
        params = [torch.randn(n, dtype=torch.float64).requires_grad_() for n in (3, 5)]
        far = float((torch.cat([p.detach() for p in params]) - end).abs().max())
        optimizer = Prodigy(params, d0=1e-6, **options)
        for _ in range(100):
            optimizer.zero_grad()
            rest = a @ (torch.cat(params) - end)
            losses = (rest.square(), (rest.square() + 1).sqrt(), rest.abs())
            losses[trial % 3].sum().backward()
            optimizer.step()
            assert optimizer.d <= far * (1 + claim.tol)
        assert optimizer.d > 1e-3 * far
