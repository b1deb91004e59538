"""The polar factor by Padé's quintic, by the Gram form and by its eigenvectors."""

import math

import pytest
import torch
from torch import Tensor

from anthology.linalg import certificate, coefficients, newton_schulz, polar
from tests.norm_catalogue import draw, orthogonal, relative

METHODS = ["pade", "gram", "eigh"]
every_method = pytest.mark.parametrize("method", METHODS)


def with_spectrum(m: int, n: int, sigma: Tensor, seed: int = 0) -> Tensor:
    k = len(sigma)
    u, v = orthogonal(m, seed)[:, :k], orthogonal(n, seed + 1)[:, :k]
    return u @ torch.diag(sigma) @ v.mT


def spread(count: int, condition: float) -> Tensor:
    return torch.logspace(0, -math.log10(condition), count, dtype=torch.float64)


def test_what_thirteen_steps_of_pade_do() -> None:
    a, b, c = coefficients("pade")[0]
    assert a + b + c == 1 and a + 3 * b + 5 * c == 0 and 6 * b + 20 * c == 0
    s = torch.tensor([1e-3, 1e-2, 0.5, 1.0], dtype=torch.float64)
    for steps, good in ((12, False), (13, True)):
        x = s.clone()
        for a, b, c in coefficients("pade", steps):
            x = a * x + b * x**3 + c * x**5
        assert bool(((x - 1).abs() < 1e-3).all()) is good


@every_method
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 4), (3, 7), (7, 3)])
def test_transpose_batch_and_strides(method: str, shape: tuple[int, int]) -> None:
    G = draw((2, 3, *shape))
    X = polar(G, method)
    assert relative(polar(G.mT, method), X.mT) < 1e-9
    assert relative(polar(G[1, 2], method), X[1, 2]) < 1e-9
    spaced = torch.stack([G, G], -1)[..., 0]
    assert relative(polar(spaced, method), X) < 1e-9


@every_method
@pytest.mark.parametrize("power", [-38, -30, -12, 12, 30, 38])
def test_scale_does_not_matter(method: str, power: int) -> None:
    G = draw((4, 6)).float()
    X = polar(G, method)
    assert relative(polar(G * 10.0**power, method), X) < 1e-3
    assert torch.equal(polar(G * 2.0**60, method), X)


@every_method
def test_zero_nan_inf_empty_narrow_complex_and_meta(method: str) -> None:
    G = draw((4, 3, 5))
    G[1], G[2, 0, 0], G[3, 2, 4] = 0, torch.nan, torch.inf
    X = polar(G, method)
    assert torch.equal(X[1], torch.zeros(3, 5)) and X[2:].isnan().all()
    assert relative(X[0], polar(G[0], method)) < 1e-12
    for shape in [(0, 3), (3, 0), (0, 0), (0, 2, 3), (2, 0, 3)]:
        assert polar(torch.empty(shape), method).shape == shape
    assert polar(torch.empty(2, 4, 3, device="meta"), method).shape == (2, 4, 3)
    for dtype in (torch.bfloat16, torch.float16):
        narrow = polar(G[0].to(dtype), method)
        assert torch.equal(narrow, polar(G[0].to(dtype).float(), method).to(dtype))
    H = torch.complex(draw((3, 5), 2), draw((3, 5), 3))
    Y = polar(H, method)
    assert relative(Y.real, polar(H).real) < 1e-2
    assert relative(Y.mH.imag, polar(H.mH, method).imag) < 1e-9


def test_the_gram_form_is_the_iteration_it_gathers() -> None:
    G = draw((6, 11))
    for steps in (1, 4, 7):
        plain = newton_schulz(G, coefficients("polar-express", steps))
        assert relative(polar(G, "gram", steps), plain) < 1e-7


@pytest.mark.claim("gram-polar", tol=4e-3, trials=5)
@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (96, 96)])
def test_quality_in_single_precision_at_condition_1e3(claim, shape) -> None:
    for seed in range(claim.trials):
        G = with_spectrum(*shape, spread(min(shape), 1e3), seed).float()
        found = certificate(G, polar(G, "gram"))
        assert found.efficiency > 1 - claim.tol
        assert found.sigma_max < 1 + claim.tol
        assert found.sigma_min > 0.8
        found = certificate(G, polar(G, "eigh"))
        assert found.efficiency > 0.9999 and found.sigma_max < 1 + 1e-4
        assert found.sigma_min > 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_method
def test_singular_matrices_stay_bounded(method: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        sigma = torch.linspace(1, 0.2, 20, dtype=torch.float64)
        G = with_spectrum(40, 60, sigma, seed)
        X, exact = polar(G.to(dtype), method).double(), polar(G)
        assert relative(X, exact) < 1e-2
        assert torch.linalg.matrix_norm(X, 2) < 1.004


def test_eigenvectors_are_exact_in_double_precision() -> None:
    G = with_spectrum(20, 30, spread(20, 1e4))
    assert relative(polar(G, "eigh"), polar(G)) < 1e-9
    values = torch.linalg.svdvals(polar(with_spectrum(5, 9, spread(5, 1e12)), "eigh"))
    assert values[:3].min() > 1 - 1e-3 and values[-1] < 1e-2


@pytest.mark.parametrize("size", [8, 60, 200])
def test_noise_never_turns_a_direction_round(size: int) -> None:
    """Singular values about √eps, where eigenvalues of the Gram matrix are noise."""
    for seed in range(3):
        sigma = spread(size, 1e6)
        G = with_spectrum(size, size + 10, sigma, seed)
        X = polar(G.float(), "eigh").double()
        u, v = orthogonal(size, seed), orthogonal(size + 10, seed + 1)[:, :size]
        along = (u.mT @ X @ v).diagonal()
        assert along.min() > -0.05 and along.max() < 1.01


def test_wrong_arguments_are_named() -> None:
    G = torch.ones(3, 4)
    for method in ("gram", "eigh"):
        with pytest.raises(ValueError, match="takes no dtype"):
            polar(G, method, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="'eigh' is exact and takes no steps"):
        polar(G, "eigh", 3)
    with pytest.raises(ValueError, match="positive integer"):
        polar(G, "gram", 0)
    with pytest.raises(ValueError, match="'svd', 'eigh', 'gram' or one of"):
        polar(G, "newton")
