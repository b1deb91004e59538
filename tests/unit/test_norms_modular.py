"""One norm for several tensors."""

import pytest
import torch

from anthology import norms as N
from tests.norm_catalogue import INF, draw, inner, relative

JOINT = N.MaxOver([(N.RMSToRMS(), 2.0), (N.LInf(), 0.5), (N.Conv(2), 1), (N.L2(), 3)])
SHAPES = [(4, 3), (5,), (3, 2, 2, 2), (6,)]


def tensors(seed: int = 0) -> list[torch.Tensor]:
    return [draw(shape, seed + i) for i, shape in enumerate(SHAPES)]


def product(gs: list[torch.Tensor], ts: list[torch.Tensor]) -> torch.Tensor:
    return sum(inner(g, t, g.ndim) for g, t in zip(gs, ts, strict=True))


@pytest.mark.claim("max-of-norms", tol=1e-12, trials=100)
def test_dual_norms_add_and_every_layer_moves_all_it_may(claim) -> None:
    gs = tensors()
    ts, dual = JOINT.dualize(gs), JOINT.dual(gs)
    duals = [n.dual(g) / s for (n, s), g in zip(JOINT.terms, gs, strict=True)]
    assert relative(dual, torch.stack(duals).sum()) < claim.tol
    assert relative(product(gs, ts), dual) < claim.tol
    for (n, s), t in zip(JOINT.terms, ts, strict=True):
        assert abs(s * n.norm(t) - 1) < claim.tol
    assert abs(JOINT.norm(ts) - 1) < claim.tol
    for trial in range(claim.trials):
        steps = tensors(10 + trial)
        assert product(gs, steps) <= dual * JOINT.norm(steps) * (1 + claim.tol)


def test_a_stack_of_points_is_in_the_maximum() -> None:
    n = N.MaxOver([(N.Spectral(), 1.0)])
    stack = draw((3, 4, 2))
    assert torch.equal(n.norm([stack]), N.Spectral().norm(stack).max())
    assert torch.equal(n.dual([stack]), N.Spectral().dual(stack).sum())
    apart = N.MaxOver([(N.Spectral(), 1.0)] * 3)
    together = n.dualize([stack])[0]
    assert relative(torch.stack(apart.dualize(list(stack))), together) < 1e-14
    assert relative(apart.dual(list(stack)), n.dual([stack])) < 1e-14


def test_zero_empty_and_non_finite_tensors() -> None:
    zeros = [torch.zeros_like(x) for x in tensors()]
    assert JOINT.norm(zeros) == 0
    assert JOINT.dual(zeros) == 0
    assert all(not t.any() for t in JOINT.dualize(zeros))
    gs = tensors()
    gs[1][0] = torch.nan
    assert JOINT.norm(gs).isnan()
    assert JOINT.dual(gs).isnan()
    assert [bool(t.isnan().any()) for t in JOINT.dualize(gs)] == [
        False,
        True,
        False,
        False,
    ]
    some = N.MaxOver([(N.L2(), 1.0), (N.L2(), 1.0), (N.Spectral(), 1.0)])
    xs = [torch.empty(0), torch.ones(4), torch.empty(0, 2, 3)]
    assert some.norm(xs) == 2
    assert some.dual(xs) == 2
    assert [t.shape for t in some.dualize(xs)] == [x.shape for x in xs]


def test_mixed_types_meet_in_the_widest() -> None:
    n = N.MaxOver([(N.L1(), 1.0), (N.L1(), 1.0)])
    low, high = torch.ones(300, dtype=torch.bfloat16), torch.ones(1)
    assert n.dual([low, high]).dtype == torch.float32
    assert n.norm([low, high]) == 300
    assert n.norm([low, low]).dtype == torch.bfloat16
    assert [t.dtype for t in n.dualize([low, high])] == [torch.bfloat16, torch.float32]
    # Dual norms of half-precision tensors are added before they are rounded: 257
    # has no bfloat16, 257 + 1 has.
    signs = N.MaxOver([(N.LInf(), 1.0)] * 2)
    assert signs.dual([torch.ones(257).bfloat16(), torch.ones(1).bfloat16()]) == 258
    assert n.dual([draw((7,)).to(torch.complex128), high]).dtype == torch.float64


def test_scales_from_tiny_to_huge() -> None:
    n = N.MaxOver([(N.L2(), 1e-10), (N.Spectral(), 1e10)])
    gs = [draw((5,)).float() * 1e-20, draw((3, 4)).float() * 1e20]
    ts = n.dualize(gs)
    assert relative(product(gs, ts), n.dual(gs).double()) < 1e-6
    assert abs(n.norm(ts).item() - 1) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: N.MaxOver([]), ValueError, "at least one pair"),
        (lambda: N.MaxOver([N.L2()]), TypeError, "pairs"),
        (lambda: N.MaxOver([("L2()", 1)]), TypeError, "pairs"),
        (lambda: N.MaxOver([(N.L2(), 0)]), ValueError, "positive and finite"),
        (lambda: N.MaxOver([(N.L2(), INF)]), ValueError, "positive and finite"),
        (lambda: N.MaxOver([(N.L2(), "1")]), TypeError, "scale must be a number"),
        (lambda: JOINT.norm(tensors()[:2]), ValueError, "4 terms got 2 tensors"),
        (lambda: JOINT.dual(torch.ones(4, 3)), ValueError, "got one tensor"),
        (lambda: JOINT.dualize([torch.ones(5)] * 4), ValueError, r"shape \(5,\)"),
    ],
)
def test_wrong_arguments_say_what_is_right(wrong, error, said) -> None:
    with pytest.raises(error, match=said):
        wrong()
