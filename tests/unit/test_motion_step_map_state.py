"""What of an optimizer's state a step map takes for coordinates, and what it refuses."""

import pytest
import torch
from torch import nn

from anthology.motion import step_map
from tests.step_map_cases import (
    assert_same,
    built,
    everything,
    network,
    of_ours,
    of_torch,
    sgd,
    values,
    with_closure,
)


class Numbers(torch.optim.Optimizer):
    """Gradient descent that keeps one of everything in its state."""

    def __init__(self, params, lr=0.1, change=None):
        super().__init__(params, {"lr": lr, "calls": 0})
        self.change = change

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("length", 0.0)
                state.setdefault("number", 3)
                state.setdefault("flag", True)
                state.setdefault("nothing", None)
                state.setdefault("indices", torch.arange(2))
                state["length"] += float(p.grad.norm())
                if self.change == "settings":
                    group["calls"] += 1
                elif self.change == "late setting" and state["length"] > 2:
                    group["calls"] = 7
                elif self.change == "dropped":
                    del state["length"]
                elif self.change == "late" and state["length"] > 2:
                    state["late"] = torch.zeros(())
                elif self.change in ("number", "indices"):
                    state[self.change] = state[self.change] + 1
                elif self.change is not None:
                    state["other"] = self.change
                with torch.no_grad():
                    p.sub_(group["lr"] * p.grad)
        return loss


def test_floats_move_and_all_else_stays():
    optimizer, closure = built(lambda p: Numbers(p))
    step = step_map(optimizer, closure)
    assert step.start.shape == (step.count + 4,)
    moved = step.state(step(step.start))
    assert all(set(named) == {"length"} for named in moved)
    assert all(named["length"] > 0 for named in moved)


@pytest.mark.parametrize("change", ["number", "settings"])
def test_integers_that_a_step_changes_are_counters(change):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    step = step_map(optimizer, closure)
    assert len(step.start) == step.count + 4 + (4 if change == "number" else 1)
    moved = step(step.start) - step.start
    optimizer.step(closure)
    if change == "number":
        assert all(named["number"] == 1 for named in step.state(moved))
    else:
        assert step.state(moved)[-1]["calls"] == 4
        assert optimizer.param_groups[0]["calls"] == 4
    assert torch.equal(step.parameters(step.start + moved), values(optimizer))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("indices", RuntimeError, "changed the state 'indices', which is no floating"),
        ([1.0], TypeError, "state 'other' must be a number or a Tensor, got list"),
        (1j, TypeError, "state 'other' must be a number or a Tensor, got complex"),
        (torch.zeros(2, dtype=torch.complex128), TypeError, "dense and real, got torc"),
        (torch.zeros(2).to_sparse(), TypeError, "dense and real, got torch.sparse"),
        (torch.zeros(2), TypeError, "'other' must be float64 like the parameters, got"),
        (torch.zeros(2, dtype=torch.bfloat16), TypeError, "got torch.bfloat16"),
    ],
)
def test_state_that_is_no_coordinate_is_refused_if_it_moves(change, error, text):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    before = everything(optimizer)
    with pytest.raises(error, match=text):
        step_map(optimizer, closure)
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("dropped", "dropped the state 'length'"),
        ("late", "made the state 'late'"),
        ("late setting", "changed the setting 'calls'"),
    ],
)
def test_entries_that_come_and_go_are_refused(change, text):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    with pytest.raises(RuntimeError, match=text):
        step = step_map(optimizer, closure)
        v = step.start
        for _ in range(50):
            v = step(v)


def test_a_first_step_that_does_not_tell_its_start_is_refused():
    optimizer, closure = built(lambda p: sgd(p, momentum=0.9, dampening=0.5))
    with pytest.raises(ValueError, match="take one step, then make the map"):
        step_map(optimizer, closure)
    optimizer.step(closure)
    step = step_map(optimizer, closure)
    optimizer.step(closure)
    assert torch.equal(step.parameters(step(step.start)), values(optimizer))


def test_a_random_loss_is_refused():
    model, loss = network()
    optimizer, closure = with_closure(
        model, lambda: loss() * (1 + torch.rand(())), of_torch("Adam", {})
    )
    with pytest.raises(ValueError, match="not a function of parameters and state"):
        step_map(optimizer, closure)


def test_wrong_arguments_are_named():
    optimizer, closure = built(lambda p: sgd(p))
    parameters = optimizer.param_groups[0]["params"]
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got list"):
        step_map(parameters, closure)
    with pytest.raises(TypeError, match="closure must be a function that computes"):
        step_map(optimizer, None)
    with pytest.raises(ValueError, match="no parameter received a gradient"):
        step_map(optimizer, lambda: 0.0)
    single = torch.zeros(2, requires_grad=True)
    with pytest.raises(TypeError, match="every parameter must be float64, got torch.f"):
        step_map(sgd([*parameters, single]), closure)
    step = step_map(optimizer, closure)
    with pytest.raises(TypeError, match=r"convert it with v.double\(\)"):
        step(step.start.float())
    with pytest.raises(ValueError, match=r"v must have shape \(23,\) like start"):
        step(step.start[:-1])
    with pytest.raises(TypeError, match="v must be a Tensor"):
        step([1.0])


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_step_hooks_are_refused(kind):
    optimizer, closure = built(lambda p: sgd(p))
    handle = getattr(optimizer, f"register_step_{kind}_hook")(lambda *_: None)
    with pytest.raises(ValueError, match=f"has a step {kind}-hook"):
        step_map(optimizer, closure)
    handle.remove()
    assert step_map(optimizer, closure).count == 23


def test_a_list_in_the_state_is_refused_and_nothing_changes():
    optimizer, closure = built(lambda p: torch.optim.LBFGS(p))
    before = everything(optimizer)
    with pytest.raises(TypeError, match="must be a number or a Tensor, got list"):
        step_map(optimizer, closure)
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize("make", [of_torch("Adam", {}), of_ours("AdamW")])
def test_transposed_parameters_and_a_caller_without_gradients(make):
    stored = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    p = stored.mT.requires_grad_()
    assert not p.is_contiguous()
    c = torch.randn(3, 2, dtype=torch.float64)
    optimizer = make([p])

    def closure():
        loss = ((p - c) ** 2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        step = step_map(optimizer, closure)
        v = step(step.start.clone().requires_grad_())
    assert not v.requires_grad
    assert torch.equal(p, torch.arange(6).reshape(2, 3).mT)
    optimizer.step(closure)
    assert torch.equal(step.parameters(v), p.detach().reshape(-1))


def test_empty_parameters_are_no_trouble():
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for make in (of_torch("Adam", {}), of_ours("AdamW")):
        optimizer, closure = with_closure(
            nn.ParameterList([empty, w]), lambda: w.square().sum() + empty.sum(), make
        )
        step = step_map(optimizer, closure)
        assert step.count == 2
        assert step(step.start).isfinite().all()
