"""SteepestDescent(step="polyak"): how the loss arrives, and what is refused."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

from anthology.optim import FreeSteepestDescent, Scion, SteepestDescent, functional

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]


def made(*grads: Tensor, lr: float = 10.0, **options) -> tuple[list[Tensor], object]:
    params = [torch.zeros_like(g).requires_grad_() for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    options = {"norm": "LInf()", "step": "polyak", **options}
    return params, SteepestDescent(params, lr, **options)


def test_the_loss_is_what_the_closure_returns():
    g = torch.tensor([3.0, -1.0])
    for loss in (
        2.0,
        2,
        torch.tensor(2.0),
        torch.tensor([2.0]),
        torch.tensor(2).half(),
    ):
        (p,), optimizer = made(g)
        assert optimizer.step(lambda loss=loss: loss) is loss
        assert torch.equal(p.detach(), torch.tensor([-0.5, 0.5]))  # 2/(3 + 1)
    p = torch.tensor([1.0, 1.0], requires_grad=True)
    optimizer = SteepestDescent([p], 10.0, norm="L2()", step="polyak")

    def closure():
        optimizer.zero_grad()
        loss = 3 * p[0] + 4 * p[1]
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 7
    assert abs(closure().item()) < 1e-6  # a linear loss is at 0 after one step


@pytest.mark.parametrize("loss", ["2", 1j, torch.ones(2), torch.tensor(1j), [1.0]])
def test_what_is_no_loss_is_refused(loss):
    (p,), optimizer = made(torch.ones(2))
    with pytest.raises(TypeError, match="one real number, but the closure returned"):
        optimizer.step(lambda: loss)
    for closure in (None, lambda: None):
        with pytest.raises(RuntimeError, match=r"optimizer.step\(lambda: loss\)"):
            optimizer.step(closure)
    assert not p.any() and not optimizer.state


def test_the_length_is_the_smaller_of_the_rate_and_polyaks():
    g = torch.tensor([3.0, -1.0])
    for lr, loss, f_star, length in (
        (10.0, 2.0, 0.0, 0.5),
        (0.1, 2.0, 0.0, 0.1),
        (10.0, 2.0, 1.0, 0.25),
        (10.0, 2.0, 2.0, 0.0),
        (10.0, 2.0, 3.0, 0.0),
        (10.0, -2.0, -6.0, 1.0),
        (10.0, math.inf, 0.0, 10.0),
        (10.0, math.nan, 0.0, 0.0),
        (0.0, 2.0, 0.0, 0.0),
    ):
        for rate in (lr, torch.tensor(lr)):
            (p,), optimizer = made(g, lr=rate, f_star=f_star)
            optimizer.step(lambda loss=loss: loss)
            assert torch.equal(p.detach(), -length * g.sign())


def test_a_loss_to_be_raised_is_raised_to_its_largest_value():
    g = torch.tensor([3.0, -1.0])
    (p,), optimizer = made(g, maximize=True, f_star=5.0)
    optimizer.step(lambda: 3.0)
    assert torch.equal(p.detach(), torch.tensor([0.5, -0.5]))


def test_zero_tiny_and_huge_gradients():
    for size in (0.0, 1e-30, 1e30):
        (p,), optimizer = made(size * torch.tensor([3.0, -1.0]), weight_decay=0.1)
        with torch.no_grad():
            p.fill_(1.0)
        optimizer.step(lambda: 2.0)
        assert bool(p.isfinite().all())
        if size != 1e-30:  # with a slope of zero no step reaches f*, and none is taken
            assert bool((p.detach() == 1.0).all())
    assert float(torch.as_tensor(p.detach()).abs().max()) <= 10.0


def test_decay_goes_by_the_length_taken():
    (p,), optimizer = made(torch.tensor([3.0, -1.0]), weight_decay=0.5)
    with torch.no_grad():
        p.copy_(torch.tensor([8.0, 8.0]))
    optimizer.step(lambda: 2.0)
    assert torch.equal(p.detach(), torch.tensor([5.5, 6.5]))  # 0.75·8 ∓ 0.5


@pytest.mark.parametrize("across", ["max", "l2"])
def test_what_does_not_move_stays_out_of_the_dual_norm(across):
    """A group at rate zero, and a tensor whose gradient is not finite."""
    grads = [torch.tensor([3.0, -1.0]), torch.tensor([[2.0], [-5.0]])]
    (alone,), optimizer = made(grads[0], across=across)
    optimizer.step(lambda: 2.0)
    params, optimizer = made(*grads, torch.full((3,), math.nan), across=across)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(params, (9, 0, 9))]
    optimizer = SteepestDescent(
        groups, 10.0, norm="LInf()", step="polyak", across=across
    )
    optimizer.step(lambda: 2.0)
    assert torch.equal(params[0], alone)
    assert not params[1].any() and not params[2].any()


@pytest.mark.parametrize("across", ["max", "l2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_list_operations_and_the_loop_agree(dtype, across):
    torch.manual_seed(0)
    grads = [torch.randn(4, 3, dtype=dtype), torch.randn(4, 3, dtype=dtype).mT]
    grads += [torch.randn(5, dtype=dtype), torch.randn((), dtype=dtype)]
    ends = []
    for foreach in (True, False):
        options = {"norm": None, "across": across, "foreach": foreach}
        params, optimizer = made(*grads, weight_decay=0.1, **options)
        for loss in (1.5, 1.0, 0.5):
            optimizer.step(lambda loss=loss: torch.tensor(loss, dtype=torch.bfloat16))
        ends.append(params)
    for p, q in zip(*ends, strict=True):
        assert bool(p.any()) and torch.allclose(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"momentum": 0.9}, ValueError, "not by an average; leave momentum=0"),
        ({"f_star": math.nan}, ValueError, "Invalid f_star: nan; it must be finite"),
        ({"f_star": -math.inf}, ValueError, "Invalid f_star: -inf"),
        ({"f_star": "0"}, TypeError, "f_star: '0'; it must be a number"),
    ],
)
def test_impossible_values_are_refused(options, error, text):
    with pytest.raises(error, match=text):
        made(torch.ones(2), **options)


def test_groups_and_other_classes():
    _, optimizer = made(torch.ones(2))
    p = torch.ones(2, requires_grad=True)
    for odd in ({"f_star": 1.0}, {"maximize": True}):
        with pytest.raises(ValueError, match="whose loss is one number, it is one"):
            optimizer.add_param_group({"params": [p], **odd})
    with pytest.raises(ValueError, match="one choice for all groups"):
        optimizer.add_param_group({"params": [p], "step": "dualize"})
    with pytest.raises(ValueError, match="Scion has no step='polyak'"):
        Scion([{"params": [p], "step": "polyak"}])
    with pytest.raises(ValueError, match="step is always 'dualize' here"):
        FreeSteepestDescent([{"params": [p], "step": "polyak"}])


def test_a_checkpoint_from_before_has_zero_for_its_best_value():
    _, optimizer = made(torch.ones(2))
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["f_star"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["f_star"] == 0.0


def test_state_is_made_without_a_loss_for_distributed_checkpoints():
    model = torch.nn.Linear(3, 2)
    optimizer = SteepestDescent(model.parameters(), 0.1, step="polyak")
    assert get_optimizer_state_dict(model, optimizer)["state"]


def test_as_pure_functions_and_for_an_ensemble():
    polyak = functional.steepest_descent(lr=10.0, norm="LInf()", step="polyak")
    params, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, -1.0])}
    state = polyak.init(params)
    new, _ = polyak.update(params, grads, state, loss=2.0)
    assert torch.equal(new["w"], torch.tensor([-0.5, 0.5]))
    with pytest.raises(RuntimeError, match="needs the loss"):
        polyak.update(params, grads, state)

    def moved(loss):
        return polyak.update(params, grads, state, loss=loss)[0]["w"]

    every = torch.func.vmap(moved)(torch.tensor([2.0, 4.0]))
    assert torch.equal(every, torch.tensor([[-0.5, 0.5], [-1.0, 1.0]]))


def test_the_slope_of_a_step_in_the_loss():
    """Δ = −(δ/N†)·dualize(g), so dΔ/df is −dualize(g)/N† below the cap, 0 at it."""
    for lr, slope in ((10.0, -0.25), (0.1, 0.0)):
        polyak = functional.steepest_descent(
            lr=lr, norm="LInf()", step="polyak", differentiable=True
        )
        params, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, -1.0])}
        loss = torch.tensor(2.0, requires_grad=True)
        new, _ = polyak.update(params, grads, polyak.init(params), loss=loss)
        (found,) = torch.autograd.grad(new["w"][0], loss)
        assert float(found) == slope
