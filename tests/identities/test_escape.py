"""Steps that find their own length, under any norm, against definition and bound."""

import pytest
import torch
from torch import Tensor

from anthology.norms import MaxOver, from_spec
from anthology.optim import FreeSteepestDescent, Prodigy, SteepestDescent
from anthology.optim.parts.param_norm import as_points

NORMS = ["L2()", "LInf()", "L1()", "Lp(3.0)", "RMS()", "Spectral()", "RMSToRMS()"]
NORMS += ["Frobenius()", "Nuclear()", "MaxAbs()", "OneToRMS()", "RMSToInf()"]
TERMS = [("RMSToRMS()", 2.0), ("LInf()", 0.5), ("Conv(2)", 1.0), ("L2()", 3.0)]
SHAPES = [(4, 3), (5,), (3, 2, 2, 2), (6,)]


def tensors() -> list[Tensor]:
    return [torch.randn(s, dtype=torch.float64).requires_grad_() for s in SHAPES]


def groups(params: list[Tensor]) -> list[dict]:
    return [
        {"params": [p], "norm": norm, "scale": scale}
        for p, (norm, scale) in zip(params, TERMS, strict=True)
    ]


def lengths(xs: list[Tensor], dual: bool) -> Tensor:
    """s_l‖·‖_l of each tensor, or ‖·‖_l*/s_l."""
    found = []
    for x, (name, scale) in zip(xs, TERMS, strict=True):
        norm = from_spec(name)
        points = as_points(x, norm)
        found.append(norm.dual(points) / scale if dual else norm.norm(points) * scale)
    return torch.stack(found)


@pytest.mark.claim("escape-definition", tol=1e-12, trials=40)
def test_over_several_tensors_it_is_its_definition(claim):
    """With the joint norm and its dual from MaxOver."""
    joint = MaxOver([(from_spec(norm), scale) for norm, scale in TERMS])
    params, ends = tensors(), tensors()
    optimizer = FreeSteepestDescent(groups(params), lr=1.0, d0=1e-2)
    w = [p.detach().clone() for p in params]
    w0, d = [x.clone() for x in w], torch.tensor(1e-2, dtype=torch.float64)
    for _ in range(claim.trials):
        for p, end in zip(params, ends, strict=True):
            p.grad = p.detach() - end.detach()
        optimizer.step()
        g = [p.grad for p in params]
        product = sum((a * (b - c)).sum() for a, b, c in zip(g, w0, w, strict=True))
        w = [x - d * t for x, t in zip(w, joint.dualize(g), strict=True)]
        d = torch.maximum(d, product / joint.dual(g))
        for p, x in zip(params, w, strict=True):
            assert float((p.detach() - x).abs().max()) < claim.tol
        assert abs(optimizer.d / float(d) - 1) < claim.tol
    assert optimizer.d > 0.1


@pytest.mark.claim("escape-definition", tol=1e-12, trials=30)
@pytest.mark.parametrize("across", ["max", "l2"])
def test_each_step_is_steepest_descent_of_that_length(claim, across):
    params = tensors()
    twins = [p.detach().clone().requires_grad_() for p in params]
    options = {"across": across, "momentum": 0.5, "weight_decay": 0.1}
    optimizer = FreeSteepestDescent(groups(params), lr=1.0, d0=1e-2, **options)
    twin = SteepestDescent(groups(twins), lr=0.0, **options)
    for _ in range(claim.trials):
        for p, q in zip(params, twins, strict=True):
            p.grad = p.detach() - 1 + 0.1 * torch.randn_like(p)
            q.grad = p.grad.clone()
        for group in twin.param_groups:
            group["lr"] = optimizer.d
        optimizer.step()
        twin.step()
        for p, q in zip(params, twins, strict=True):
            assert float((p - q).detach().abs().max()) < claim.tol
    assert optimizer.d > 1e-2


@pytest.mark.claim("escape-prodigy", tol=1e-12, trials=60)
def test_under_the_max_norm_it_is_prodigy_without_averages(claim):
    params = tensors()
    twins = [p.detach().clone().requires_grad_() for p in params]
    optimizer = FreeSteepestDescent(params, 1.0, norm="LInf()", weight_decay=0.1)
    twin = Prodigy(twins, betas=(0.0, 0.0), eps=0.0, weight_decay=0.1)
    for _ in range(claim.trials):
        for p, q in zip(params, twins, strict=True):
            p.grad = (p.detach() - 3) ** 3 + 0.1 * torch.randn_like(p)
            q.grad = p.grad.clone()
        optimizer.step()
        twin.step()
        for p, q in zip(params, twins, strict=True):
            assert float((p - q).detach().abs().max()) < claim.tol
        assert abs(optimizer.d / twin.d - 1) < claim.tol
    assert optimizer.d > 0.1


@pytest.mark.claim("escape-fibonacci", tol=1e-12)
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_loss_the_lengths_are_fibonacci_numbers(claim, norm):
    p = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    slope = torch.randn(4, 3, dtype=torch.float64)
    optimizer = FreeSteepestDescent([p], lr=1.0, norm=norm, d0=1e-4)
    found = []
    for _ in range(20):
        found.append(optimizer.d / 1e-4)
        p.grad = slope.clone()
        optimizer.step()
    numbers = [1.0, 1.0, 1.0]
    while len(numbers) < 20:
        numbers.append(numbers[-1] + numbers[-2])
    gaps = [abs(a / b - 1) for a, b in zip(found, numbers, strict=True)]
    assert max(gaps) < claim.tol


@pytest.mark.claim("escape-bound", tol=1e-12, trials=6)
@pytest.mark.parametrize(
    "options",
    [
        {"lr": 1.0},
        {"lr": 3.0, "momentum": 0.9, "weight_decay": 0.3},
        {"lr": 1.0, "beta3": 0.9},
    ],
)
@pytest.mark.parametrize("norm", NORMS)
def test_d_never_exceeds_the_distance_in_its_norm(claim, norm, options):
    for trial in range(claim.trials):
        a = torch.randn(9, 12, dtype=torch.float64)
        end = 10.0 ** torch.randn(1).double() * torch.randn(4, 3, dtype=torch.float64)
        p = torch.randn(4, 3, dtype=torch.float64).requires_grad_()
        measure = from_spec(norm)
        far = float(measure.norm(as_points(p.detach() - end, measure)))
        optimizer = FreeSteepestDescent([p], norm=norm, d0=1e-6, **options)
        for _ in range(50):
            optimizer.zero_grad()
            rest = a @ (p - end).reshape(-1)
            losses = (rest.square(), (rest.square() + 1).sqrt(), rest.abs())
            losses[trial % 3].sum().backward()
            optimizer.step()
            assert optimizer.d <= far * (1 + claim.tol)
        assert optimizer.d > 1e-3 * far


@pytest.mark.claim("escape-bound", tol=1e-12, trials=10)
@pytest.mark.parametrize("across", ["max", "l2"])
def test_d_never_exceeds_the_joint_distance_over_tensors(claim, across):
    for _ in range(claim.trials):
        params, ends = tensors(), [e.detach() for e in tensors()]
        gone = [p.detach() - e for p, e in zip(params, ends, strict=True)]
        each = lengths(gone, dual=False)
        far = float(each.max() if across == "max" else each.square().sum().sqrt())
        optimizer = FreeSteepestDescent(groups(params), lr=1.0, across=across)
        for _ in range(50):
            for p, end in zip(params, ends, strict=True):
                p.grad = p.detach() - end
            optimizer.step()
            assert optimizer.d <= far * (1 + claim.tol)
        assert optimizer.d > 1e-3 * far


def test_a_bad_tensor_is_left_out_of_both_sums():
    good, spoiled, lonely = (torch.zeros(4, 3).requires_grad_() for _ in range(3))
    optimizer = FreeSteepestDescent([good, spoiled], lr=1.0)
    alone = FreeSteepestDescent([lonely], lr=1.0)
    for _ in range(40):
        good.grad, lonely.grad = good.detach() - 1, lonely.detach() - 1
        spoiled.grad = torch.full((4, 3), torch.nan)
        optimizer.step()
        alone.step()
    assert optimizer.d == alone.d > 0.1 and torch.equal(good, lonely)
    assert torch.equal(spoiled.detach(), torch.zeros(4, 3))


@pytest.mark.parametrize(
    "options", [{"d0": 0.0}, {"growth_rate": 0.5}, {"beta3": 1.0}, {"across": "sum"}]
)
def test_impossible_values_are_refused(options):
    with pytest.raises(ValueError, match="Invalid"):
        FreeSteepestDescent([torch.zeros(2).requires_grad_()], **options)


@pytest.mark.parametrize(
    "options", [{"step": "steepest"}, {"slice_p": 2}, {"per_group": True}]
)
def test_a_group_cannot_ask_for_what_the_method_has_not(options):
    p = torch.zeros(2).requires_grad_()
    with pytest.raises(ValueError):
        FreeSteepestDescent([{"params": [p], **options}])
