"""What the chapter on half precision states: standstill, decades, cures, its runs."""

import math

import pytest
import torch

from anthology import lab
from anthology.linalg import inverse_root
from anthology.optim import SIRFShampoo
from experiments import half_precision as study

F64 = torch.float64


def rounded(x, bits):
    """To so many significant bits, the nearest, ties to even."""
    m, e = torch.frexp(x)
    return torch.ldexp(torch.round(m * 2.0**bits) / 2.0**bits, e)


@pytest.mark.claim("standstill", trials=10_000)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_by_hand_is_that_of_torch(claim, dtype):
    torch.manual_seed(0)
    x = torch.randn(claim.trials).exp()  # normal numbers of both formats
    bits = {torch.bfloat16: 8, torch.float16: 11}[dtype]
    assert torch.equal(rounded(x.double(), bits), x.to(dtype).double())


@pytest.mark.claim("standstill", trials=20_000)
@pytest.mark.parametrize("bits", [4, 8, 11, 24])
def test_changes_below_half_a_unit_are_lost_and_above_a_unit_are_not(claim, bits):
    torch.manual_seed(1)
    u = 2.0**-bits
    x = rounded(torch.randn(claim.trials, dtype=F64).exp(), bits)
    x = torch.cat([x, 2.0 ** torch.arange(-9.0, 10.0, dtype=F64)])
    for sign in (-1, 1):
        assert torch.equal(rounded(x + sign * u / 2 * x, bits), x)
        assert (rounded(x + sign * u * (1 + 1e-6) * x, bits) != x).all()
    one = torch.ones((), dtype=F64)
    assert rounded(one + u, bits) == 1 < rounded(one + u * (1 + 1e-6), bits)
    # an average: never down, up from the stated size on, not below the other
    y = 10 * torch.rand_like(x) * x
    for rate in (u / 2, u / 5):
        new = rounded(x + rate * (y - x), bits)
        assert (new >= x).all()
        assert torch.equal(
            new[y <= x * (1 + u / rate / 2)], x[y <= x * (1 + u / rate / 2)]
        )
        assert (new > x)[y > x * (1 + u / rate)].all()
    falls = rounded(x - 1.001 * u * x, bits)
    assert (falls < x).all()


@pytest.mark.claim("standstill", trials=60)
@pytest.mark.parametrize("bits", [8, 11, 24])
@pytest.mark.parametrize("d", [5, 9, 64, 300])
def test_the_identity_is_left_above_the_root_of_d_units(claim, bits, d):
    border = d**0.5 * 2.0**-bits
    for rate in (0.9999 * border, 1.0001 * border):
        k, m = torch.ones((), dtype=F64), 0.0
        for _ in range(claim.trials):
            m = 0.5 * m - 0.25
            k = rounded(k - rate * k * m / max(1.0, -m * d**0.5), bits)
        assert bool(k > 1) == (rate > border)


@pytest.mark.claim("standstill", trials=12)
@pytest.mark.parametrize("d", [16, 64, 256])
@pytest.mark.parametrize("times", [0.98, 1.02])
def test_the_package_stands_still_below_the_border(claim, d, times):
    """The sentence of its docstring, with gradients that are small but not zero."""
    torch.manual_seed(2)
    p = torch.nn.Parameter(torch.zeros(d, 8))
    options = {"batch_size": 1, "damping": 0.0, "factor_dtype": "bfloat16"}
    optimizer = SIRFShampoo([p], 0.0, times * d**0.5 / 256, **options)
    for _ in range(claim.trials):
        p.grad = 1e-5 * torch.randn(d, 8)
        optimizer.step()
    diagonal = optimizer.state[p]["factor_0"].view(d, d).diagonal()
    assert (diagonal > 1).all() if times > 1 else (diagonal == 1).all()


@pytest.mark.claim("standstill", trials=1200)
def test_adams_v_in_bfloat16_never_falls(claim):
    for beta2, falls in ((0.999, False), (0.99, True)):
        p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        optimizer = torch.optim.Adam([p], 1e-4, (0.9, beta2))
        seen = []
        for k in range(claim.trials):
            p.grad = torch.full_like(p, 1.0 if k < claim.trials // 2 else 0.01)
            optimizer.step()
            seen.append(optimizer.state[p]["exp_avg_sq"].double().clone())
        found = torch.stack(seen)
        assert bool((found.diff(dim=0) < 0).any()) == falls
        assert (found[-1] == 0.5).all() != falls


def problem(d, rho, seed):
    """A positive definite matrix, and the symmetric root of its inverse."""
    draw = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=draw))[0]
    h = torch.logspace(0, -math.log10(rho), d, dtype=F64)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=F64, generator=draw))[0]
    s = q * h @ q.T
    return (s + s.T) / 2, q * h**-0.5 @ turn


@pytest.mark.claim("half-decades", trials=10)
@pytest.mark.parametrize("bits", [8, 11])
def test_a_factor_keeps_twice_the_decades(claim, bits):
    u, d = 2.0**-bits, 16
    for seed in range(claim.trials):
        s, _ = problem(d, 0.9 / (d**0.5 * u), seed)
        assert torch.linalg.eigvalsh(rounded(s, bits)).min() > 0
        rho = 0.5 / (d * u * u)
        s, k = problem(d, rho, seed)
        x = (d * rho) ** 0.5 * u
        k = rounded(k, bits)
        true = torch.linalg.eigvalsh(torch.linalg.inv(s))
        ratio = torch.linalg.eigvalsh(k @ k.T) / true
        assert ((1 - x) ** 2 <= ratio + 1e-6).all()
        assert (ratio - 1e-6 <= (1 + x) ** 2).all()
    errors = [study.gain_errors(bits, r, 0) for r in (4 / u, 400 / u)]
    assert errors[0][0] < 0.5 and errors[1][1] < 0.5 and errors[1][0] > 1
    pair = torch.tensor([[1, 1 - u / 2], [1 - u / 2, 1]], dtype=F64)
    low, high = torch.linalg.eigvalsh(pair)
    assert abs(high / low - (4 / u - 1)) < 1e-6 / u
    assert torch.equal(rounded(pair, bits), torch.ones(2, 2, dtype=F64))


@pytest.mark.claim("factor-invertible", trials=200)
def test_no_step_makes_a_factor_singular(claim):
    torch.manual_seed(3)
    for trial in range(claim.trials):
        d, bits, rate = 7, (8, 11)[trial % 2], (0.05, 0.5, 0.9)[trial % 3]
        m = torch.randn(d, d, dtype=F64) * 10.0 ** (trial % 5 - 3)
        m = m + m.T
        step = torch.eye(d, dtype=F64) - rate * m / m.norm().clamp(min=1)
        values = torch.linalg.eigvalsh(step)
        assert 1 - rate - 1e-9 <= values[0] and values[-1] <= 1 + rate + 1e-9
        k = torch.randn(d, d, dtype=F64)
        old, new = torch.linalg.svdvals(k), torch.linalg.svdvals(k @ step)
        assert new[-1] >= (1 - rate) * old[-1] - 1e-9
        near = torch.linalg.svdvals(rounded(k @ step, bits))
        lost = d**0.5 * 2.0**-bits * (1 + rate) * old[0]
        assert near[-1] >= (1 - rate) * old[-1] - lost


def gradients(steps=150):
    """Of the first layer of a perceptron that learns."""
    net = lab.mlp([64, 32, 32, 10], bias=False).double()
    adam, found = torch.optim.Adam(net.parameters(), 3e-3), []
    for x, y in study.batches(0, steps, F64):
        adam.zero_grad()
        lab.cross_entropy(net(x), y).backward()
        adam.step()
        found.append(next(net.parameters()).grad.clone())
    return found


@pytest.mark.claim("half-precision-cures", trials=150)
def test_three_ways_to_keep_what_is_rounded_off(claim):
    torch.manual_seed(4)
    history = gradients(claim.trials)
    off = {}
    for keep in ("nearest", *study.CURES):
        found, factors = study.step_errors(history, "free", 0.01, keep)
        off[keep] = float(found.median())
        still = all(bool((k.diagonal() == 1).all()) for k in factors.kept)
        assert still == (keep == "nearest")
    assert 0.25 < off["nearest"] < 0.45 and 0.02 < off["stochastic"] < 0.15
    assert off["compensated"] < 0.01 and off["products"] < 0.01


def test_the_experiments_factors_are_those_of_the_package():
    torch.manual_seed(5)
    p = torch.nn.Parameter(torch.zeros(6, 4, dtype=F64))
    package = SIRFShampoo([p], 1.0, 0.05, 0.0, batch_size=study.BATCH)
    factors = study.Factors((6, 4), "free", F64, 0.05)
    for _ in range(50):
        before = p.detach().clone()
        p.grad = torch.randn(6, 4, dtype=F64)
        package.step()
        step = factors.step(p.grad)
        assert (before - p.detach() - step).norm() < 1e-11 * step.norm()


def test_the_twin_with_a_root_is_shampoos():
    torch.manual_seed(6)
    factors, sums = study.Factors((5, 3), "root", F64, 0.1), [0.0, 0.0]
    for k in range(1, 6):
        g = torch.randn(5, 3, dtype=F64)
        step = factors.step(g)
        for i, gram in enumerate((g @ g.T, g.T @ g)):
            sums[i] = 0.9 * sums[i] + 0.1 * gram
        left, right = (inverse_root(x / (1 - 0.9**k), 4, epsilon=1e-12) for x in sums)
        assert (left @ g @ right - step).norm() < 1e-6 * step.norm()


RUNS = study.stored()
JUDGED = {what: (found, ok) for what, found, ok in study.verdicts(RUNS)}


@pytest.mark.claim("sirf-half-precision", trials=5)
def test_above_the_border_bfloat16_trains_alike_and_below_it_descends(claim):
    found, ok = JUDGED["bf16 at 0.05: ± 10 %"]
    assert ok and found[0] < 0.95  # not within 5 %
    (free, slow), ok = JUDGED["bf16 at 0.01, 0.02: > 1.2"]
    assert not ok and free < 0.6 and slow > 1.5
    lr, losses = study.best(RUNS, "free", "bfloat16", 0.01), []
    for seed in range(claim.trials):
        net = lab.mlp([64, 32, 32, 10], bias=False, seed=seed)
        sgd = torch.optim.SGD(net.parameters(), lr, momentum=study.MOMENTUM)
        for x, y in study.batches(seed, 150, torch.float32):
            sgd.zero_grad()
            lab.cross_entropy(net(x), y).backward()
            sgd.step()
        losses.append(study.final(net))
    still = study.middle(study.five(RUNS, "free", "bfloat16", 0.01))
    assert 0.75 < study.middle(losses) / still < 1.25


@pytest.mark.claim("half-precision-roots-fail", trials=5)
def test_undamped_roots_fail_in_bfloat16_and_damped_ones_do_not(claim):
    gone = study.five(RUNS, "root", "bfloat16", 0.01)
    assert len(gone) == claim.trials and sum(x == 100 for x in gone) == 4
    found, ok = JUDGED["root, bf16 and f16: > 10"]
    assert not ok and found[0] > 100 and 1.5 < found[1] < 1.7
    for what in ("bf16: < 2", "f16: ± 20 %"):
        found, ok = JUDGED[f"damped, {what}"]
        assert ok and found[0] < 1.1
    free = [
        x
        for gamma in study.GAMMAS["free"]
        for dtype in study.DTYPES
        for own in (False, True)
        for x in study.five(RUNS, "free", dtype, gamma, own)
    ]
    assert max(study.five(RUNS, "damped", "bfloat16", 0.01)) < min(free)
    # one of them now: it ends as it did, or rounds otherwise on another processor
    lr = study.best(RUNS, "damped", "float32", 0.01)
    again = study.race("damped", "bfloat16", 0.01, lr, 0)
    assert again is not None and again < 0.05


@pytest.mark.claim("half-precision-float16", tol=0.1, trials=5)
def test_float16_follows_float32(claim):
    found, ok = JUDGED["f16 at four rates: ± 10 %"]
    assert not ok and abs(found[0] - 0.82) < 0.005
    assert all(abs(x - 1) < claim.tol for x in found[1:])


@pytest.mark.claim("half-precision-adam", trials=5)
def test_adam_does_not_miss_a_v_that_falls(claim):
    (v,), ok = JUDGED["Adam, v in bf16: > 1.2"]
    assert not ok and abs(v - 1) < 0.02
    assert JUDGED["Adam, m in bf16: ± 10 %"][1]
    (nearest,), ok = JUDGED["weights in bf16: > 1.2"]
    assert ok and round(nearest, 2) == 1.37
    found, _ = JUDGED["weights, cured: ± 20 %"]
    assert all(abs(x - 1) < 0.025 for x in found)
    assert len(study.SEEDS) == claim.trials


@pytest.mark.claim("sirf-eigh-time", trials=9)
def test_a_decomposition_takes_over_sixteen_products(claim):
    """The stored times alone: no test depends on a clock."""
    assert len(RUNS["times"]["eigh"]) == claim.trials
    (ratio,), ok = JUDGED["eigh, in products: > 16"]
    assert ok and round(ratio) == 42


@pytest.mark.claim("sirf-low-precision-fast", trials=9)
def test_factors_in_bfloat16_save_time_and_float16_none(claim):
    """The stored times alone: no test depends on a clock."""
    times = RUNS["times"]
    assert all(len(x) == claim.trials for x in times.values())
    took = {k: sorted(x)[claim.trials // 2] for k, x in times.items()}
    step, single = took["Shampoo"], took["product float32"]
    assert round(took["SIRFShampoo float32"] / step, 2) == 0.56
    assert round(took["SIRFShampoo bfloat16"] / step, 2) == 0.47
    assert round(took["product bfloat16"] / single, 2) == 0.31
    assert took["product float16"] > single
