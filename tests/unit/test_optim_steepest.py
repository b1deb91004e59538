"""SteepestDescent: which norm sees what, groups, and what is refused."""

import pytest
import torch

from anthology import norms
from anthology.norms import (
    RMS,
    Conv,
    LInf,
    MaxAbs,
    OneToRMS,
    RMSToInf,
    RMSToRMS,
    Spectral,
    Transpose,
    metrize,
)
from anthology.optim import SteepestDescent
from anthology.optim.parts.param_norm import as_points, dualize, norm_for

EVERY = [
    "L1()",
    "L2()",
    "LInf()",
    "Lp(3.0)",
    "RMS()",
    "Frobenius()",
    "Spectral()",
    "Nuclear()",
    "KyFan(2)",
    "LowRank(2)",
    "Schatten(4.0)",
    "RMSToRMS()",
    "OneTo(2.0)",
    "OneToRMS()",
    "Transpose(OneToRMS())",
    "ToInf(2.0)",
    "RMSToInf()",
    "MaxAbs()",
    "RowL1()",
    "ColumnL1()",
    "Conv(1)",
    "Conv(2)",
    "Scaled(Spectral(), 2.0)",
]


def step_of(g, **options):
    p = torch.zeros_like(g).requires_grad_()
    p.grad = g.clone()
    SteepestDescent([p], lr=1.0, **options).step()
    return -p.detach()


@pytest.mark.parametrize("norm", EVERY)
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 4, 3), (3, 2, 2, 2)])
def test_a_step_has_length_one_and_gains_the_dual_norm(norm, shape):
    g = torch.randn(shape, dtype=torch.float64)
    kind = norms.from_spec(norm)
    t = step_of(g, norm=norm)
    points, duals = as_points(t, kind), kind.dual(as_points(g, kind))
    assert abs(float(kind.norm(points).max()) - 1) < 1e-10
    assert abs(float((g * t).sum() / duals.sum()) - 1) < 1e-10
    long = step_of(g, norm=norm, step="steepest", across="l2")
    assert torch.allclose(long, t * duals.sum(), rtol=1e-10)


def test_the_norm_goes_by_shape_where_none_is_given():
    shapes = {(): RMS(), (5,): RMS(), (4, 3): RMSToRMS(), (4, 3, 2): Conv(1)}
    shapes |= {(4, 3, 2, 2): Conv(2), (4, 3, 2, 2, 2): Conv(3)}
    for shape, norm in shapes.items():
        g = torch.randn(shape, dtype=torch.float64)
        assert norm_for(g, None) == norm
        assert torch.equal(step_of(g), dualize(g, norm))


def test_a_bias_is_a_linear_map_from_the_number_one():
    """Missing axes have size one: RMS→RMS of a column is the RMS norm, and so on."""
    g = torch.randn(6, dtype=torch.float64)
    for matrix, vector in ((RMSToRMS(), RMS()), (Conv(2), RMS()), (MaxAbs(), LInf())):
        assert torch.allclose(step_of(g, norm=matrix), step_of(g, norm=vector))


def test_axes_in_front_are_a_stack():
    g = torch.randn(3, 2, 4, 5, dtype=torch.float64)
    t = step_of(g, norm=Spectral())
    for i in range(3):
        for j in range(2):
            assert torch.allclose(t[i, j], step_of(g[i, j], norm=Spectral()))


def test_complex_parameters_keep_their_geometry():
    """The spectral step of a complex matrix is its own polar factor."""
    g = torch.randn(4, 3, dtype=torch.complex128)
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    assert torch.allclose(step_of(g, norm=Spectral()), u @ vh)
    t = step_of(g, norm=LInf())
    assert torch.allclose(t, g / g.abs())
    eta = step_of(g, norm=Spectral(), step="steepest")
    assert torch.allclose(eta, torch.linalg.svdvals(g).sum() * (u @ vh))


@pytest.mark.parametrize("step", ["dualize", "steepest"])
@pytest.mark.parametrize("across", ["max", "l2"])
def test_loop_and_lists_agree(step, across):
    """Equal shapes dualized as one batch, against one by one."""
    ends = []
    for foreach in (False, True, None):
        torch.manual_seed(2)
        shapes = [(4, 3), (4, 3), (3, 4), (5,), (5,), (), (2, 2, 3, 3)]
        params = [torch.randn(s).requires_grad_() for s in shapes]
        optimizer = SteepestDescent(
            params, 0.1, 0.9, True, 0.1, step=step, across=across, foreach=foreach
        )
        for _ in range(20):
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in params]))
    assert torch.allclose(ends[0], ends[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(ends[1], ends[2])


def test_a_metrized_model_trains_in_its_own_norms():
    model = torch.nn.Sequential(
        torch.nn.Embedding(7, 4), torch.nn.Linear(4, 6), torch.nn.Linear(6, 3)
    ).double()
    groups = metrize(model)
    optimizer = SteepestDescent(groups, lr=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    expected = {
        "0.weight": Transpose(OneToRMS()),
        "1.weight": RMSToRMS(),
        "1.bias": RMS(),
        "2.weight": RMSToInf(),
        "2.bias": RMS(),
    }
    scales = {}
    for group in groups:
        scales |= dict.fromkeys(group["param_names"], group["scale"])
    for name, p in model.named_parameters():
        moved = before[name] - p.detach()
        step = 0.1 / scales[name] * dualize(p.grad, expected[name])
        assert torch.allclose(moved, step, rtol=1e-9), name
    state = optimizer.state_dict()
    assert all(isinstance(g["norm"], str) for g in state["param_groups"])
    again = SteepestDescent(metrize(model), lr=0.1)
    again.load_state_dict(state)
    assert [g["norm"] for g in again.param_groups] == [
        g["norm"] for g in optimizer.param_groups
    ]


def test_a_norm_can_be_changed_between_steps():
    g = torch.randn(4, 3, dtype=torch.float64)
    p = torch.zeros_like(g).requires_grad_()
    optimizer = SteepestDescent([p], lr=1.0)
    optimizer.param_groups[0]["norm"] = LInf()
    p.grad = g
    optimizer.step()
    assert torch.equal(-p.detach(), g.sign())
    assert optimizer.state_dict()["param_groups"][0]["norm"] == "LInf()"


def test_momentum_can_be_switched_on_later():
    p = torch.zeros(3, dtype=torch.float64).requires_grad_()
    optimizer = SteepestDescent([p], lr=1.0)
    p.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.9
    optimizer.step()
    buffer = optimizer.state[p]["momentum_buffer"]
    assert torch.allclose(buffer, torch.full_like(buffer, 0.1))


def test_extreme_gradients_take_ordinary_steps():
    """The direction of a step under a norm does not depend on the gradient's size."""
    g = torch.randn(4, 3)
    for norm in ("RMSToRMS()", "LInf()", "L2()", "MaxAbs()"):
        reference = step_of(g, norm=norm)
        for size in (1e-30, 1e30):
            assert torch.allclose(step_of(size * g, norm=norm), reference, atol=1e-5)
    rank_one = torch.outer(torch.randn(4), torch.randn(3))
    assert bool(torch.isfinite(step_of(rank_one)).all())


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"norm": 3}, TypeError, "norm must be a Norm such as"),
        ({"norm": "Nope()"}, ValueError, "no norm named 'Nope'"),
        ({"norm": "MaxOver([(L2(), 1.0)])"}, TypeError, "norm of single tensors"),
        ({"norm": LInf}, TypeError, "norm must be a Norm such as"),
        ({"step": "newton"}, ValueError, "must be 'dualize' or 'steepest'"),
        ({"across": "l1"}, ValueError, "must be 'max' or 'l2'"),
        ({"momentum": 1.0}, ValueError, "Invalid momentum value: 1.0"),
        ({"nesterov": True}, ValueError, "needs a momentum above zero"),
        ({"weight_decay": -0.1}, ValueError, "Invalid weight_decay value"),
        ({"momentum": "0.9"}, TypeError, "momentum value: '0.9'; it must be a number"),
    ],
)
def test_what_cannot_be_is_refused(options, error, text):
    p = torch.ones(3, 3)
    with pytest.raises(error, match=text):
        SteepestDescent([p], lr=0.1, **options)
    with pytest.raises(error, match=text):
        SteepestDescent([{"params": [p], **options}], lr=0.1)


def test_groups_agree_on_how_tensors_are_measured_together():
    p = torch.ones(3)
    optimizer = SteepestDescent([p], lr=0.1)
    for option in ({"across": "l2"}, {"step": "steepest"}):
        with pytest.raises(ValueError, match="one choice for all groups"):
            optimizer.add_param_group({"params": [torch.ones(2)], **option})
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="positive and finite"):
            optimizer.add_param_group({"params": [torch.ones(2)], "scale": scale})
    assert len(optimizer.param_groups) == 1


def test_a_norm_that_does_not_fit_is_refused_before_the_first_step():
    fused, odd = torch.ones(6, 4), torch.ones(5, 4)
    optimizer = SteepestDescent(iter([fused]), lr=0.1, norm="Split(RMSToRMS(), 3)")
    with pytest.raises(ValueError, match="cannot divide an axis of size 5"):
        optimizer.add_param_group({"params": odd})
    with pytest.raises(ValueError, match="cannot divide an axis of size 5"):
        SteepestDescent([("odd", odd)], lr=0.1, norm="Split(RMSToRMS(), 3)")
    assert len(optimizer.param_groups) == 1
    for wrong in ({"params": {fused}}, {"params": ["text"]}, "text"):
        with pytest.raises(TypeError):
            optimizer.add_param_group(wrong)
    with pytest.raises(KeyError, match="params"):
        optimizer.add_param_group({"lr": 0.1})
    assert len(optimizer.param_groups) == 1


def test_integer_parameters_are_let_pass_as_in_torch():
    p, codes = torch.ones(3).requires_grad_(), torch.ones(2, dtype=torch.int8)
    optimizer = SteepestDescent([p, codes], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(codes, torch.ones(2, dtype=torch.int8))
