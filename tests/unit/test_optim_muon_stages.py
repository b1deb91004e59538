"""Muon's stages after the polynomial: rows evened out, lengths by the nuclear norm."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from anthology.linalg import polar
from anthology.norms import Spectral
from anthology.optim import Muon, SteepestDescent, convert_lr, functional
from tests.random_steps import copies, gap, train, weights

SHAPES = [(9, 4), (4, 9), (5, 5), (9, 4)]
QUINTIC = (3.4445, -4.7750, 2.0315)


def moved(g: Tensor, **options) -> Tensor:
    """The first step along a gradient."""
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g.clone()
    options = {"weight_decay": 0.0, "adjust_lr_fn": "none", **options}
    Muon([p], 1.0, **options).step()
    return -p.detach()


def uneven_steps(
    optimizer: Muon, p: Tensor, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Gradients whose rows differ widely in size, and what is stepped along each."""
    for _ in range(count):
        before = p.detach().clone()
        scales = 10 ** (2 * torch.randn(len(p), 1).double())
        p.grad = scales * torch.randn(p.shape).double()
        optimizer.step()
        yield p.grad, before - p.detach()


def quintic(u: Tensor) -> Tensor:
    """The published iteration, in double precision and without its rounding."""
    tall = u.shape[0] > u.shape[1]
    x = u.T if tall else u
    x = x / x.norm()
    a, b, c = QUINTIC
    for _ in range(5):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return x.T if tall else x


def normuon(u: Tensor, v: Tensor, beta: float, longer: bool) -> tuple[Tensor, Tensor]:
    """The authors' rule after the polynomial, written down anew."""
    o = quintic(u)
    axis = 0 if longer and o.shape[0] < o.shape[1] else 1
    v = beta * v + (1 - beta) * (o**2).mean(axis, keepdim=True)
    x = o / (v.sqrt() + 1e-10)
    return x * (o.norm() / x.norm()), v


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("longer", [True, False])
def test_rows_are_averaged_as_normuon_does(foreach, longer):
    """Against a transcription in float64, fifty steps with momentum."""
    torch.manual_seed(0)
    params = weights(SHAPES)
    ours = [p.detach().clone() for p in params]
    m: list[Tensor] = [torch.zeros_like(w) for w in ours]
    v: list[Tensor] = [torch.zeros(1).double() for _ in ours]
    optimizer = Muon(
        params,
        0.02,
        0.0,
        row_beta=0.95,
        row_side="longer" if longer else "out",
        foreach=foreach,
    )
    for _ in range(50):
        for i, p in enumerate(params):
            g = torch.randn_like(p)
            p.grad = g.clone()
            m[i] = 0.95 * m[i] + 0.05 * g
            x, v[i] = normuon(0.05 * g + 0.95 * m[i], v[i], 0.95, longer)
            rows, columns = g.shape
            ours[i] = ours[i] - 0.02 * math.sqrt(max(1, rows / columns)) * x
        optimizer.step()
    assert gap(params, ours) < 1e-12
    for p, kept in zip(params, v, strict=True):
        assert torch.allclose(optimizer.state[p]["row_avg_sq"], kept.flatten())


@pytest.mark.parametrize("foreach", [True, False])
def test_the_steepest_step_is_times_the_nuclear_norm_of_each_matrix(foreach):
    params = weights(SHAPES)
    others = copies(params)
    ours = Muon(
        params,
        0.01,
        0.1,
        method="svd",
        step="steepest",
        adjust_lr_fn="none",
        foreach=foreach,
    )
    theirs = SteepestDescent(
        others, 0.01, 0.95, True, 0.1, Spectral(), "steepest", "l2"
    )
    train(ours, params, 50)
    train(theirs, others, 50)
    assert gap(params, others) < 1e-10


def test_with_polynomials_its_length_is_the_inner_product_with_what_they_found():
    """The published scale: ⟨U, X⟩ for the X at hand, not the nuclear norm."""
    torch.manual_seed(2)
    g = torch.randn(6, 4).double()
    x = quintic(g)
    step = moved(g, step="steepest", momentum=0.0)
    assert torch.allclose(step, (g * x).sum() * x, rtol=1e-10)
    exact = moved(g, step="steepest", method="svd", momentum=0.0)
    nuclear = torch.linalg.svdvals(g).sum()
    assert torch.linalg.matrix_norm(exact, 2) == pytest.approx(float(nuclear))


@pytest.mark.claim("muon-stages", trials=200)
@pytest.mark.parametrize("method", ["svd", "muon", "polar-express", "deepseek"])
@pytest.mark.parametrize("normalize", ["frobenius", "rows", "schatten4"])
def test_the_whole_pipeline_keeps_descent(claim, method, normalize):
    """Against gradients whose rows differ a millionfold."""
    torch.manual_seed(13)
    options = {"method": method, "normalize": normalize, "row_beta": 0.9}
    for m, n in ((9, 4), (4, 9)):
        p = torch.zeros(m, n, dtype=torch.float64).requires_grad_()
        optimizer = Muon([p], 1.0, 0.0, 0.0, False, renormalize="frobenius", **options)
        for g, step in uneven_steps(optimizer, p, claim.trials):
            assert (g * step).sum() > 0
            size = math.sqrt(min(m, n) * max(1, m / n))
            assert step.norm() == pytest.approx(size, rel=1e-9)


@pytest.mark.claim("muon-stages", trials=20000)
def test_factors_on_both_sides_or_for_each_entry_may_climb(claim):
    """Rows before and columns after, as nanochat has them, among them."""
    generator = torch.Generator().manual_seed(0)

    def factors(*shape):
        draw = torch.randn(claim.trials, *shape, generator=generator)
        return 10 ** draw.double()

    g = torch.randn(claim.trials, 3, 3, generator=generator).double()
    g = factors(3, 1) * g
    left, right, rows = factors(3, 1), factors(1, 3), 1 / g.norm(dim=2)[..., None]

    def climbs(x):
        return int(((g * x).sum((1, 2)) < 0).sum())

    assert climbs(polar(left * g)) == climbs(left * polar(g)) == 0
    assert climbs(left * polar(rows * g)) == climbs(polar(g * right) * right) == 0
    assert climbs(polar(left * g * right)) > 0
    assert climbs(polar(rows * g) * right) > 0
    assert climbs(factors(3, 3) * polar(g)) > 0


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("normalize", ["frobenius", "rows", "aol"])
def test_the_options_of_the_polar_factor_are_passed_on(foreach, normalize):
    torch.manual_seed(14)
    params = weights([(6, 4), (6, 4), (3, 5)])
    grads = [torch.randn_like(p) for p in params]
    start = [p.detach().clone() for p in params]
    options = {"normalize": normalize, "renormalize": "frobenius"}
    optimizer = Muon(
        params,
        1.0,
        0.0,
        0.0,
        False,
        method="quintic",
        adjust_lr_fn="none",
        foreach=foreach,
        **options,
    )
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    optimizer.step()
    for p, w, g in zip(params, start, grads, strict=True):
        assert torch.allclose(w - p.detach(), polar(g, "quintic", **options))


@pytest.mark.claim("muon-rows-descend", trials=200)
@pytest.mark.parametrize("method", ["svd", "muon", "polar-express"])
@pytest.mark.parametrize("side", ["out", "longer"])
def test_every_stage_keeps_descent_and_the_size(claim, method, side):
    """⟨G, X⟩ > 0 whatever the averages hold, as a factor on one side is harmless."""
    torch.manual_seed(3)
    for m, n in ((9, 4), (4, 9), (6, 6)):
        p = torch.zeros(m, n, dtype=torch.float64).requires_grad_()
        options = {"row_beta": 0.9, "row_side": side, "adjust_lr_fn": "none"}
        options |= {"momentum": 0.0, "nesterov": False, "method": method}
        optimizer = Muon([p], 1.0, 0.0, **options)
        for g, step in uneven_steps(optimizer, p, claim.trials):
            assert (g * step).sum() > 0
            plain = moved(g, method=method, momentum=0.0, nesterov=False)
            assert step.norm() == pytest.approx(float(plain.norm()), rel=1e-9)


def test_the_first_step_has_rows_of_one_length():
    torch.manual_seed(4)
    step = moved(torch.randn(9, 4).double(), row_beta=0.95, method="svd")
    assert torch.allclose(step.norm(dim=1), torch.full((9,), 2 / 3).double())
    assert torch.linalg.matrix_norm(step, 2) > 1.05  # no longer in the ball


def test_with_no_more_rows_than_columns_an_exact_factor_is_left_alone():
    torch.manual_seed(5)
    params = weights([(4, 9), (6, 6)])
    others = copies(params)
    train(Muon(params, 0.02, method="svd", row_beta=0.95), params, 20)
    train(Muon(others, 0.02, method="svd"), others, 20)
    assert gap(params, others) < 1e-10


def test_how_far_rows_can_leave_the_ball():
    """At most √n, the Frobenius norm, and nearly that where weak rows agree."""
    m, n = 400, 4
    g = torch.zeros(m, n).double()
    g[:, 0] = 1e-3
    g[1:n, 0] = 0.0
    g[range(n), range(n)] = 1.0
    step = moved(g, row_beta=0.95, method="svd")
    top = float(torch.linalg.matrix_norm(step, 2))
    assert top == pytest.approx(math.sqrt((m - n + 1) * n / m), rel=1e-6)
    assert 1.99 < top < math.sqrt(n)


def test_a_number_is_the_root_mean_square_of_a_step():
    torch.manual_seed(6)
    for m, n in ((6, 4), (4, 6)):
        g = torch.randn(m, n).double()
        step = moved(g, method="svd", adjust_lr_fn=0.18)
        assert step.square().mean().sqrt() == pytest.approx(0.18)
        plain = moved(g, method="svd", adjust_lr_fn="match_rms_adamw")
        assert torch.equal(plain, moved(g, method="svd", adjust_lr_fn=0.2))
        same = convert_lr(1.0, (m, n), "match_rms_adamw", 1.0)
        assert same == pytest.approx(0.2)


def test_rows_may_be_switched_on_in_a_run_and_go_with_checkpoints():
    torch.manual_seed(7)
    params = weights([(6, 4), (3, 2, 2, 2)])
    optimizer = Muon(params, 0.02)
    train(optimizer, params, 3)
    plain = copy.deepcopy(optimizer.state_dict())
    optimizer.param_groups[0]["row_beta"] = 0.9
    train(optimizer, params, 3)
    for p, rows in zip(params, (6, 3), strict=True):
        assert optimizer.state[p]["row_avg_sq"].shape == (rows,)
    others = copies(params)
    resumed = Muon(others, 0.5, row_beta=0.1)
    resumed.load_state_dict(optimizer.state_dict())
    train(optimizer, params, 3, seed=2)
    train(resumed, others, 3, seed=2)
    assert gap(params, others) == 0
    resumed.load_state_dict(plain)
    assert resumed.param_groups[0]["row_beta"] is None
    longer = Muon(copies(params), 0.02, row_beta=0.9, row_side="longer")
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["row_side"] = "longer"
    with pytest.raises(ValueError, match=r"row_avg_sq has shape \(3,\), not \(8,\)"):
        longer.load_state_dict(saved)


def test_a_checkpoint_says_that_torch_would_take_another_step():
    for options in (
        {"row_beta": 0.9},
        {"step": "steepest"},
        {"adjust_lr_fn": 0.2},
        {"normalize": "aol"},
    ):
        saved = Muon(weights(SHAPES), **options).state_dict()
        assert "ns_coefficients" not in saved["param_groups"][0]
    assert "ns_coefficients" in Muon(weights(SHAPES)).state_dict()["param_groups"][0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 1e36, 1e38])
def test_nothing_overflows_and_zero_stays(size, dtype):
    torch.manual_seed(8)
    for shape in ((6, 4), (1, 5), (7, 1)):
        p = torch.zeros(shape, dtype=dtype).requires_grad_()
        optimizer = Muon([p], 1e-3, row_beta=0.95, step="steepest")
        for g in (torch.randn(shape), torch.ones(shape)):
            p.grad = (size * g).to(dtype)
            optimizer.step()
            assert torch.isfinite(p).all()
        skipped = optimizer.skipped.get("0.0", 0)  # there is no room for its sum
        assert skipped == (2 if size == 1e38 else 0)
        assert bool(p.any()) == (0 < size < 1e38)


def test_a_row_of_zeros_has_no_step_and_its_average_fades():
    g = torch.randn(5, 3).double()
    g[2] = 0
    p = torch.zeros(5, 3).double().requires_grad_()
    optimizer = Muon([p], 1.0, 0.0, row_beta=0.5, method="svd")
    for _ in range(3):
        p.grad = g.clone()
        optimizer.step()
    assert not p.detach()[2].any() and torch.isfinite(p).all()
    assert optimizer.state[p]["row_avg_sq"][2] == 0


def test_the_stages_are_differentiable_and_pure():
    """The slope in the rate, and in the start, of two steps from a state of zeros."""
    torch.manual_seed(9)
    w, a = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    form = functional.muon(
        row_beta=0.9, step="steepest", method="cubic", differentiable=True
    )

    def run(w, lr):
        params, state = {"w": w}, form.init({"w": w.detach()})
        for _ in range(2):
            grads = {"w": params["w"] - a}
            params, state = form.update(params, grads, state, lr=lr)
        return (params["w"] - a).square().sum()

    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    w.requires_grad_()
    assert torch.autograd.gradcheck(run, (w, lr), atol=1e-6)


def test_a_step_rule_goes_by_the_name_of_the_constructor_in_groups():
    optimizer = Muon([{"params": weights(SHAPES), "step": "steepest"}], 0.1)
    assert optimizer.param_groups[0]["step_rule"] == "steepest"
    assert optimizer.defaults["step_rule"] == "dualize"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"row_beta": 1.0}, r"row_beta value: 1.0; it must be in \[0, 1\)"),
        ({"row_beta": math.nan}, "row_beta"),
        ({"normalize": "columns"}, "normalize must be one of"),
        ({"renormalize": "rows"}, "renormalize must be one of"),
        ({"row_side": "in"}, "'out' or 'longer'"),
        ({"step": "polar"}, "'dualize' or 'steepest'"),
        ({"adjust_lr_fn": 0.0}, "positive number"),
        ({"adjust_lr_fn": True}, "positive number"),
        ({"adjust_lr_fn": math.inf}, "positive number"),
    ],
)
def test_what_a_stage_cannot_use_is_refused(options, text):
    with pytest.raises(ValueError, match=text):
        Muon(weights(SHAPES), **options)


@pytest.mark.parametrize("method", ["svd", "eigh", "gram", "muon", "deepseek"])
@pytest.mark.parametrize("normalize", ["frobenius", "rows", "aol", "schatten4"])
@pytest.mark.parametrize("foreach", [True, False])
def test_complex_weights_by_every_method(method, normalize, foreach):
    torch.manual_seed(15)
    for shape in ((6, 4), (4, 6)):
        p = torch.zeros(shape, dtype=torch.complex128).requires_grad_()
        p.grad = torch.randn_like(p)
        options = {"normalize": normalize, "renormalize": "frobenius"}
        optimizer = Muon(
            [p], 1.0, 0.0, method=method, row_beta=0.9, foreach=foreach, **options
        )
        optimizer.step()
        assert float((p.grad.conj() * p.detach()).sum().real) < 0


@pytest.mark.parametrize("foreach", [True, False])
def test_cautious_decay_where_every_tensor_is_skipped(foreach):
    p = torch.ones(4, 3).requires_grad_()
    optimizer = Muon([p], 0.1, decay="cautious", foreach=foreach)
    p.grad = torch.full((4, 3), torch.nan)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(4, 3))
    assert optimizer.skipped == {"0.0": 1}
