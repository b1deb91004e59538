"""The claims that the chapter beyond gradient descent adds to those of the package."""

import importlib
import json
import math
from pathlib import Path
from statistics import median

import pytest
import torch
from torch.func import grad, jvp

from anthology import lab, norms, optim
from anthology.lab import silent
from anthology.lab.problems import two_weights
from anthology.motion import average_factor, flow, generator, smooth_nuclear, step_map

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
STORE = RESULTS / "beyond_gradient_descent.json"
SMOOTH = [norms.L2(), norms.LInf(), norms.L1(), norms.Lp(3.0), norms.RMS()]
SMOOTH += [norms.Frobenius(), norms.MaxAbs(), norms.Spectral(), norms.Nuclear()]
SMOOTH += [norms.Schatten(1.5), norms.RMSToRMS(), norms.OneToRMS(), norms.RMSToInf()]


def gaussian(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.claim("dualize-gradient", tol=1e-9, trials=20)
@pytest.mark.parametrize("norm", SMOOTH, ids=repr)
def test_the_duality_map_is_the_gradient_of_the_dual_norm(claim, norm):
    for seed in range(claim.trials):
        g = gaussian(*(7,) if norm.ndim == 1 else (4, 3), seed=seed)
        assert lab.gap(grad(norm.dual)(g), norm.dualize(g)) < claim.tol
        square = grad(lambda g: norm.dual(g) ** 2 / 2)(g)
        assert lab.gap(square, norm.dual(g) * norm.dualize(g)) < claim.tol


@pytest.mark.claim("dualize-gradient", tol=1e-9, trials=2)
def test_with_two_maximisers_the_dual_norm_has_a_kink(claim):
    """ℓ∞ where an entry is zero, spectral where a singular value is."""
    cases = [
        (norms.LInf(), torch.tensor([1.0, 0.0]).double()),
        (norms.Spectral(), torch.diag(torch.tensor([1.0, 0.0]).double())),
    ]
    assert len(cases) == claim.trials
    for norm, g in cases:
        h = torch.zeros_like(g)
        h.view(-1)[-1] = 1e-3
        right, left = ((norm.dual(g + s * h) - norm.dual(g)) / s for s in (1, -1))
        assert abs(right - left - 2e-3) < claim.tol


def braces(g, tau1, tau2, eps, p):
    return (1 + 2 * tau1) - 2 * p * (1 + 2 * tau2) * g * g / (g * g + eps)


@pytest.mark.claim("braces-any-power", tol=0.15)
@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_two_memories_under_any_power(claim, p):
    """Steps with averages of known age, against the motion of the proposition."""
    beta1, beta2, eps, time = 0.5, 0.8, 0.3, 0.5
    first, second = beta1 / (1 - beta1), beta2 / (1 - beta2)
    gradient, w0 = two_weights.gradient, two_weights.start()

    def motion(w, lr):
        g = gradient(w)
        s = (g * g + eps) ** p
        turned = jvp(gradient, (w,), (g / s,))[1]
        return -(g + lr / 2 * braces(g, first, second, eps, p) * turned) / s

    errors = []
    for steps in (400, 800):
        lr, w, m, v, history = time / steps, w0, 0.0, 0.0, 60
        # a past on the motion, so that the averages are in place
        past = flow(
            lambda w, lr=lr: -motion(w, lr), w0, [lr * k for k in range(history)]
        )
        for old in past.flip(0)[:-1]:
            g = gradient(old)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        for _ in range(steps):
            g = gradient(w)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            w = w - lr * m / (v + eps) ** p
        errors.append((flow(lambda w, lr=lr: motion(w, lr), w0, time) - w).norm())
    assert abs(math.log2(errors[0] / errors[1]) - 2) < claim.tol


def sign_end(make, lr):
    """(a, b) where a path from the book's start passes ab = 1 − 1e-3."""
    w = two_weights.start().requires_grad_()
    optimizer, old = make([w], lr), two_weights.start()
    while two_weights.residual(w) < -1e-3:
        old, w.grad = w.detach().clone(), two_weights.gradient(w.detach())
        optimizer.step()
    r, s = two_weights.residual(old), two_weights.residual(w.detach())
    return old + (-1e-3 - r) / (s - r) * (w.detach() - old)


@pytest.mark.claim("two-weights-memory", tol=1e-12, trials=4)
def test_sign_descent_keeps_the_difference(claim):
    for k in range(claim.trials):
        a, b = sign_end(
            lambda p, lr: optim.SteepestDescent(p, lr, norm=norms.LInf()), 0.1 / 2**k
        )
        assert abs(a - b - 1.8) < claim.tol


@pytest.mark.claim("two-weights-memory", tol=0.05, trials=3)
def test_memories_drive_the_two_weights_apart_or_together(claim):
    """By −0.38 η (τ₁ − τ₂), for memories that are short against the path."""
    pairs = [(0.9, 0.5), (0.5, 0.9), (0.0, 0.8)]
    assert len(pairs) == claim.trials
    for betas in pairs:
        first, second = (b / (1 - b) for b in betas)
        a, b = sign_end(
            lambda p, lr, betas=betas: torch.optim.Adam(p, lr, betas, eps=1e-12), 1e-4
        )
        drift = math.log((a - b) / 1.8)
        assert abs(drift / (-0.38e-4 * (first - second)) - 1) < claim.tol


@pytest.mark.claim("penalty-table", tol=1e-3)
def test_every_class_shows_the_factor_of_the_table(claim):
    for row in silent.PENALTIES:
        found = row.measured()
        if row.said.factor is not None:
            assert found == pytest.approx(row.said.factor, rel=claim.tol, abs=0.1), row


def rooted(gram, eps):
    values, basis = torch.linalg.eigh(gram + eps * torch.eye(len(gram)).double())
    return basis * values**-0.25 @ basis.T


@pytest.mark.claim("matrix-braces", tol=0.1)
@pytest.mark.parametrize("betas", [(0.5, 0.8), (0.8, 0.5)])
def test_two_memories_of_a_matrix(claim, betas):
    """Shampoo's velocity, of the class, against (1 + 2τ₂)D + 2(τ₁ − τ₂)P."""
    a, b, target, w0 = (gaussian(3, 3, seed=seed) for seed in range(4))
    eps, phi = 0.1, smooth_nuclear(0.1)
    first, second = (beta / (1 - beta) for beta in betas)

    def loss(w):
        return (a @ w @ b - target).cosh().log().sum() / 3

    def motion(w, lr):
        g = grad(loss)(w)
        direction = phi.direction(g)
        e = jvp(grad(loss), (w,), (direction,))[1]
        p = rooted(g @ g.T, eps) @ e @ rooted(g.T @ g, eps)
        d = jvp(phi.direction, (g,), (e,))[1]
        return -direction - lr / 2 * ((1 + 2 * second) * d + 2 * (first - second) * p)

    errors = []
    for lr in (0.002, 0.001):
        w = w0.clone().requires_grad_()
        shampoo = optim.Shampoo([w], lr, betas, eps=eps, relative_eps=False)
        step = step_map(shampoo, lambda w=w: loss(w).backward())
        v = step.start
        for _ in range(round(0.4 / lr)):
            v = step(v)
        here, velocity = map(step.parameters, (v, generator(step, v, 4, lr)))
        errors.append((velocity.view(3, 3) - motion(here.view(3, 3), lr)).norm())
    assert abs(math.log2(errors[0] / errors[1]) - 2) < claim.tol


def charged(make, sizes, change, steps):
    return silent.toll(make, torch.diag(torch.tensor(sizes).double()), change, steps)


TURN = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()


@pytest.mark.claim("shampoo-braces", tol=1e-3, trials=4)
def test_shampoo_pays_for_growing_and_turning(claim):
    """By the proposition's sums; and turns are charged up to a quotient of 3.87."""

    def shampoo(p):
        return optim.Shampoo(p, 1.0, (0.9, 0.98), eps=0.0)

    for seed in range(claim.trials):
        k, s = gaussian(2, 2, seed=seed), [1.0, 0.3 + 0.2 * seed]
        roots = torch.tensor(s).double().sqrt()
        grown = (k * k / torch.outer(roots, roots)).sum()
        turned = (k[0, 1] - k[1, 0]) ** 2 / sum(s)
        said = -80 * grown + 99 * turned
        scale = 80 * grown + 99 * turned
        assert abs(charged(shampoo, s, k, 1000)[0] - said) < claim.tol * scale
    assert charged(shampoo, [3.8, 1.0], TURN, 1000)[0] > 0
    assert charged(shampoo, [3.9, 1.0], TURN, 1000)[0] < 0


@pytest.mark.claim("sums-never-settle", tol=1e-3, trials=3)
def test_what_sums_have_been_charged_after_k_steps(claim):
    """Growing: 1 + 2τ − k, so it never settles; turning: 1 + 2τ, at any k."""
    asked = [(100, 0.9), (200, 0.5), (200, 0.8)]
    assert len(asked) == claim.trials
    unit = torch.eye(2).double()
    for k, beta in asked:

        def shampoo(p, beta=beta):
            return optim.Shampoo(p, 1.0, (beta, 1.0))

        c = (1 + beta) / (1 - beta)
        base = 2 / math.sqrt(k)
        grown = charged(shampoo, [1.0, 1.0], unit, k)[0]
        # started at zero, the average is short of β^k times k at most
        limit = claim.tol * k + 2 * k * beta**k
        assert abs(grown / base - (c - k)) < limit
        turned, slope = charged(shampoo, [1.0, 1.0], TURN, k)
        assert abs(turned / slope - c) < limit


@pytest.mark.claim("sirf-braces", tol=2e-3, trials=3)
def test_the_age_of_sirf_shampoos_factors(claim):
    """1/(kβ) − 1 with k axes; what averages is the step, and turns ask only that."""
    lam, unit = 1e-3, torch.eye(2).double()
    settings = [(0.02, 0.9), (0.05, 0.5), (0.05, 0.9)]
    assert len(settings) == claim.trials
    for beta, mu in settings:

        def sirf(p, beta=beta, mu=mu):
            return optim.SIRFShampoo(
                p, 1.0, factor_lr=beta, momentum=mu, damping=lam, batch_size=1
            )

        rho, c = 0.5 / (0.5 + lam), (1 + mu) / (1 - mu)
        base = 2 / (0.5 + lam) / (1 - mu)
        grown = charged(sirf, [1.0, 1.0], unit, 600)[0] / base
        said = c * (1 - 2 * rho) - 4 * (1 / (2 * beta) - 1) * rho
        assert grown == pytest.approx(said, rel=claim.tol)
        turned, slope = charged(sirf, [1.0, 1.0], TURN, 600)
        assert turned / slope == pytest.approx(c, rel=claim.tol)


@pytest.mark.claim("soap-turns", trials=3)
def test_soap_rewards_turns_and_a_rare_basis_more(claim):
    """At singular values 3 and 1; lengths pay nothing."""
    unit = torch.diag(torch.tensor([3.0, 1.0])).double()
    tolls = []
    for refresh in (1, 4, 10)[: claim.trials]:

        def soap(p, refresh=refresh):
            return optim.SOAP(p, 1.0, weight_decay=0.0, refresh=refresh)

        grown, _ = charged(soap, [3.0, 1.0], unit, 401)
        assert abs(grown) < 1e-4
        tolls.append(charged(soap, [3.0, 1.0], TURN, 401)[0])
    assert 0 > tolls[0] > tolls[1] > tolls[2]


@pytest.mark.claim("scion-gap", tol=1e-10, trials=10)
def test_scion_is_charged_its_frank_wolfe_gap(claim):
    """max ⟨∇f, W − X⟩ over the ball is what the proposition on decay has for κ = 1."""
    for seed in range(claim.trials):
        g, w = gaussian(4, 3, seed=seed), gaussian(4, 3, seed=seed + 100)
        for norm in (norms.Spectral(), norms.MaxAbs(), norms.RMSToRMS()):
            radius = 1.0 + seed
            p = w.clone().requires_grad_()
            scion = optim.Scion([p], 1.0, radius=radius, norm=norm)
            p.grad = g
            scion.step()  # at rate one it lands on the corner
            gap = (g * (w - p.detach())).sum()
            said = radius * norm.dual(g) + (g * w).sum()
            assert abs(gap - said) < claim.tol * (1 + said.abs())


def test_the_table_leaves_no_class_out():
    carried = {n for n in optim.__all__ if hasattr(getattr(optim, n), "card")}
    assert {row.name for row in silent.PENALTIES} == carried - {"BaseOptimizer"}


def test_the_formulas_of_the_table_give_its_numbers():
    numbers = {
        (row.name, *sorted(row.said.settings.items())): row.said.factor
        for row in silent.PENALTIES
    }
    muon = optim.Muon([torch.zeros(1, 1)]).param_groups[0]
    lion = optim.Lion([torch.zeros(1)]).param_groups[0]["betas"]
    adam = optim.Adam([torch.zeros(1)]).param_groups[0]["betas"]
    assert numbers["Muon",] == pytest.approx(
        average_factor(muon["momentum"], nesterov=True)
    )
    assert numbers["Lion",] == pytest.approx(1 + 2 * lion[0] / (1 - lion[1]))
    assert numbers["Adam",] == pytest.approx(
        average_factor(adam[0]) - average_factor(adam[1])
    )
    soap = optim.SOAP([torch.zeros(1)]).param_groups[0]["betas"]
    assert numbers["SOAP",] in (None, average_factor(soap[0]) - average_factor(soap[1]))
    krad = optim.KrADagrad([torch.zeros(1)]).param_groups[0]["momentum"]
    assert numbers["KrADagrad", ("initial", 1e6)] == pytest.approx(
        1 + krad**2 / (1 - krad) - 400
    )


def shifts(method, rate, key="measured"):
    rows = json.loads(STORE.read_text())["results"]["shifts"][method]
    return [row[rate][key] for row in rows]


SMOOTH_METHODS = ("gradient descent", "normalised")


@pytest.mark.claim("penalty-on-digits", tol=0.05, trials=10)
def test_on_digits_smooth_maps_pay_what_is_predicted(claim):
    """All of ten networks, at every rate; in the median within 5 %."""
    for method in (m + b for m in SMOOTH_METHODS for b in ("", ", β = 0.9")):
        for rate in range(3):
            measured, predicted = (
                shifts(method, rate, k) for k in ("measured", "predicted")
            )
            assert len(measured) == claim.trials
            assert max(measured) < 0
            ratio = median(m / p for m, p in zip(measured, predicted, strict=True))
            assert abs(ratio - 1) < claim.tol, (method, rate, ratio)


@pytest.mark.claim("penalty-on-digits-spectral", trials=10)
def test_on_digits_muon_pays_and_spectral_descent_does_not(claim):
    for rate in range(3):
        assert sum(x < 0 for x in shifts("Muon", rate)) == claim.trials
    pairs = zip(shifts("Muon", 2), shifts("Muon", 2, "predicted"), strict=True)
    assert 0.8 < median(m / p for m, p in pairs) < 1.2
    for rate in range(2):
        assert sum(x > 0 for x in shifts("spectral", rate)) >= claim.trials - 1


@pytest.mark.claim("adam-on-digits", trials=10)
def test_on_digits_the_order_of_adams_averages(claim):
    stored = json.loads(STORE.read_text())["results"]["adam"]

    def above(a, b):
        return sum(x > y for x, y in zip(stored[a], stored[b], strict=True))

    for rewarded in ("0.5, 0.9", "0.9, 0.99"):
        assert above(rewarded, "0, 0") == claim.trials
        assert above(rewarded, "0.9, 0.9") == claim.trials
    assert above("0, 0", "0.9, 0.9") == claim.trials
    # against the prediction
    assert above("0.5, 0.9", "0.9, 0.99") >= claim.trials - 1
    assert min(stored["0.9, 0.5"]) > max(
        max(stored[b]) for b in stored if b != "0.9, 0.5"
    )


@pytest.mark.claim("momentum-raced", trials=5)
def test_whether_momentum_helps_depends_on_the_problem(claim, monkeypatch):
    monkeypatch.syspath_prepend(str(RESULTS.parent))
    rule, stored = map(importlib.import_module, ("race_statistics", "race_runs"))
    sigma = importlib.import_module("race_declaration").SIGMA
    gains = {}
    for where in sigma:
        for name in ("SGD", "Signum", "Muon", "AdamW"):
            told = stored.slice([name, f"{name}-0"], where)
            both = [told[name]["losses"], told[f"{name}-0"]["losses"]]
            assert [len(found) for found in both] == 2 * [claim.trials]
            gains[where, name] = rule.lead(*both, sigma[where]) / rule.MARGIN
            if name == "SGD":
                assert 5 <= told["SGD-0"]["rate"] / told["SGD"]["rate"] <= 20
                means = [round(rule.average(found), 2) for found in both]
                assert where != "digits" or means == [0.36, 0.61]
    assert {key for key, gain in gains.items() if gain >= 1} == {
        ("digits", "SGD"),
        ("digits", "Signum"),
        ("digits", "Muon"),
        ("mnist", "Signum"),
    }
    assert [key for key, gain in gains.items() if gain <= -1] == [("text", "AdamW")]
