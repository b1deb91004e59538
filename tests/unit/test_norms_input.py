"""Every type, size and defect of input."""

import math

import pytest
import torch

from anthology import norms as N
from tests.norm_catalogue import CASES, INF, Case, draw, inner, relative

every_norm = pytest.mark.parametrize("case", CASES, ids=str)
HALF = [torch.bfloat16, torch.float16]


@every_norm
def test_zero_has_length_zero_and_no_direction(case: Case) -> None:
    n, zero = case.norm, torch.zeros(2, *case.shape)
    for answer in (n.norm(zero), n.dual(zero), n.dualize(zero), n.dualize(-zero)):
        assert torch.equal(answer, torch.zeros_like(answer))


@every_norm
@pytest.mark.parametrize("power", [-38, -30, -20, 20, 30])
def test_sizes_far_from_one_in_single_precision(case: Case, power: int) -> None:
    n = case.norm
    g = (draw(case.shape) * 10.0**power).float()
    exact = g.double()
    assert relative(n.dualize(g).double(), n.dualize(exact)) < 1e-5
    assert relative(n.norm(g).double(), n.norm(exact)) < 1e-6
    assert relative(n.dual(g).double(), n.dual(exact)) < 1e-6


@every_norm
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-3, 2.0**90])
def test_a_power_of_two_changes_no_bit_of_the_direction(
    case: Case, scale: float
) -> None:
    g = draw(case.shape).float()
    assert torch.equal(case.norm.dualize(scale * g), case.norm.dualize(g))


@every_norm
def test_parts_of_very_different_size(case: Case) -> None:
    """Columns, rows or kernel positions whose squares underflow keep their step."""
    n = case.norm
    for axis in range(-n.ndim, 0):
        g = draw(case.shape, 3).float()
        g.select(axis, 0).mul_(1e-30)
        t = n.dualize(g)
        assert torch.isfinite(t).all()
        assert relative(inner(g, t, n.ndim), n.dual(g).double()) < 1e-5
        assert abs(n.norm(t).item() - 1) < 1e-5


@every_norm
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_single_precision_rounded_once(
    case: Case, dtype: torch.dtype
) -> None:
    n, g = case.norm, draw((3, *case.shape)).to(dtype)
    for question in (n.norm, n.dual, n.dualize):
        assert question(g).dtype == dtype
        assert torch.equal(question(g), question(g.float()).to(dtype))


@every_norm
@pytest.mark.parametrize("value", [math.nan, INF, -INF])
def test_a_non_finite_entry_spoils_its_point_and_no_other(
    case: Case, value: float
) -> None:
    n, g = case.norm, draw((3, *case.shape))
    clean = n.dualize(g), n.norm(g), n.dual(g)
    g[1].view(-1)[-1] = value
    for before, after in zip(clean, (n.dualize(g), n.norm(g), n.dual(g)), strict=True):
        assert after[1].isnan().all()
        assert torch.equal(after[0], before[0])
        assert torch.equal(after[2], before[2])


@every_norm
def test_empty_points_and_empty_batches(case: Case) -> None:
    n = case.norm
    shapes = [(0, *case.shape)]
    for axis in range(len(case.shape)):
        shapes.append((2, *case.shape[:axis], 0, *case.shape[axis + 1 :]))
    for shape in shapes:
        g = torch.empty(shape)
        assert n.dualize(g).shape == shape
        assert torch.equal(n.norm(g), torch.zeros(shape[0]))
        assert torch.equal(n.dual(g), torch.zeros(shape[0]))


@every_norm
def test_one_entry(case: Case) -> None:
    n = case.norm
    g = torch.full((case.parts, *(1,) * (n.ndim - 1)), -3.0)
    t = n.dualize(g)
    assert abs(n.norm(t).item() - 1) < 1e-6
    assert (t < 0).any()
    assert abs(inner(g, t, n.ndim) - n.dual(g)) < 1e-6


@every_norm
def test_complex_points_live_in_a_real_space(case: Case) -> None:
    n = case.norm
    shape = (2, *case.shape)
    g = torch.complex(draw(shape, 1), draw(shape, 2))
    t, dual = n.dualize(g), n.dual(g)
    assert t.dtype == torch.complex128
    assert dual.dtype == torch.float64
    assert relative(inner(g, t, n.ndim), dual) < 1e-12
    assert (n.norm(t) - 1).abs().max() < 1e-12
    steps = torch.complex(draw((50, *case.shape), 3), draw((50, *case.shape), 4))
    steps = steps / n.norm(steps)[(...,) + (None,) * n.ndim]
    assert (inner(g[0], steps, n.ndim) <= dual[0] * (1 + 1e-12)).all()


@every_norm
def test_no_decision_waits_for_a_value(case: Case) -> None:
    """Tensors without values answer, so the host never has to read the device's."""
    g = torch.empty(2, *case.shape, device="meta", dtype=torch.bfloat16)
    assert case.norm.norm(g).shape == case.norm.dual(g).shape == (2,)
    assert case.norm.dualize(g).shape == g.shape
    joint = N.MaxOver([(case.norm, 1.0)] * 2)
    assert joint.norm([g, g]).shape == joint.dual([g, g]).shape == ()


@every_norm
def test_the_input_is_not_touched(case: Case) -> None:
    g = draw(case.shape)
    before = g.clone()
    for question in (case.norm.norm, case.norm.dual, case.norm.dualize):
        question(g).mul_(0)
    assert torch.equal(g, before)


@pytest.mark.parametrize(
    ("norm", "x", "error", "said"),
    [
        (
            N.Spectral(),
            torch.ones(5),
            ValueError,
            r"shape \(5,\): for a vector use RMS",
        ),
        (N.L2(), torch.tensor(1.0), ValueError, r"shape \(\): flatten a scalar"),
        (N.Conv(2), torch.ones(3, 4), ValueError, "for a matrix use RMSToRMS"),
        (N.Conv(2), torch.ones(3, 4, 5), ValueError, r"at least 4 axes.*Conv\(k\)"),
        (N.Split(N.L2(), 2), torch.ones(3), ValueError, "2 equal parts"),
        (N.L2(), [1.0], TypeError, "expects a tensor, got list"),
        (N.L2(), torch.arange(3), TypeError, r"torch.int64: convert it first"),
        (N.L2(), torch.ones(3).to_sparse(), TypeError, "dense tensor"),
    ],
)
@pytest.mark.parametrize("question", ["norm", "dual", "dualize"])
def test_a_tensor_that_does_not_fit_is_refused(norm, x, error, said, question) -> None:
    with pytest.raises(error, match=said):
        getattr(norm, question)(x)


def test_ties_go_to_the_first_and_signs_of_zero_are_zero() -> None:
    g = torch.tensor([1.0, -2.0, 2.0, 0.0])
    assert N.L1().dualize(g).tolist() == [0, -1, 0, 0]
    assert N.LInf().dualize(g).tolist() == [1, -1, 1, 0]
    G = torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
    assert N.RowL1().dualize(G).tolist() == [[1, 0], [-1, 0]]
    assert N.ColumnL1().dualize(G).tolist() == [[1, -1], [0, 0]]
    assert N.MaxAbs().dualize(G).tolist() == [[1, -1], [-1, 0]]


def test_zero_rows_and_columns_stay_zero() -> None:
    G = draw((4, 3))
    G[:, 1] = 0
    for norm in (N.OneTo(2), N.OneToRMS(), N.OneTo(3), N.ColumnL1()):
        assert not norm.dualize(G)[:, 1].any()
        assert not norm.dualize(G)[:, 0].isnan().any()
    tokens = N.Transpose(N.OneToRMS()).dualize(G.mT)
    assert not tokens[1].any()
    assert (tokens[0].square().mean() - 1).abs() < 1e-14
    for norm in (N.ToInf(2), N.RMSToInf(), N.RowL1()):
        assert not norm.dualize(G.mT)[1].any()


def test_one_norm_under_two_names() -> None:
    G, g = draw((4, 3)), draw((7,))
    for one, other, x in (
        (N.Lp(1), N.L1(), g),
        (N.Lp(2), N.L2(), g),
        (N.Lp(INF), N.LInf(), g),
        (N.Schatten(1), N.Nuclear(), G),
        (N.Schatten(2), N.Frobenius(), G),
        (N.Schatten(INF), N.Spectral(), G),
        (N.KyFan(1), N.Spectral(), G),
        (N.KyFan(3), N.Nuclear(), G),
        (N.LowRank(1), N.Nuclear(), G),
        (N.LowRank(3), N.Spectral(), G),
        (N.OneTo(1), N.ColumnL1(), G),
        (N.OneTo(INF), N.MaxAbs(), G),
        (N.ToInf(1), N.MaxAbs(), G),
        (N.ToInf(INF), N.RowL1(), G),
        (N.Conv(1), N.RMSToRMS(), G[..., None]),
        (N.Split(N.L2(), 1), N.L2(), g),
    ):
        point = G if isinstance(other, N.RMSToRMS) else x
        assert relative(one.norm(x), other.norm(point)) < 1e-14
        assert relative(one.dual(x), other.dual(point)) < 1e-14
        assert relative(one.dualize(x).reshape_as(point), other.dualize(point)) < 1e-13


def test_extreme_exponents() -> None:
    g = draw((9,))
    for p, limit in ((1 + 1e-9, N.L1()), (1e9, N.LInf())):
        n = N.Lp(p)
        assert relative(n.dual(g), limit.dual(g)) < 1e-7
        assert relative(n.dualize(g), limit.dualize(g)) < 1e-6
        assert relative(inner(g, n.dualize(g), 1), n.dual(g)) < 1e-12


def test_iterations_change_the_direction_and_not_the_norms() -> None:
    G = draw((6, 9))
    for norm in (N.Spectral, N.RMSToRMS):
        exact, quick = norm(), norm("muon")
        assert torch.equal(exact.norm(G), quick.norm(G))
        assert torch.equal(exact.dual(G), quick.dual(G))
        assert 0.01 < relative(quick.dualize(G), exact.dualize(G)) < 0.5
        steady = norm("cubic", 30)
        assert relative(steady.dualize(G), exact.dualize(G)) < 1e-12
    kernel = draw((4, 5, 3))
    assert relative(
        N.Conv(1, "cubic", 30).dualize(kernel), N.Conv(1).dualize(kernel)
    ) < (1e-12)


def test_a_norm_too_large_for_half_precision_is_infinite_and_not_wrong() -> None:
    g = torch.full((10,), 6e4, dtype=torch.float16)
    assert N.L1().norm(g) == INF
    assert torch.equal(N.L2().dualize(g), N.L2().dualize(g.float()).half())
