"""The polar factor: exact, iterated, scaled, batched, rank-deficient."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from anthology.linalg import certificate, newton_schulz, polar
from tests.norm_catalogue import draw, orthogonal, relative

ITERATIONS = ["cubic", "muon", "you", "polar-express"]
ITERATIONS += ["quintic", "cans", "cubic5", "aol", "deepseek"]
METHODS = ["svd", *ITERATIONS]
every_method = pytest.mark.parametrize("method", METHODS)


def with_spectrum(m: int, n: int, sigma: list[float], seed: int = 0) -> Tensor:
    """An m × n matrix with the given singular values and zeros for the rest."""
    k = len(sigma)
    u, v = orthogonal(m, seed)[:, :k], orthogonal(n, seed + 1)[:, :k]
    return u @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ v.mT


@every_method
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (4, 4), (3, 7), (7, 3)])
def test_transpose_batch_and_strides(method: str, shape: tuple[int, int]) -> None:
    G = draw((2, 3, *shape))
    X = polar(G, method)
    assert X.shape == G.shape
    assert relative(polar(G.mT, method), X.mT) < 1e-12
    assert relative(polar(G[1, 2], method), X[1, 2]) < 1e-12
    spaced = torch.stack([G, G], -1)[..., 0]
    assert relative(polar(spaced, method), X) < 1e-12


@every_method
@pytest.mark.parametrize("power", [-38, -30, -12, 12, 30, 38])
def test_scale_does_not_matter(method: str, power: int) -> None:
    G = draw((4, 6)).float()
    X = polar(G, method)
    assert relative(polar(G * 10.0**power, method), X) < 1e-4
    assert torch.equal(polar(G * 2.0**60, method), X)


@every_method
def test_rotations_pass_through(method: str) -> None:
    G, Q, R = draw((4, 6)), orthogonal(4, 1), orthogonal(6, 2)
    assert relative(polar(Q @ G @ R, method), Q @ polar(G, method) @ R) < 1e-11


@every_method
def test_zero_nan_and_inf_in_a_batch(method: str) -> None:
    G = draw((4, 3, 5))
    G[1] = 0
    G[2, 0, 0] = torch.nan
    G[3, 2, 4] = torch.inf
    X = polar(G, method)
    assert torch.equal(X[1], torch.zeros(3, 5))
    assert X[2:].isnan().all()
    assert relative(X[0], polar(G[0], method)) < 1e-13
    for shape in [(0, 3), (3, 0), (0, 0), (0, 2, 3), (2, 0, 3)]:
        assert polar(torch.empty(shape), method).shape == shape


@every_method
def test_no_decision_waits_for_a_value(method: str) -> None:
    G = torch.empty(2, 4, 3, device="meta")
    X = polar(G, method)
    assert X.shape == G.shape
    assert [v.shape for v in certificate(G, X)] == [(2,)] * 3


@pytest.mark.claim("rank-deficient-polar", tol=1e-10, trials=20)
def test_null_directions_get_no_step(claim) -> None:
    """U_r V_rᵀ, of least norm among the steepest, whatever basis the SVD picks."""
    for seed in range(claim.trials):
        sigma = [3.0, 1.0, 0.5]
        G = with_spectrum(5, 6, sigma, seed)
        X = polar(G)
        values = torch.linalg.svdvals(X)
        assert relative(values, torch.tensor([1.0] * 3 + [0.0] * 2)) < claim.tol
        assert abs((G * X).sum() - sum(sigma)) < claim.tol
        Q, R = orthogonal(5, seed + 50), orthogonal(6, seed + 51)
        assert relative(polar(Q @ G @ R), Q @ X @ R) < claim.tol
        # Any other maximiser adds something in the null directions.
        u, _, vh = torch.linalg.svd(G)
        other = X + u[:, 3:4] @ vh[3:4]
        assert abs((G * other).sum() - sum(sigma)) < claim.tol
        assert torch.linalg.matrix_norm(other, 2) < 1 + claim.tol
        assert other.norm() > X.norm()
        # The odd iterations tend to the same matrix.
        assert relative(polar(G, "cubic", 20), X) < claim.tol


def test_the_cut_off_is_relative_and_at_rounding() -> None:
    for scale in (1e-30, 1.0, 1e30):
        full = scale * with_spectrum(4, 5, [1, 1e-3, 1e-6, 1e-12])
        assert torch.linalg.matrix_rank(polar(full)) == 4
        short = scale * with_spectrum(4, 5, [1, 1e-3, 1e-6, 1e-17])
        assert torch.linalg.matrix_rank(polar(short)) == 3


def test_single_rows_and_columns_are_normalised_at_every_size() -> None:
    row = draw((1, 6))
    G = torch.stack([row, row * 1e-200, row * 1e200])
    for X in (*polar(G), *polar(G.mT).mT):
        assert relative(X, row / row.norm()) < 1e-14


@every_method
def test_result_has_the_type_of_the_input(method: str) -> None:
    G = draw((4, 6))
    exact = polar(G, method)
    for dtype, tol in [
        (torch.float32, 1e-5),
        (torch.bfloat16, 0.1),
        (torch.float16, 0.02),
    ]:
        X = polar(G.to(dtype), method)
        assert X.dtype == dtype
        # Half precision is the input's rounding, single the computation's.
        assert torch.equal(X, polar(G.to(dtype).float(), method).to(dtype))
        assert relative(X.double(), exact) < tol
    G = torch.complex(G, draw((4, 6), 1))
    X = polar(G, method)
    assert X.dtype == torch.complex128
    assert relative(X.mH, polar(G.mH, method)) < 1e-12
    assert certificate(G, X).efficiency > 0.7


@pytest.mark.parametrize("method", ITERATIONS)
def test_products_in_bfloat16(method: str) -> None:
    G = draw((32, 96)).float()
    X = polar(G, method, dtype=torch.bfloat16)
    assert X.dtype == torch.float32
    full = polar(G, method)
    assert 0 < relative(X, full) < 0.1
    assert certificate(G, X).efficiency > certificate(G, full).efficiency - 0.02
    H = polar(G.bfloat16(), method, dtype=torch.float32)
    assert H.dtype == torch.bfloat16
    with pytest.raises(TypeError, match=r"must be a torch.dtype, got 'bfloat16'"):
        polar(G, method, dtype="bfloat16")


@pytest.mark.claim("polar-quality", trials=5)
@pytest.mark.parametrize(
    ("method", "least", "low", "high"),
    [
        ("svd", 1 - 1e-12, 1 - 1e-12, 1 + 1e-12),
        ("cubic", 1 - 1e-9, 1 - 1e-9, 1 + 1e-9),
        ("muon", 0.7, 0.68, 1.135),
        ("you", 0.99, 0.99, 1.0),
        ("polar-express", 0.99, 0.99, 1.005),
    ],
)
def test_quality_on_well_conditioned_matrices(method, least, low, high, claim) -> None:
    for seed in range(claim.trials):
        G = draw((64, 128), seed)
        quality = certificate(G, polar(G, method))
        assert quality.efficiency > least
        assert quality.sigma_min > low
        assert quality.sigma_max < high


def test_certificate_of_what_it_should_know() -> None:
    G = with_spectrum(3, 5, [4.0, 2.0, 1.0])
    exact = certificate(G, polar(G))
    for value in exact:
        assert abs(value - 1) < 1e-12
    itself = certificate(G, 1e20 * G)
    assert abs(itself.efficiency - (16 + 4 + 1) / (7 * 4)) < 1e-12
    assert abs(itself.sigma_min / 1e20 - 1) < 1e-12
    assert abs(itself.sigma_max / 4e20 - 1) < 1e-12
    assert abs(certificate(G, -polar(G)).efficiency + 1) < 1e-12
    batch = torch.stack([G, 0 * G, G, G, G * 1e-30])
    steps = torch.stack([polar(G), G, 0 * G, G * torch.nan, G])
    share, low, high = certificate(batch.float(), steps.float())
    assert share[:3].tolist() == pytest.approx([1, 1, 0], abs=1e-5)
    assert torch.stack([share[3], low[3], high[3]]).isnan().all()
    assert share[4] == pytest.approx(21 / 28, rel=1e-5)
    assert certificate(G.float(), G.bfloat16()).efficiency.dtype == torch.float32


def test_polynomials_of_ones_own() -> None:
    G = draw((4, 6))
    once = newton_schulz(G, ((1.0, 0.0, 0.0),))
    assert relative(once, G / G.norm()) < 1e-15
    s = torch.linalg.svdvals(G / G.norm())
    image = torch.linalg.svdvals(newton_schulz(G, ((0.5, 0.25, 2.0),)))
    assert relative(image, 0.5 * s + 0.25 * s**3 + 2 * s**5) < 1e-13


def test_products_are_formed_on_the_smaller_side() -> None:
    """k(4m²n + 2m³) floating-point operations for m ≤ n, whichever way it lies."""
    m, n = 8, 32
    for shape in [(m, n), (n, m)]:
        with FlopCounterMode(display=False) as counter:
            polar(draw(shape), "muon", 5)
        assert counter.get_total_flops() == 5 * (4 * m * m * n + 2 * m**3)


def test_gradients_flow_through_every_method() -> None:
    for method in METHODS:
        G = draw((3, 4)).requires_grad_()
        assert torch.autograd.gradcheck(lambda g, m=method: polar(g, m), G)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"method": "newton"}, ValueError, "'gram' or one of 'cubic', 'pade', 'muon'"),
        ({"method": ["svd"]}, ValueError, "no method"),
        ({"method": "svd", "steps": 5}, ValueError, "takes no steps"),
        ({"method": "muon", "steps": 0}, ValueError, "positive integer"),
        ({"method": "muon", "steps": 2.0}, ValueError, "positive integer"),
        ({"method": "you", "steps": 7}, ValueError, "6 polynomials"),
        ({"dtype": torch.bfloat16}, ValueError, "'svd' takes no dtype"),
        ({"method": "muon", "dtype": torch.int8}, TypeError, "cannot be computed in"),
    ],
)
def test_wrong_arguments_say_what_is_right(arguments, error, said) -> None:
    with pytest.raises(error, match=said):
        polar(torch.ones(2, 3), **arguments)


def test_wrong_tensors_say_what_is_right() -> None:
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        polar(torch.ones(3))
    with pytest.raises(TypeError, match="floating or complex"):
        polar(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(TypeError, match="cannot be computed in"):
        polar(torch.ones(2, 2, dtype=torch.complex64), "muon", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="one shape"):
        certificate(torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(ValueError, match="non-empty"):
        certificate(torch.ones(0, 3), torch.ones(0, 3))
