"""The symmetric products, the gathered polynomials, and what is one pass now."""

import math

import pytest
import torch
from torch import Tensor

from anthology.linalg import certificate, coefficients, newton_schulz, polar, products
from anthology.linalg.polar import gathered, gathers
from anthology.linalg.products import unit, unit_by_double
from tests.norm_catalogue import draw, relative
from tests.unit.test_polar_gram import spread, with_spectrum


def commuting_pair(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two polynomials of one symmetric matrix."""
    x = draw((2, side, side)) / side**0.5
    y = x @ x.mT
    return y.to(dtype), (y @ y - 0.5 * y).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 401, 403), (1, 385, 1000), (2, 520, 530)])
def test_products_of_rows_are_the_products(shape, dtype: torch.dtype) -> None:
    x = (draw(shape) / shape[-1] ** 0.5).to(dtype)
    tol = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for seen in (x, x.mT.contiguous().mT, x[:, :, ::2]):
        a = products.gram(seen)
        assert relative(a.double(), seen.double() @ seen.double().mT) < tol
        assert relative(a.mT.double(), a.double()) < tol / 10
    a, b = commuting_pair(shape[1], dtype)
    mix = products.quadratic(a, -4.775, 2.0315)
    exact = -4.775 * a.double() + 2.0315 * a.double() @ a.double()
    assert relative(mix.double(), exact) < tol
    both = products.commuting(a, b)
    assert relative(both.double(), a.double() @ b.double()) < tol
    assert torch.equal(both, both.mT)
    assert torch.equal(products.quadratic(a, 2.0, 0.0), 2 * a)


def test_where_rows_are_taken() -> None:
    def rows(m: int, n: int, dtype: torch.dtype = torch.float32) -> bool:
        return products.by_rows(torch.empty(1, m, n, dtype=dtype))

    assert rows(256, 512) and not rows(255, 512) and not rows(383, 383)
    assert rows(384, 384) and rows(512, 512, torch.bfloat16)
    assert not rows(384, 384, torch.bfloat16) and not rows(900, 900, torch.complex64)
    x = torch.ones(1, 400, 900)
    assert products.by_rows(x) and not products.by_rows(x.requires_grad_())
    assert not products.by_rows(torch.empty(1, 400, 900, device="meta"))
    seen = []
    torch.func.vmap(lambda y: seen.append(products.by_rows(y)) or y)(x.detach()[None])
    assert seen == [False]


@pytest.mark.parametrize("shape", [(384, 400), (260, 800), (800, 260)])
def test_recorded_and_transformed_products_agree(shape) -> None:
    G = draw(shape).float()
    X = polar(G, "muon")
    together = torch.func.vmap(lambda g: polar(g, "muon"))(torch.stack([G, -G]))
    assert relative(together, torch.stack([X, -X])) < 1e-4
    leaf = G.clone().requires_grad_()
    recorded = polar(leaf, "muon")
    assert relative(recorded.detach(), X) < 1e-4
    # it does not grow with G, so its slope along G is zero
    (slope,) = torch.autograd.grad((recorded * X).sum(), leaf)
    assert abs((slope * G).sum()) < 1e-3 * (slope.norm() * G.norm())


def test_gradients_flow_through_the_gathered_form() -> None:
    polynomials = coefficients("muon")
    y = draw((1, 3, 5)).requires_grad_()

    def along_the_gram_matrix(x: Tensor) -> Tensor:
        return gathered(products.gram(x), polynomials) @ x

    assert torch.autograd.gradcheck(along_the_gram_matrix, y / y.detach().norm())


@pytest.mark.parametrize(("method", "steps"), [("muon", 5), ("polar-express", 4)])
@pytest.mark.parametrize("shape", [(64, 96), (96, 400), (400, 96), (270, 600)])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e5, 1e8, math.inf])
def test_gathered_polynomials_are_the_polynomials(
    method: str, steps: int, shape, condition: float
) -> None:
    """At any condition number and on singular matrices, nothing overshoots."""
    m = min(shape)
    if condition == math.inf:
        G = draw((shape[0], 5)) @ draw((5, shape[1]), 1)
    else:
        G = with_spectrum(*shape, spread(m, condition), 3)
    assert gathers(torch.empty(1, m, max(shape)), coefficients(method, steps))
    plain, X = (
        newton_schulz(G, coefficients(method, steps)),
        polar(G.float(), method, steps),
    )
    assert torch.linalg.matrix_norm(X.double() - plain, 2) < 1e-3
    shares = certificate(G, X.double()).efficiency, certificate(G, plain).efficiency
    assert abs(shares[0] - shares[1]) < 1e-3
    for scale in (1e-30, 1e30):
        assert relative(polar(G.float() * scale, method, steps), X) < 2e-3


def test_what_is_gathered() -> None:
    muon = coefficients("muon")
    assert gathers(torch.empty(1, 64, 96), muon)
    assert not gathers(torch.empty(1, 64, 95), muon)
    assert not gathers(torch.empty(1, 63, 200), muon)
    assert not gathers(torch.empty(1, 64, 96), muon[:1])
    for steps in (6, 9):  # too steep: rounding would come to more than 1e-3
        assert not gathers(torch.empty(1, 64, 200), coefficients("muon", steps))
    for dtype in (torch.float64, torch.complex64, torch.bfloat16):
        assert not gathers(torch.empty(1, 64, 200, dtype=dtype), muon)


def test_zero_and_not_finite_ones_among_large_matrices() -> None:
    G = draw((4, 70, 200)).float()
    G[1], G[2, 0, 0], G[3, 5, 7] = 0, torch.nan, torch.inf
    X = polar(G, "muon")
    assert torch.equal(X[1], torch.zeros(70, 200)) and X[2:].isnan().all()
    assert relative(X[0], polar(G[0], "muon")) < 1e-3


@pytest.mark.parametrize("power", [-44, -40, -38, -30, -17, -15, 0, 17, 20, 30, 37])
@pytest.mark.parametrize("divided", [unit, unit_by_double])
def test_every_size_is_divided_out(divided, power: int) -> None:
    x = draw((3, 4, 6)).float()
    x[1] = 0
    scaled = (x.double() * 10.0**power).float()
    found = divided(scaled).double()
    exact = scaled.double() / scaled.double().norm(dim=(1, 2), keepdim=True)
    tol = 1e-6
    if divided is unit_by_double and power < -38:
        tol = 1.0  # 1/‖x‖ is no number of single precision: it only stays bounded
    assert relative(found[::2], exact[::2]) <= tol
    assert torch.equal(found[1], torch.zeros(4, 6).double())


def test_a_power_of_two_changes_no_bit_at_the_edge_of_what_one_pass_can_do() -> None:
    G = draw((8, 12)).float()
    X = polar(G, "muon")
    for power in range(-120, 124, 4):
        assert torch.equal(polar(G * 2.0**power, "muon"), X)


def test_four_express_steps_beat_the_five_of_muon() -> None:
    """On geometric and harmonic spectra, and on Gaussian matrices."""
    harmonic = 1 / torch.arange(1, 97, dtype=torch.float64)
    cases = [with_spectrum(96, 128, spread(96, c)) for c in (3.0, 1e2, 1e4)]
    cases += [with_spectrum(96, 128, harmonic), draw((96, 96)), draw((96, 400))]
    for G in cases:
        four, five = (
            certificate(G, polar(G, method, steps))
            for method, steps in (("polar-express", 4), ("muon", 5))
        )
        assert four.efficiency > five.efficiency + 0.05 and four.efficiency > 0.88
        assert four.sigma_max < 1.02
