"""The polynomials: what is published comes out, and does what is said of it."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from anthology.linalg import (
    COEFFICIENT_SETS,
    coefficients,
    minimax_quintic,
    polar_express_coefficients,
)

# Amsel et al. 2025, Algorithm 1, before its division by the safety factor.
PAPER = [
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
]
# The five polynomials of the dion package: safety 1.02 inside, cushion 0.02.
DION = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def apply(polynomials, x: Tensor) -> Tensor:
    for a, b, c in polynomials:
        x = x * (a + x * x * (b + x * x * c))
    return x


def grid(low: float) -> Tensor:
    """Singular values from ``low`` to 1, evenly on a logarithmic scale."""
    return torch.logspace(math.log10(low), 0, 20001, dtype=torch.float64)


def worst(polynomials, low: float = 1e-3) -> float:
    """Largest distance from 1 of the images of [low, 1]."""
    return (1 - apply(polynomials, grid(low))).abs().max().item()


def furthest(one, other) -> float:
    """Largest relative difference between two lists of triples."""
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)


@pytest.mark.claim("polar-express-coefficients", tol=4e-11)
def test_the_published_list_of_eight_is_constructed(claim) -> None:
    built = polar_express_coefficients(8, safety=1.0)
    assert furthest(built, PAPER) < claim.tol
    # All of that distance is the seventh line of the publication.
    assert furthest(built[:6] + built[7:], PAPER[:6] + PAPER[7:]) < 1e-14
    safe = polar_express_coefficients(8)
    shrunk = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in PAPER[:7]]
    assert furthest(safe, [*shrunk, PAPER[7]]) < claim.tol


@pytest.mark.claim("polar-express-coefficients", tol=1e-14)
def test_the_published_list_of_five_is_constructed(claim) -> None:
    built = polar_express_coefficients(5, safety=1.02, cushion=0.02, safety_inside=True)
    assert furthest(built, DION) < claim.tol


@pytest.mark.claim("polar-express-optimal", tol=1e-11)
def test_worst_error_is_that_at_the_ends(claim) -> None:
    """1 − ℓ_{T+1}, attained at both ends of [ℓ, 1], from both sides."""
    figures = [0.9915, 0.9646, 0.8598, 0.5459, 0.1134, 0.000916]
    for steps, figure in enumerate(figures, 1):
        built = polar_express_coefficients(steps, safety=1.0, cushion=0.0)
        error = worst(built)
        assert abs(error - figure) < 5e-5
        end = 1 - apply(built, torch.tensor(1e-3, dtype=torch.float64)).item()
        assert abs(error - end) < claim.tol
        # Theorem 4.3, degree 5: q = 2.
        assert error <= (1 - 1e-3**2) ** (3**steps) + claim.tol


@pytest.mark.claim("polar-express-optimal", trials=200)
def test_no_other_composition_found_is_better(claim) -> None:
    best = polar_express_coefficients(3, safety=1.0, cushion=0.0)
    error = worst(best)
    generator = torch.Generator().manual_seed(0)
    for trial in range(claim.trials):
        noise = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        size = 10.0 ** -(1 + trial % 6)
        other = [
            tuple(p * (1 + size * e) for p, e in zip(triple, row, strict=True))
            for triple, row in zip(best, noise.tolist(), strict=True)
        ]
        assert worst(other) >= error
    for name in ("muon", "cubic"):
        assert worst(coefficients(name, 3)) > error


@pytest.mark.claim("best-quintic", tol=1e-12)
def test_a_minimax_quintic_equioscillates(claim) -> None:
    for lower, upper in [(1e-9, 1), (1e-3, 1), (0.2, 1.8), (0.9, 1.1), (0.99, 1.02)]:
        p = minimax_quintic(lower, upper)
        x = torch.linspace(lower, upper, 100001, dtype=torch.float64)
        error = 1 - apply([p], x)
        top = error.abs().max()
        ends = 1 - apply([p], torch.tensor([lower, upper], dtype=torch.float64))
        both = torch.tensor([1.0, -1.0], dtype=torch.float64)
        assert (ends - both * top).abs().max() < claim.tol
        # Between the ends two extrema: too high first, then too low.
        slope = torch.diff(error).sign()
        turns = (slope[1:] * slope[:-1] < 0).nonzero().flatten() + 1
        assert len(turns) == 2
        assert (error[turns] + both * top).abs().max() < 1e-6 * top


def test_a_short_interval_has_the_pade_polynomial() -> None:
    for centre in (1.0, 0.25, 3.0):
        a, b, c = minimax_quintic(centre * (1 - 1e-6), centre * (1 + 1e-6))
        pade = (15 / 8 / centre, -10 / 8 / centre**3, 3 / 8 / centre**5)
        assert furthest([(a, b, c)], [pade]) < 1e-14
    near = minimax_quintic(1 - 3e-6, 1 + 3e-6)
    assert furthest([near], [(15 / 8, -10 / 8, 3 / 8)]) < 1e-10


@pytest.mark.claim("newton-schulz-figures", tol=1e-3)
def test_figures_of_the_muon_quintic(claim) -> None:
    (p,) = coefficients("muon", 1)
    one = torch.tensor(1.0, dtype=torch.float64)
    assert abs(apply([p], one) - 0.7010) < claim.tol
    for fixed in (0.8680, 1.2637):
        x = torch.tensor(fixed, dtype=torch.float64, requires_grad=True)
        assert abs(apply([p], x) - fixed) < claim.tol
        (slope,) = torch.autograd.grad(apply([p], x), x)
        assert slope.abs() > 1, "repelling"
    five = coefficients("muon")
    assert len(five) == 5
    image = apply(five, grid(1e-2))
    assert abs(image.min() - 0.682) < claim.tol
    assert abs(image.max() - 1.134) < claim.tol
    assert abs(apply(five, 1e-3 * one) - 0.471) < claim.tol
    highest = max(apply(five[:k], grid(1e-6)).max() for k in range(1, 6))
    assert abs(highest - 1.20237) < claim.tol
    assert abs(apply([p], 0.55453 * one) - 1.20237) < claim.tol
    tiny = torch.tensor(1e-12, dtype=torch.float64)
    assert abs(apply(five, tiny) / tiny - 3.4445**5) < 0.5
    # It never settles: after many steps the values still fill the band.
    late = apply(coefficients("muon", 60), grid(1e-2))
    assert 0.68 < late.min() < 0.7
    assert 1.12 < late.max() < 1.21


@pytest.mark.claim("newton-schulz-figures", tol=1e-3)
def test_figures_of_the_other_sets(claim) -> None:
    you = coefficients("you")
    image = apply(you, grid(1e-2))
    assert abs(image.min() - 0.9956) < claim.tol
    assert abs(image.max() - 0.9993) < claim.tol
    assert abs(apply(you, grid(1e-3)).min() - 0.867) < claim.tol
    assert abs(worst(you) - 0.134) < claim.tol
    cubic = coefficients("cubic", 1)
    low = torch.tensor(1e-3, dtype=torch.float64)
    assert abs(1 - apply(cubic * 20, low)) < 1e-3 < abs(1 - apply(cubic * 19, low))
    start = torch.linspace(0.01, 1.73, 500, dtype=torch.float64)
    assert (apply(cubic * 80, start) - 1).abs().max() < 1e-12
    above = torch.tensor(1.74, dtype=torch.float64)
    assert abs(apply(cubic * 80, above) + 1) < 1e-12
    five = torch.tensor(5.0, dtype=torch.float64).sqrt()
    assert abs(apply(cubic, five) + five) < 1e-12, "cycles"


@pytest.mark.claim("newton-schulz-figures", tol=1e-3)
def test_worst_errors_side_by_side(claim) -> None:
    pade = [(15 / 8, -10 / 8, 3 / 8)]
    table = {
        3: (0.860, 0.959, 0.993, 0.997),
        4: (0.546, 0.860, 0.988, 0.995),
        5: (0.113, 0.530, 0.977, 0.992),
        6: (0.0009, 0.318, 0.957, 0.989),
    }
    for steps, figures in table.items():
        found = (
            worst(polar_express_coefficients(steps, safety=1.0, cushion=0.0)),
            worst(coefficients("muon", steps)),
            worst(pade * steps),
            worst(coefficients("cubic", steps)),
        )
        for one, figure in zip(found, figures, strict=True):
            assert abs(one - figure) < claim.tol


def test_every_set_has_a_default_and_a_credit() -> None:
    for name, chosen in COEFFICIENT_SETS.items():
        assert coefficients(name) == coefficients(name, chosen.steps)
        assert len(coefficients(name)) == chosen.steps
        assert chosen.credit
        short = coefficients(name, 2)
        assert len(short) == 2
        assert all(len(triple) == 3 for triple in short)


def test_construction_is_remembered() -> None:
    assert polar_express_coefficients(6) is polar_express_coefficients(6)


@pytest.mark.parametrize("lower", [1e-12, 1e-6, 0.5, 0.999, 1 - 1e-12])
def test_any_lower_end_can_be_aimed_at(lower: float) -> None:
    built = polar_express_coefficients(60, lower, safety=1.0, cushion=0.0)
    assert all(type(v) is float for v in itertools.chain(*built))
    assert furthest(built[-1:], [(15 / 8, -10 / 8, 3 / 8)]) < 1e-14
    assert worst(built, lower) < 1e-14


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": 3, "lower": 0.0}, "lower must lie between 0 and 1"),
        ({"steps": 3, "lower": 1.0}, "lower must lie between 0 and 1"),
        ({"steps": 3, "lower": math.nan}, "lower must lie between 0 and 1"),
        ({"steps": 3, "safety": 0.99}, "safety must be at least 1"),
        ({"steps": 3, "cushion": 1.0}, "cushion must lie in"),
        ({"steps": 3, "cushion": -0.1}, "cushion must lie in"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        polar_express_coefficients(**arguments)


def test_wrong_intervals_are_refused() -> None:
    for lower, upper in [(0, 1), (2, 1), (-1, 1), (math.nan, 1), (1, math.inf)]:
        with pytest.raises(ValueError, match="need 0 < lower <= upper"):
            minimax_quintic(lower, upper)
