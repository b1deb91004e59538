"""The claims of the chapter on SGD about momentum, its window, and mini-batches."""

import math

import pytest
import torch
from torch import Tensor

from anthology import lab
from anthology.lab.problems import two_weights
from anthology.optim import SGD

f, START = two_weights, two_weights.start()


def rates(n: int, seed: int = 0) -> list[float]:
    """Rates that go up and down, so that a schedule is tried."""
    found = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return (0.01 + 0.03 * found).tolist()


def torch_weights(lr: list[float], mu: list[float], **options: object) -> list[Tensor]:
    """The weights that `torch.optim.SGD` holds, before the first step and after each.

    Beside them, as a second list, the buffers.
    """
    w = START.clone().requires_grad_()
    rule = torch.optim.SGD([w], lr[0], mu[0], **options)
    ours = START.clone().requires_grad_()
    same = SGD([ours], lr[0], mu[0], **options)
    trail, buffers = [w.detach().clone()], []
    for eta, momentum in zip(lr, mu, strict=True):
        for p, r in ((w, rule), (ours, same)):
            r.param_groups[0].update(lr=eta, momentum=momentum)
            p.grad = f.gradient(p.detach())
            r.step()
        assert torch.equal(w, ours) or lab.gap(w.detach(), ours.detach()) < 1e-15
        trail.append(w.detach().clone())
        buffers.append(rule.state[w]["momentum_buffer"].clone())
    return [torch.stack(trail), torch.stack(buffers)]


def constant(value: float, n: int) -> list[float]:
    return [value] * n


@pytest.mark.claim("momentum-spellings", tol=1e-12, trials=100)
@pytest.mark.parametrize("nesterov", [False, True])
def test_an_average_at_the_rate_over_one_minus_mu(claim, nesterov):
    """Also with a schedule: both multiply the buffer by the rate of the day."""
    mu, n = 0.9, claim.trials
    trail, _ = torch_weights(rates(n), constant(mu, n), nesterov=nesterov)
    w, m = START.clone(), torch.zeros(2, dtype=torch.float64)
    for k, eta in enumerate(rates(n)):
        g = f.gradient(w)
        m = mu * m + (1 - mu) * g
        ahead = mu * m + (1 - mu) * g if nesterov else m
        w = w - eta / (1 - mu) * ahead
        assert lab.gap(w, trail[k + 1]) < claim.tol


@pytest.mark.claim("momentum-spellings", tol=1e-12, trials=100)
def test_dampening_by_mu_is_an_average_that_starts_at_the_first_gradient(claim):
    mu, n = 0.8, claim.trials
    trail, buffers = torch_weights(rates(n), constant(mu, n), dampening=mu)
    w, m = START.clone(), f.gradient(START)
    for k, eta in enumerate(rates(n)):
        m = mu * m + (1 - mu) * f.gradient(w)
        w = w - eta * m
        assert lab.gap(w, trail[k + 1]) < claim.tol
        assert lab.gap(m, buffers[k]) < claim.tol


@pytest.mark.claim("momentum-spellings", tol=1e-12, trials=100)
def test_a_velocity_keeps_the_rates_of_its_past(claim):
    """Sutskever's form at momentum μ is torch's at μ times the last rate over this."""
    mu, n = 0.9, claim.trials
    lr = rates(n)
    converted = [mu] + [mu * lr[k - 1] / lr[k] for k in range(1, n)]
    trail, buffers = torch_weights(lr, converted)
    w, u = START.clone(), torch.zeros(2, dtype=torch.float64)
    for k, eta in enumerate(lr):
        u = mu * u - eta * f.gradient(w)
        w = w + u
        assert lab.gap(w, trail[k + 1]) < claim.tol
        assert lab.gap(u, -eta * buffers[k]) < claim.tol


@pytest.mark.claim("momentum-spellings", tol=1e-12, trials=100)
def test_the_ball_that_is_an_average_of_a_faster_descent(claim):
    mu, eta, n = 0.9, 0.02, claim.trials
    trail, _ = torch_weights(constant(eta, n), constant(mu, n))
    w = z = START.clone()
    for k in range(n):
        z = z - eta / (1 - mu) * f.gradient(w)
        w = mu * w + (1 - mu) * z
        assert lab.gap(w, trail[k + 1]) < claim.tol


@pytest.mark.claim("nesterov-spellings", tol=1e-12, trials=100)
def test_torch_holds_the_point_where_nesterov_looks(claim):
    """Two sequences, look-ahead and torch's buffer, one trajectory."""
    mu, eta, n = 0.9, 0.02, claim.trials
    held, buffers = torch_weights(constant(eta, n), constant(mu, n), nesterov=True)
    w = y = START.clone()  # Nesterov's two sequences
    v, u = START.clone(), torch.zeros(2, dtype=torch.float64)  # Sutskever's
    for k in range(n):
        new = y - eta * f.gradient(y)
        y, w = new + mu * (new - w), new
        u = mu * u - eta * f.gradient(v + mu * u)
        v = v + u
        assert lab.gap(w, v) < claim.tol
        assert lab.gap(y, held[k + 1]) < claim.tol
        assert lab.gap(y, v + mu * u) < claim.tol
        assert lab.gap(w, held[k + 1] + eta * mu * buffers[k]) < claim.tol


@pytest.mark.claim("nesterov-spellings", tol=1e-12, trials=100)
def test_the_same_with_a_schedule(claim):
    """Look-ahead at momentum μ_k: torch steps by (η_k, μ_k) with its buffer rescaled."""
    mu, n = 0.9, claim.trials
    lr = rates(n + 1)
    w, u = START.clone(), torch.zeros(2, dtype=torch.float64)
    y, m = START.clone(), torch.zeros(2, dtype=torch.float64)
    for k in range(n):
        here, last = lr[k], lr[max(k - 1, 0)]
        u = mu * u - here * f.gradient(w + mu * u)
        w = w + u
        g = f.gradient(y)
        m = mu * last / here * m + g
        y = y - here * (g + mu * m)
        assert lab.gap(y, w + mu * u) < claim.tol


def radius(mu: float, x: float, kind: str) -> float:
    """Spectral radius of the rule on ½hw² at ηh = x, from its matrix on (w, m)."""

    def step(w: float, m: float) -> tuple[float, float]:
        g = x * w  # the buffer holds ηm
        m = mu * m + g
        return w - (g + mu * m if kind == "Nesterov" else m), m

    columns = [step(1.0, 0.0), step(0.0, 1.0)]
    matrix = torch.tensor(columns, dtype=torch.float64).T
    return float(torch.linalg.eigvals(matrix).abs().max())


@pytest.mark.claim("heavy-ball-window", tol=1e-7, trials=200)
def test_in_the_window_every_curvature_shrinks_alike(claim):
    for _ in range(claim.trials):
        mu = float(torch.rand(())) * 0.98
        low, high = (1 - mu**0.5) ** 2, (1 + mu**0.5) ** 2
        part = float(torch.rand(()))
        inside = low + (high - low) * part
        assert abs(radius(mu, inside, "heavy ball") - mu**0.5) < claim.tol
        for outside in (low * 0.99, high * 1.01):
            assert radius(mu, outside, "heavy ball") > mu**0.5 + 1e-5
        edge = 2 * (1 + mu)
        assert radius(mu, edge * 0.999, "heavy ball") < 1
        assert radius(mu, edge * 1.001, "heavy ball") > 1


@pytest.mark.claim("heavy-ball-window", tol=1e-7, trials=200)
def test_nesterov_stands_less(claim):
    for _ in range(claim.trials):
        mu = 0.02 + float(torch.rand(())) * 0.96
        edge = 2 * (1 + mu) / (1 + 2 * mu)
        assert radius(mu, edge * 0.999, "Nesterov") < 1
        assert radius(mu, edge * 1.001, "Nesterov") > 1
        low = ((1 - mu) / (1 + mu)) ** 2
        x = low + (1 - low) * float(torch.rand(()))
        if 4 * mu > (1 + mu) ** 2 * (1 - x) + 1e-6:  # complex roots
            shrinks = math.sqrt(mu * (1 - x))
            assert abs(radius(mu, x, "Nesterov") - shrinks) < claim.tol


@pytest.mark.claim("heavy-ball-window", tol=0.01, trials=50)
def test_torch_diverges_where_the_roots_say(claim):
    mu = 0.9
    limits = {False: 2 * (1 + mu), True: 2 * (1 + mu) / (1 + 2 * mu)}
    for nesterov, limit in limits.items():
        for side in (1 - claim.tol, 1 + claim.tol):
            w = torch.ones(1, dtype=torch.float64).requires_grad_()
            rule = torch.optim.SGD([w], side * limit, mu, nesterov=nesterov)
            for _ in range(40 * claim.trials):
                w.grad = w.detach().clone()
                rule.step()
            assert (float(w.detach().abs()) > 1) == (side > 1)


@pytest.mark.claim("batch-length", tol=0.05, trials=4000)
@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_mini_batch_gradient_is_longer_by_what_the_noise_says(claim, size):
    single = torch.randn(50, 8, dtype=torch.float64) + 0.5
    g = single.mean(0)
    noise = float((single - g).square().sum(1).mean() / (g @ g))
    drawn = single[torch.randint(50, (claim.trials, size))].mean(1)
    measured = float(drawn.square().sum(1).mean() / (g @ g))
    assert abs(measured / (1 + noise / size) - 1) < claim.tol


@pytest.mark.claim("batch-length", tol=1e-6, trials=20)
def test_the_best_rate_and_the_best_length(claim):
    """The expected bound, minimised over a grid; equally long gradients."""
    for _ in range(claim.trials):
        lam, noise = 1.7, float(torch.rand(())) * 10 + 0.1
        g = torch.randn(3, dtype=torch.float64)
        across = torch.linalg.qr(torch.stack([g, *torch.randn(2, 3).double()]).T)[0]
        side = across[:, 1] * g.norm() * noise**0.5
        drawn = torch.stack([g + side, g - side])  # mean g, equally long
        lengths = torch.linspace(0, 3 / lam, 30001, dtype=torch.float64)

        def bound(step: Tensor, lengths: Tensor = lengths, g: Tensor = g) -> Tensor:
            slope, square = (step @ g).mean(), step.square().sum(1).mean()
            return -lengths * slope + 1.7 / 2 * lengths**2 * square

        rate = lengths[bound(drawn).argmin()]
        assert abs(float(rate) * lam * (1 + noise) - 1) < 1e-3 * (1 + noise)
        unit = drawn / drawn.norm(dim=1, keepdim=True) * g.norm()
        length = lengths[bound(unit).argmin()]
        assert abs(float(length) * lam * (1 + noise) ** 0.5 - 1) < 1e-3 * (1 + noise)
        promised = float(g @ g) / (2 * lam * (1 + noise))
        assert abs(-float(bound(drawn).min()) / promised - 1) < claim.tol * 100
        assert abs(-float(bound(unit).min()) / promised - 1) < claim.tol * 100
