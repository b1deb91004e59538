"""What makes a norm, its dual and its duality map one thing, for every norm.

That the steepest unit step attains the dual norm is in `test_norms_hypothesis.py`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.norm_catalogue import CASES, Case, draw, relative

TOL = {torch.float64: 1e-12, torch.float32: 1e-5}

every_norm = pytest.mark.parametrize("case", CASES, ids=str)


def layout(x: Tensor, kind: str) -> Tensor:
    """The same numbers with other strides."""
    match kind:
        case "transposed":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        case "strided":
            return torch.stack([x, x + 1], -1)[..., 0]
        case "offset":
            return torch.cat([x, x])[x.shape[0] :]
    return x


@st.composite
def stacks(draw_from: st.DrawFn) -> tuple[object, ...]:
    """Sizes, seed, type, scale and strides from which ``make`` builds tensors."""
    return (
        draw_from(st.lists(st.integers(1, 5), min_size=5, max_size=5)),
        draw_from(st.integers(0, 2**31)),
        draw_from(st.sampled_from(list(TOL))),
        draw_from(st.integers(-30, 30)),
        draw_from(st.sampled_from(["plain", "transposed", "strided", "offset"])),
        draw_from(st.sampled_from([(), (2,), (2, 1)])),
    )


def make(case: Case, drawn: tuple, count: int = 1) -> list[Tensor]:
    """Tensors (*batch, *point) of one shape for a norm."""
    sizes, seed, dtype, power, kind, batch = drawn
    shape = [*batch, case.parts * sizes[0], *sizes[1 : case.norm.ndim]]
    return [
        layout((draw(tuple(shape), seed + i) * 10.0**power).to(dtype), kind)
        for i in range(count)
    ]


@every_norm
@settings(max_examples=12)
@given(drawn=stacks(), factor=st.sampled_from([-3.0, -0.01, 0.25, 700.0]))
def test_scaling_a_point_scales_its_norms_and_not_its_direction(
    case: Case, drawn: tuple, factor: float
) -> None:
    (x,) = make(case, drawn)
    n, tol = case.norm, TOL[x.dtype]
    assert relative(n.norm(factor * x), abs(factor) * n.norm(x)) < tol
    assert relative(n.dual(factor * x), abs(factor) * n.dual(x)) < tol
    sign = 1 if factor > 0 else -1
    # Directions feel rounding as much as the singular values are close to zero.
    assert relative(n.dualize(factor * x), sign * n.dualize(x)) < 1e4 * tol


@every_norm
@pytest.mark.claim("norm-table", tol=1e-9, trials=10)
def test_duality_map_is_the_gradient_of_the_dual_norm(case: Case, claim) -> None:
    n = case.norm
    for seed in range(claim.trials):
        g = draw(case.shape, seed).requires_grad_()
        dual, t = n.dual(g), n.dualize(g)
        (slope,) = torch.autograd.grad(dual, g, retain_graph=True)
        (half_square,) = torch.autograd.grad(dual.square() / 2, g)
        assert relative(slope, t.detach()) < claim.tol
        assert relative(half_square, (dual * t).detach()) < claim.tol


@every_norm
def test_a_batch_is_its_points(case: Case) -> None:
    n = case.norm
    g = draw((2, 3, *case.shape), 5)
    for question in (n.norm, n.dual, n.dualize):
        alone = torch.stack([torch.stack([question(p) for p in row]) for row in g])
        assert relative(question(g), alone) < 1e-14
        assert relative(torch.func.vmap(question)(g), alone) < 1e-14
