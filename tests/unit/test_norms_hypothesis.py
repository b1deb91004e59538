"""Every norm, wrapped in every other, on whatever tensors hypothesis finds.

Each answer in the tensor's own type is compared with that in double precision, which
the other tests compare with definitions and with a convex solver.
"""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anthology import norms as N
from tests.norm_catalogue import CASES, Case, draw, inner, orthogonal, relative

EPS = {
    torch.float64: 2.0**-50,
    torch.float32: 2.0**-21,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
POWERS = {
    torch.float64: (-30, 30),
    torch.float32: (-30, 30),
    torch.bfloat16: (-30, 30),
    torch.float16: (-3, 2),
}
KINDS = ["gauss", "low rank", "sparse", "equal", "graded", "zero", "signs"]
LAYOUTS = ["plain", "turned", "strided", "offset", "expanded"]
BATCHES = [(), (1,), (3,), (2, 2), (0,), (2, 0)]
SIZES = [(1, 1), (1, 6), (6, 1), (4, 4), (2, 5), (5, 2), (0, 3), (3, 0)]

every_norm = pytest.mark.parametrize("case", CASES, ids=str)
few = settings(max_examples=12, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Drawn:
    """From what tensors are made; they are made in the test, to print short."""

    wrap: str
    batch: tuple[int, ...]
    sides: tuple[int, int]
    space: tuple[int, int, int]
    seed: int
    dtype: torch.dtype
    power: int
    kind: str
    layout: str


@st.composite
def points(pick, dtypes=tuple(EPS), kinds=tuple(KINDS), sizes=tuple(SIZES)) -> Drawn:
    dtype = pick(st.sampled_from(dtypes))
    return Drawn(
        pick(st.sampled_from(["plain", "scaled", "transposed", "split"])),
        pick(st.sampled_from(BATCHES)),
        pick(st.sampled_from(sizes)),
        pick(st.tuples(*[st.integers(1, 3)] * 3)),
        pick(st.integers(0, 2**31)),
        dtype,
        pick(st.integers(*POWERS[dtype])),
        pick(st.sampled_from(kinds)),
        pick(st.sampled_from(LAYOUTS)),
    )


def wrapped(case: Case, wrap: str) -> tuple[N.Norm, int]:
    """A norm made of the case's, and what must divide its first axis."""
    match wrap:
        case "scaled":
            return 0.3 * case.norm, case.parts
        case "transposed" if case.norm.ndim > 1 and case.parts == 1:
            return N.Transpose(case.norm), 1
        case "split":
            return N.Split(case.norm, 2), 2 * case.parts
    return case.norm, case.parts


def numbers(shape: tuple[int, ...], kind: str, seed: int) -> Tensor:
    x = draw(shape, seed)
    match kind:
        case "low rank" if (
            len(shape) > 1 and x.numel()
        ):  # integers: the rank survives the type
            row = draw((*shape[:-2], 1, shape[-1]), seed + 1)
            return x[..., :1].mul(2).round() @ row.mul(2).round()
        case "sparse":
            return x * (draw(shape, seed + 1) > 0.7)
        case "equal":
            return torch.full_like(x, -2.0)
        case "graded":
            return x * 10.0 ** -torch.arange(shape[-1]).mul(0.7)
        case "zero":
            return torch.zeros_like(x)
        case "signs":
            return x.sign()
    return x


def lay(x: Tensor, layout: str) -> Tensor:
    """The same numbers with other strides; "expanded" repeats the first of a batch."""
    match layout:
        case "turned":
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        case "strided":
            return torch.stack([x, x + 1], -1)[..., 0]
        case "offset":
            return torch.cat([x, x])[x.shape[0] :]
        case "expanded" if x.shape[0] > 0:
            return x[:1].expand(x.shape)
    return x


def make(case: Case, found: Drawn, count: int = 1) -> tuple[N.Norm, list[Tensor]]:
    norm, parts = wrapped(case, found.wrap)
    point = (*found.sides, *found.space)[: norm.ndim]
    shape = (*found.batch, parts * point[0], *point[1:])
    xs = [numbers(shape, found.kind, found.seed + 7 * i) for i in range(count)]
    xs = [(x * 10.0**found.power).to(found.dtype) for x in xs]
    return norm, [lay(x, found.layout) for x in xs]


def near(found: Tensor, wanted: Tensor, tol: float) -> bool:
    """Within ``tol`` relatively, or too large for the type and infinite."""
    most = torch.finfo(found.dtype).max
    fits = wanted.abs() < 0.99 * most
    least = torch.finfo(found.dtype).tiny  # below it rounding is absolute
    close = (found.double() - wanted).abs() <= tol * wanted.abs() + least * tol
    return bool(torch.where(fits, close, found == torch.inf).all())


@every_norm
@few
@given(found=points())
def test_all_promises_at_once(case: Case, found: Drawn) -> None:
    """Types, shapes, ⟨g, t⟩ = ‖g‖_*, ‖t‖ = 1 or 0, nothing written, double agrees."""
    n, (g,) = make(case, found)
    tol, batch = 20 * EPS[g.dtype], g.shape[: g.ndim - n.ndim]
    before, version = g.clone(), g._version
    size, dual, t = n.norm(g), n.dual(g), n.dualize(g)
    assert torch.equal(g, before) and g._version == version
    assert (t.shape, t.dtype, t.device) == (g.shape, g.dtype, g.device)
    for answer, exact in ((size, n.norm(g.double())), (dual, n.dual(g.double()))):
        assert (answer.shape, answer.dtype) == (batch, g.dtype)
        assert near(answer, exact, tol)
    assert t.isfinite().all()
    if not g.numel():
        return
    zero = g.abs().amax(tuple(range(-n.ndim, 0))) == 0
    length = n.norm(t.double())
    assert torch.equal(length == 0, zero) and torch.equal(dual == 0, zero)
    assert ((length - (~zero).double()).abs() <= tol).all()
    exact = n.dual(g.double())
    assert ((inner(g, t, n.ndim) - exact).abs() <= tol * exact).all()


@every_norm
@few
@given(found=points(), other=st.sampled_from(KINDS))
def test_both_inequalities(case: Case, found: Drawn, other: str) -> None:
    """Triangle for both norms and Hölder, in double on the numbers of the type."""
    n, (x, y) = make(case, found, count=2)
    x, y = x.double(), y.double()
    y = numbers(tuple(y.shape), other, found.seed + 3) * 10.0**found.power + y
    slack = 1 + EPS[torch.float64]
    for measure in (n.norm, n.dual):
        assert (measure(x + y) <= (measure(x) + measure(y)) * slack).all()
        assert (measure(x) - measure(y) <= measure(x - y) * slack).all()
        assert near(measure(-x), measure(x), EPS[torch.float64])
    bound = n.dual(x) * n.norm(y)
    assert (inner(x, y, n.ndim).abs() <= bound * slack).all()
    # The unit ball of the dual is the polar of the ball: the other way round too.
    t = n.dualize(x)
    assert (inner(y, t, n.ndim).abs() <= n.dual(y) * slack).all()


@every_norm
@few
@given(
    found=points(dtypes=(torch.float64, torch.float32), kinds=("gauss", "sparse")),
    factor=st.sampled_from([2.0**-40, 0.25, 8.0, 2.0**20]),
)
def test_powers_of_two_change_no_bit(case: Case, found: Drawn, factor: float) -> None:
    n, (g,) = make(case, found)
    g = g.contiguous()  # else the product has other strides, and rounds otherwise
    least = torch.finfo(g.dtype).tiny / factor
    if (g.abs()[g != 0] < least).any() or 1e37 < 2.0**20 * 10.0**found.power:
        return
    assert torch.equal(n.dualize(factor * g), n.dualize(g))
    assert torch.equal(n.norm(factor * g), factor * n.norm(g))
    assert torch.equal(n.dual(factor * g), factor * n.dual(g))


@every_norm
@few
@given(found=points(dtypes=(torch.float64,), kinds=("gauss",)))
def test_strides_and_batches_change_nothing(case: Case, found: Drawn) -> None:
    n, (g,) = make(case, found)
    dense = g.clone(memory_format=torch.contiguous_format)
    for question in (n.norm, n.dual, n.dualize):
        answer = question(g)
        assert relative_or_empty(answer, question(dense)) < 1e-9
        batch = g.shape[: g.ndim - n.ndim]
        flat = dense.reshape(-1, *g.shape[len(batch) :]) if g.numel() else None
        if flat is not None:
            alone = torch.stack([question(point) for point in flat])
            assert relative(answer.reshape(alone.shape), alone) < 1e-9


def relative_or_empty(actual: Tensor, expected: Tensor) -> float:
    return relative(actual, expected) if actual.numel() else 0.0


ROTATED = [N.Spectral(), N.RMSToRMS(), N.Nuclear(), N.Frobenius()]
ROTATED += [N.Schatten(p) for p in (1.5, 4)] + [N.KyFan(2), N.LowRank(2)]
ITERATED = [N.Spectral(m) for m in ("muon", "you", "polar-express", "gram", "eigh")]


@pytest.mark.parametrize("norm", ROTATED + ITERATED, ids=repr)
@few
@given(
    sides=st.sampled_from([(1, 4), (4, 1), (3, 3), (2, 6), (6, 2)]),
    seed=st.integers(0, 2**31),
    power=st.integers(-30, 30),
)
def test_norms_of_singular_values_turn_with_the_matrix(norm, sides, seed, power):
    G = draw((2, *sides), seed) * 10.0**power
    Q, R = (orthogonal(n, seed % 1000 + k) for k, n in enumerate(sides))
    turned = Q @ G @ R
    assert relative(norm.norm(turned), norm.norm(G)) < 1e-12
    assert relative(norm.dual(turned), norm.dual(G)) < 1e-12
    # Directions feel rounding as much as the singular values are close to zero.
    assert relative(norm.dualize(turned), Q @ norm.dualize(G) @ R) < 1e-6


@few
@given(found=points(), scales=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=4))
@pytest.mark.parametrize("first", range(0, len(CASES), 4))
def test_the_joint_norm_of_a_few(first: int, found: Drawn, scales) -> None:
    """MaxOver on mixed types, batches as stacks: the same promises."""
    cases = [CASES[(first + 5 * i) % len(CASES)] for i in range(len(scales))]
    made = [make(case, found) for case in cases]
    joint = N.MaxOver([(n, s) for (n, _), s in zip(made, scales, strict=True)])
    gs = [g for _, (g,) in made]
    gs[0] = gs[0].double()
    ts = joint.dualize(gs)
    assert [(t.dtype, t.shape) for t in ts] == [(g.dtype, g.shape) for g in gs]
    assert joint.dual(gs).dtype == joint.norm(gs).dtype == torch.float64
    pairs = zip(joint.terms, gs, ts, strict=True)
    products = [inner(g, t, n.ndim).sum() for (n, _), g, t in pairs]
    dual = joint.dual(gs)
    tol = 40 * EPS[found.dtype]
    assert abs(sum(products) - dual) <= tol * dual
    length = joint.norm([t.double() for t in ts])
    assert abs(length - float(dual > 0)) <= tol
    pairs = zip(joint.terms, gs, ts, strict=True)
    for (n, s), g, t in pairs:  # each point of each tensor moves as far as it may
        moved = s * n.norm(t.double())
        assert ((moved - (n.dual(g.double()) > 0).double()).abs() <= tol).all()
