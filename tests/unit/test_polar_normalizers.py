"""Published polynomials, what is done before them, and what after: measured."""

import math

import pytest
import torch
from torch import Tensor

from anthology.linalg import (
    COEFFICIENT_SETS,
    NORMALIZERS,
    certificate,
    coefficients,
    newton_schulz,
    polar,
)
from anthology.linalg.polar import normalized
from anthology.linalg.published import AOL, CANS, CUBIC5, MUON, QUINTIC, SETTLING
from tests.norm_catalogue import draw, orthogonal, relative

EVERY = ["svd", "eigh", "gram", *COEFFICIENT_SETS]
every_method = pytest.mark.parametrize("method", EVERY)
every_normalizer = pytest.mark.parametrize("normalize", NORMALIZERS)
# The first list that Turbo-Muon's authors gave, which others still carry.
TURNING = (
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
)
# Set: its polynomials as published, image of [1e-3, 1], of G1, efficiency on G1, G2.
TABLE = {
    "muon": ((MUON,) * 5, (0.471, 1.202), (0.091, 1.202), 0.735, 0.737),
    "quintic": (QUINTIC, (0.475, 1.145), (0.093, 1.145), 0.870, 0.869),
    "cans": (CANS, (0.884, 1.120), (0.196, 1.116), 0.895, 0.898),
    "deepseek": ((MUON,) * 8 + (SETTLING,) * 2, (1, 1.0005), (1, 1.001), 1.0, 1.0),
    "cubic5": (CUBIC5, (0.119, 1.300), (0.022, 1.300), 0.780, 0.780),
}


def apply(polynomials, x: Tensor) -> Tensor:
    for a, b, c in polynomials:
        x = a * x + b * x**3 + c * x**5
    return x


def ends(polynomials, low: float = 1e-3) -> tuple[float, float]:
    """Least and greatest image of [low, 1]."""
    grid = torch.logspace(math.log10(low), 0, 100001, dtype=torch.float64)
    image = apply(polynomials, grid)
    return image.min().item(), image.max().item()


def efficiency(G: Tensor, X: Tensor) -> float:
    return certificate(G, X).efficiency.item()


def graded(m: int = 96, n: int = 384, seed: int = 0) -> Tensor:
    """Gaussian, with rows of sizes 1 to 1e-3."""
    sizes = torch.logspace(0, -3, m, dtype=torch.float64)
    return sizes[:, None] * draw((m, n), seed)


@pytest.fixture(scope="module")
def first() -> Tensor:
    """G1: 384 × 1536, singular values 1 to 1e-3, evenly on a logarithmic scale."""
    sigma = torch.logspace(0, -3, 384, dtype=torch.float64)
    return (orthogonal(384, 1) * sigma) @ orthogonal(1536, 2)[:384]


@pytest.fixture(scope="module")
def second() -> Tensor:
    """G2: Gaussian, 384 × 1536, rows of sizes 1 to 1e-3."""
    return graded(384, 1536, 3)


@pytest.mark.claim("published-polynomials", tol=0.012)
@pytest.mark.parametrize("name", TABLE)
def test_the_published_polynomials_do_what_was_measured(
    name, first, second, claim
) -> None:
    polynomials, image, values, on_first, on_second = TABLE[name]
    assert ends(polynomials) == pytest.approx(image, abs=1e-3)
    X = newton_schulz(first, polynomials)
    quality = certificate(first, X)
    assert (quality.sigma_min, quality.sigma_max) == pytest.approx(values, abs=1.1e-3)
    assert quality.efficiency == pytest.approx(on_first, abs=1e-3)
    Y = newton_schulz(second, polynomials)
    assert efficiency(second, Y) == pytest.approx(on_second, abs=claim.tol)


@pytest.mark.claim("published-polynomials", tol=1e-3)
def test_the_sets_of_the_package_have_the_images_they_name(claim) -> None:
    images = {
        "quintic": (0.475, 1.145),
        "cans": (0.862, 1.114),
        "cubic5": (0.114, 1.3),
        "aol": (0.146, 1.051),
        "deepseek": (1.0, 1.001),
    }
    for name, image in images.items():
        built = coefficients(name)
        assert ends(built) == pytest.approx(image, abs=claim.tol)
        assert f"[{image[0]:g}, {image[1]:g}]" in COEFFICIENT_SETS[name].credit
    assert coefficients("quintic") == QUINTIC and coefficients("aol") == AOL
    assert coefficients("deepseek") == TABLE["deepseek"][0]
    assert coefficients("deepseek", 1) == (SETTLING,)
    assert coefficients("deepseek", 3) == (MUON, SETTLING, SETTLING)
    for name, plain in (("cans", CANS), ("cubic5", CUBIC5)):
        *wide, last = coefficients(name)
        x = torch.linspace(0, 1.2, 50, dtype=torch.float64)
        for p, q in zip(wide, plain[:4], strict=True):
            assert relative(apply([p], 1.01 * x), apply([q], x)) < 1e-14
        assert last == plain[4]


@pytest.mark.claim("published-polynomials", tol=1e-5)
def test_beyond_their_domain(claim) -> None:
    """The least x ≥ 1 that is sent further than 1 from 1."""
    for polynomials, end in ((CANS, 1.00001), (CUBIC5, 1.00352), (MUON, 1.26378)):
        polynomials = (MUON,) * 5 if polynomials is MUON else polynomials
        x = torch.linspace(1, 1.3, 300001, dtype=torch.float64)
        astray = ~((apply(polynomials, x) - 1).abs() <= 1)
        assert x[astray][0].item() == pytest.approx(end, abs=claim.tol)
    x = torch.linspace(0, 1.0075, 1001, dtype=torch.float64)
    for name in ("cans", "cubic5"):
        assert ((apply(coefficients(name), x) - 1).abs() <= 1).all()


def test_rounding_does_not_lead_them_astray() -> None:
    """Rank one is the worst: its singular value is 1 before the rounding."""
    bare = 0.0
    for seed in range(40):
        G = (draw((16, 1), seed) @ draw((1, 64), seed + 1)).float()
        for name in COEFFICIENT_SETS:
            X = polar(G, name, dtype=torch.bfloat16)
            assert certificate(G, X).sigma_max < 1.31
            assert (G * X).sum() > 0.65 * G.norm()
        X = newton_schulz(G, CANS, torch.bfloat16)
        bare = max(bare, certificate(G, X).sigma_max.item())
    assert bare > 1e3, "what the safety is for"


@pytest.mark.claim("turning-polynomials", tol=1e-3)
def test_the_first_aol_list_turns_directions_round(claim) -> None:
    assert ends(TURNING) == pytest.approx((-1.084, 1.084), abs=claim.tol)
    G = draw((4, 1), 1) @ draw((1, 6), 2)
    X = newton_schulz(G, TURNING)
    assert (G * X).sum() / G.norm() == pytest.approx(-0.994, abs=claim.tol)
    assert (G * polar(G, "aol", normalize="aol")).sum() / G.norm() > 0.8


@pytest.mark.claim("normalizers", tol=1e-12, trials=20)
def test_normalizers_are_their_authors(claim) -> None:
    for seed in range(claim.trials):
        m, n = (5, 9) if seed % 2 else (9, 5)
        G = graded(m, n, seed)
        rows = G * (G.norm() / m**0.5) / G.norm(dim=1, keepdim=True)
        assert relative(normalized(G, "rows"), rows / rows.norm()) < claim.tol
        assert relative(normalized(G, "schatten4"), G / (G @ G.mT).norm() ** 0.5) < (
            claim.tol
        )
        small = G.mT if m > n else G
        scale = (small @ small.mT).abs().sum(1).rsqrt()
        aol = scale[:, None] * small
        aol = aol.mT if m > n else aol
        assert relative(normalized(G, "aol"), aol) < claim.tol
        # What the polynomials tend to is the polar factor of what is scaled.
        for name, scaled in (("rows", rows), ("aol", aol)):
            for method in ("svd", "eigh", "gram", "deepseek"):
                X = polar(G, method, normalize=name)
                assert relative(X, polar(scaled)) < 2e-3
            assert relative(polar(G, normalize=name), polar(G)) > 1e-2 or n == m
        assert relative(polar(G, normalize="schatten4"), polar(G)) < 1e-12


@pytest.mark.claim("normalizers", "row-scaling-descends", "aol-bound", trials=200)
def test_singular_values_are_at_most_one_and_scaled_rows_descend(claim) -> None:
    for seed in range(claim.trials):
        m, n = [(3, 3), (4, 9), (9, 4), (1, 6), (6, 1)][seed % 5]
        G = graded(m, n, seed) if seed % 2 else draw((m, n), seed)
        for name in NORMALIZERS:
            x = normalized(G, name)
            assert torch.linalg.matrix_norm(x, 2) <= 1 + 1e-12
            assert (G * polar(G, normalize=name)).sum() > 0
        # both sizes are scales of G, of which Schatten's is the larger
        larger = normalized(G, "schatten4").norm() / normalized(G).norm()
        assert 1 - 1e-12 <= larger <= min(m, n) ** 0.25 + 1e-12


@pytest.mark.claim("row-scaling-descends", trials=20000)
def test_scaling_of_both_sides_can_ascend(claim) -> None:
    """msign(AGB), A and B diagonal: of random 3 × 3 matrices a few in a thousand."""
    generator = torch.Generator().manual_seed(0)
    G, a, b = (
        torch.randn(claim.trials, *shape, generator=generator, dtype=torch.float64)
        for shape in ((3, 3), (3, 1), (1, 3))
    )
    a, b = (2 * a).exp(), (2 * b).exp()
    both, one = a * G * b, a * G
    u, _, vh = torch.linalg.svd(both)
    p, _, qh = torch.linalg.svd(one)
    assert ((G * (u @ vh)).sum((-2, -1)) < 0).sum() > 20
    assert ((G * (p @ qh)).sum((-2, -1)) > 0).all()
    assert ((G * (a * (u @ vh) * b)).sum((-2, -1)) > 0).all()


@pytest.mark.claim("normalizers", tol=0.012)
def test_efficiency_before_and_after(first, second, claim) -> None:
    figures = {"frobenius": 0.737, "aol": 0.824, "rows": 0.837}
    for name, figure in figures.items():
        X = polar(second, "muon", normalize=name)
        assert efficiency(second, X) == pytest.approx(figure, abs=claim.tol)
    exact = polar(second, normalize="rows")
    assert efficiency(second, exact) == pytest.approx(0.980, abs=claim.tol)
    moved = (exact - polar(second)).norm() / 384**0.5
    assert moved == pytest.approx(0.194, abs=claim.tol)
    for G, figure in ((first, 0.949), (second, 0.953)):
        X = polar(G, "aol", normalize="aol")
        assert efficiency(G, X) == pytest.approx(figure, abs=claim.tol)


def test_resizing_keeps_the_direction_and_may_lengthen(second) -> None:
    X = polar(second, "muon")
    Y = polar(second, "muon", renormalize="frobenius")
    assert Y.norm() == pytest.approx(384**0.5)
    assert relative(Y / Y.norm(), X / X.norm()) < 1e-12
    assert efficiency(second, Y) == pytest.approx(efficiency(second, X))
    assert certificate(second, Y).sigma_max > certificate(second, X).sigma_max


@every_normalizer
@every_method
def test_zero_nan_empty_batch_transpose_complex_narrow(method, normalize) -> None:
    def run(G: Tensor) -> Tensor:
        return polar(G, method, normalize=normalize, renormalize="frobenius")

    tol = {"gram": 1e-4, "eigh": 1e-6}.get(method, 1e-10)
    G = draw((5, 3, 5))
    G[1], G[2, 0, 0], G[3, 2, 4], G[4, 1] = 0, torch.nan, torch.inf, 0
    X = run(G)
    assert torch.equal(X[1], torch.zeros(3, 5)) and X[2:4].isnan().all()
    assert relative(X[0], run(G[0])) < tol and relative(X[4], run(G[4])) < tol
    assert X[4, 1].abs().max() < 1e-8 and (G[4] * X[4]).sum() > 0
    for shape in [(0, 3), (3, 0), (0, 2, 3), (2, 0, 3)]:
        assert run(torch.empty(shape)).shape == shape
    assert run(torch.empty(2, 4, 3, device="meta")).shape == (2, 4, 3)
    if normalize != "rows":
        assert relative(run(G[0].mT), run(G[0]).mT) < tol
    spaced = torch.stack([G[0], G[0]], -1)[..., 0]
    assert relative(run(spaced), run(G[0])) < tol
    for dtype in (torch.bfloat16, torch.float16):
        narrow = G[0].to(dtype)
        assert torch.equal(run(narrow), run(narrow.float()).to(dtype))
    H = torch.complex(draw((3, 5), 2), draw((3, 5), 3))
    Y = run(H)
    assert (H.conj() * Y).sum().real > 0
    turned = torch.exp(1j * torch.arange(3, dtype=torch.float64))[:, None]
    assert relative(run(turned * H), turned * Y) < tol


@every_normalizer
@pytest.mark.parametrize("power", [-38, -30, -12, 12, 30, 38])
def test_scale_does_not_matter(normalize: str, power: int) -> None:
    G = draw((4, 6)).float()
    X = polar(G, "muon", normalize=normalize)
    assert relative(polar(G * 10.0**power, "muon", normalize=normalize), X) < 1e-4
    assert torch.equal(polar(G * 2.0**60, "muon", normalize=normalize), X)


@every_normalizer
def test_rows_of_any_size_and_products_in_bfloat16(normalize: str) -> None:
    G = draw((4, 6)).float()
    G[2] *= 1e-30
    X = polar(G, "svd", normalize=normalize)
    assert X.isfinite().all()
    if normalize == "rows":
        assert X[2].norm() > 0.9
    elif normalize == "aol":  # half of its way there, in powers of ten
        assert 1e-16 < normalized(G, "aol")[2].norm() < 1e-14
    G = graded().float()
    full = polar(G, "muon", normalize=normalize)
    narrow = polar(G, "muon", normalize=normalize, dtype=torch.bfloat16)
    assert 0 < relative(narrow, full) < 0.1


@every_normalizer
def test_gradients_flow(normalize: str) -> None:
    for method in ("svd", "muon", "cans"):
        G = draw((3, 4)).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda g, m=method: polar(
                g, m, normalize=normalize, renormalize="frobenius"
            ),
            G,
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"normalize": "row"}, "normalize must be one of 'frobenius', 'rows', 'aol'"),
        ({"normalize": None}, "normalize must be one of"),
        ({"normalize": ["rows"]}, "normalize must be one of"),
        ({"renormalize": "rows"}, "renormalize must be one of None, 'frobenius'"),
        ({"renormalize": False}, "renormalize must be one of None"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        polar(torch.ones(2, 3), **arguments)
