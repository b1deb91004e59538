"""The polar factor by every method, on whatever matrices hypothesis finds."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anthology.linalg import newton_schulz, polar
from anthology.linalg.coefficients import COEFFICIENT_SETS, coefficients
from tests.norm_catalogue import draw, orthogonal, relative

METHODS = ["svd", "eigh", "gram", *COEFFICIENT_SETS]
# Largest singular value that a method can return: that of its polynomials on [0, 1].
LONGEST = {"muon": 1.2024, "polar-express": 1.002, "gram": 1.002}
LONGEST |= {"quintic": 1.1451, "cans": 1.1134, "cubic5": 1.3, "aol": 1.0501}
LONGEST |= {"deepseek": 1.0006}
# Smallest image of the singular values that the well-conditioned matrices have.
LEAST = {"muon": 0.68, "you": 0.99, "polar-express": 0.99, "quintic": 0.85}
LEAST |= {"cans": 0.88, "cubic5": 0.69, "aol": 0.78}
# How far a relative rounding error of singular values near zero is enlarged.
SLOPES = {
    name: math.prod(a for a, _, _ in coefficients(name)) for name in COEFFICIENT_SETS
}
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.bfloat16: 2.0**-7,
    torch.float16: 2.0**-10,
}
# Powers of ten by which entries of a few units stay normal numbers of the type.
POWERS = {
    torch.float64: (-250, 250),
    torch.float32: (-30, 30),
    torch.bfloat16: (-30, 30),
    torch.float16: (-2, 3),
}
LAYOUTS = ["plain", "transposed", "strided", "offset", "reversed batch"]
SIDES = [(1, 1), (1, 6), (6, 1), (4, 4), (3, 7), (7, 3), (2, 9)]
BATCHES = [(), (1,), (3,), (2, 2), (0,), (2, 0)]

every_method = pytest.mark.parametrize("method", METHODS)
few = settings(max_examples=30, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Drawn:
    """From what a matrix is made; the tensor is made in the test, to print short."""

    shape: tuple[int, ...]
    seed: int
    dtype: torch.dtype
    power: int
    layout: str
    kind: str


@st.composite
def matrices(pick, kinds=("full",), dtypes=tuple(EPS), batches=BATCHES) -> Drawn:
    dtype = pick(st.sampled_from(dtypes))
    return Drawn(
        (*pick(st.sampled_from(batches)), *pick(st.sampled_from(SIDES))),
        pick(st.integers(0, 2**31)),
        dtype,
        pick(st.integers(*POWERS[dtype])),
        pick(st.sampled_from(LAYOUTS)),
        pick(st.sampled_from(kinds)),
    )


def lay(x: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides."""
    match layout:
        case "transposed":
            return x.mT.contiguous().mT
        case "strided":
            return torch.stack([x, x + 1], -1)[..., 0]
        case "offset":
            return torch.cat([x, x], -1)[..., x.shape[-1] :]
        case "reversed batch":
            axes = range(x.ndim - 3, -1, -1)
            order = (*axes, x.ndim - 2, x.ndim - 1)
            return x.permute(order).contiguous().permute(order)
    return x


def full(shape: tuple[int, ...], seed: int) -> Tensor:
    """Singular values between 1 and 3, so that directions are well defined."""
    m, n = shape[-2:]
    u, _, vh = torch.linalg.svd(draw(shape, seed), full_matrices=False)
    sigma = 2 + torch.sin(torch.arange(min(m, n), dtype=torch.float64) + seed % 7)
    return (u * sigma) @ vh


def make(found: Drawn) -> Tensor:
    shape, seed = found.shape, found.seed
    match found.kind:
        case "full":
            x = full(shape, seed)
        case "low rank":  # integers, so that the rank survives the type
            rank = 1 + seed % 2
            left = draw((*shape[:-1], rank), seed).mul(2).round()
            right = draw((*shape[:-2], rank, shape[-1]), seed + 1).mul(2).round()
            x = left @ right
        case "zero":
            x = torch.zeros(shape, dtype=torch.float64)
        case "equal":
            x = torch.full(shape, -3.0, dtype=torch.float64)
        case "sparse":
            x = draw(shape, seed) * (draw(shape, seed + 1) > 1)
        case "graded":
            x = draw(shape, seed) * 10.0 ** -(torch.arange(shape[-1]) * 2.0)
        case _:
            x = draw(shape, seed)
    return lay((x * 10.0**found.power).to(found.dtype), found.layout)


def tolerance(method: str, dtype: torch.dtype) -> float:
    """Rounding, and what the Gram matrix makes of it."""
    loss = {"gram": 1e3, "eigh": 1e2}.get(method, 40.0)
    return loss * max(EPS[dtype], EPS[torch.float32] if dtype != torch.float64 else 0)


ANY = ("full", "gauss", "low rank", "zero", "equal", "sparse", "graded")


@every_method
@few
@given(found=matrices(ANY))
def test_type_shape_size_and_input_of_any_matrix(method: str, found: Drawn) -> None:
    G = make(found)
    before, version = G.clone(), G._version
    X = polar(G, method)
    assert X.dtype == G.dtype and X.shape == G.shape and X.isfinite().all()
    assert torch.equal(G, before) and G._version == version
    if not G.numel():
        return
    g, x = before.double(), X.double()
    slack = 1 + 8 * EPS[G.dtype] + 1e-6
    longest = torch.linalg.matrix_norm(x, 2)
    assert (longest <= LONGEST.get(method, 1.0) * slack).all()
    # Never uphill, and zero exactly where the matrix is.
    g = g / 10.0**found.power
    assert ((g * x).sum((-2, -1)) >= 0).all()
    assert torch.equal(x.abs().amax((-2, -1)) > 0, g.abs().amax((-2, -1)) > 0)


@every_method
@few
@given(found=matrices())
def test_alignment_with_well_conditioned_matrices(method: str, found: Drawn) -> None:
    """⟨G, X⟩/‖G‖_*, the share of the dual norm that a step along X attains."""
    G = make(found)
    X, g = polar(G, method).double(), G.double() / 10.0**found.power
    share = (g * X).sum((-2, -1)) / torch.linalg.svdvals(g).sum(-1)
    least = LEAST.get(method, 1 - 1e-6)
    assert (share >= least - 8 * EPS[G.dtype]).all()


@every_method
@few
@given(found=matrices(dtypes=(torch.float64, torch.float32)))
def test_transposition_batch_strides_and_powers_of_two(method, found: Drawn) -> None:
    G, tol = make(found), tolerance(method, found.dtype)
    X = polar(G, method)
    if not G.numel():
        assert polar(G.mT, method).shape == X.mT.shape
        return
    assert relative(polar(G.mT, method), X.mT) < tol
    assert relative(polar(G.contiguous(), method), X) < tol
    flat, alone = G.reshape(-1, *G.shape[-2:]), X.reshape(-1, *G.shape[-2:])
    for g, x in zip(flat, alone, strict=True):
        assert relative(polar(g, method), x) < tol
    step = 4.0 if found.power < 0 else 0.25
    assert torch.equal(polar(step * G, method), X)
    assert torch.equal(polar(-G, method), -X)


@every_method
@few
@given(
    found=matrices(dtypes=(torch.float64,), batches=[()]),
    power=st.integers(-200, 200),
    spin=st.integers(0, 1000),
)
def test_rotations_and_any_scale(method: str, found: Drawn, power, spin) -> None:
    """To 1e-8, for every method."""
    G = full(found.shape, found.seed)
    Q, R = (orthogonal(n, spin + k) for k, n in enumerate(G.shape))
    X = polar(G, method)
    assert relative(polar(Q @ G @ R, method), Q @ X @ R) < 1e-8
    assert relative(polar(G * 10.0**power, method), X) < 1e-8


@every_method
@few
@given(found=matrices(("low rank",), dtypes=(torch.float64, torch.float32)))
def test_null_directions_get_no_step(method: str, found: Drawn) -> None:
    """U_rV_rᵀ times what the polynomials make of the values, and rounding, enlarged."""
    G = make(found)
    if not G.numel():
        return
    X, exact = polar(G, method).double(), make(found).double() / 10.0**found.power
    u, s, vh = torch.linalg.svd(exact, full_matrices=False)
    kept = (s > 1e-5 * s[..., :1]).double()
    rows, columns = (u * kept[..., None, :]) @ u.mT, vh.mT @ (kept[..., None] * vh)
    inside = rows @ X @ columns
    noise = EPS[G.dtype] * SLOPES.get(method, 2e3)
    if method == "eigh":  # the inverse root of the least eigenvalue that it allows
        noise = EPS[G.dtype] ** 0.5
    assert torch.linalg.matrix_norm(X - inside, 2).max() < 5 * noise
    if method in ("svd", "eigh", "pade", "cubic"):
        within = ((s > 0.1 * s[..., :1]) | (kept == 0)).all(-1)
        gap = (inside - (u * kept[..., None, :]) @ vh).abs().amax((-2, -1))
        assert (gap[within] < 1e-4).all()


@few
@given(found=matrices(ANY))
def test_the_exact_factor_is_its_own_polar_factor(found: Drawn) -> None:
    G = make(found)
    once = polar(G.double())
    assert (polar(once) - once).abs().sum() < 1e-9


@few
@given(found=matrices(ANY, dtypes=(torch.float64,)), steps=st.integers(1, 9))
def test_the_gram_form_is_the_plain_iteration(found: Drawn, steps: int) -> None:
    """At any number of steps and on any matrix, singular ones too."""
    G = make(found)
    if not G.numel():
        return
    unscaled = G / 10.0**found.power
    plain = newton_schulz(unscaled, coefficients("polar-express", steps))
    assert (polar(G, "gram", steps) - plain).abs().max() < 1e-5


@few
@given(
    values=st.lists(st.floats(-4, 4), min_size=3, max_size=3),
    copies=st.integers(2, 40),
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from(list(EPS)),
)
def test_expanded_rows_without_memory_of_their_own(values, copies, method, dtype):
    row = torch.tensor(values).to(dtype)
    G = row.expand(copies, 3)
    X = polar(G, method)
    assert torch.equal(G, row.repeat(copies, 1)), "nothing was written"
    gap = (X.double() - polar(G.contiguous(), method).double()).abs().max()
    assert gap <= tolerance(method, dtype)
    size = row.double().norm() * copies**0.5
    if size > 1e-3:
        share = (X.double() * G.double()).sum() / size
        assert 0.6 < share < 1.21


@pytest.mark.parametrize("shape", [(200, 30), (30, 200), (128, 512), (300, 310)])
@pytest.mark.parametrize("steps", [7, 12, 30])
def test_the_gram_form_keeps_its_head_on_singular_matrices(shape, steps) -> None:
    """Rounding of the Gram matrix makes zero eigenvalues negative; they must not grow.

    Gathering all seven polynomials at once gave singular values of 2.4 here.
    """
    for seed in range(5):
        rows = (draw((1, shape[1]), seed) + 1e-4 * draw(shape, seed + 1)).bfloat16()
        left = draw((shape[0], 1), seed).mul(2).round()
        whole = left @ draw((1, shape[1]), seed + 1).mul(2).round()
        for G in (rows, whole.float()):
            X = polar(G.float(), "gram", steps).double()
            assert torch.linalg.matrix_norm(X, 2) < 1.001
