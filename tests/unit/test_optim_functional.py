"""The pure form of every optimizer takes the steps of its class and changes nothing."""

import inspect

import pytest
import torch

from anthology.norms import metrize
from anthology.optim import functional
from tests.examples import public
from tests.pure_forms import FORMS, NEEDED


def rule_of(name):
    return FORMS[name](**NEEDED.get(name, {})).rule


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = {"weight": (3, 4), "bias": (4,), "scalar": (), "kernel": (2, 3, 3, 3)}
    params = {n: torch.randn(s, dtype=dtype) for n, s in shapes.items()}
    grads = [{n: torch.randn_like(p) for n, p in params.items()} for _ in range(4)]
    return params, grads


def copies(tree):
    return {n: x.clone() for n, x in tree.items()}


def test_every_public_optimizer_has_a_form():
    assert {rule_of(name) for name in FORMS} == set(public().values())


@pytest.mark.parametrize("name", FORMS)
def test_it_takes_the_steps_of_the_class(name):
    params, grads = problem()
    pure = FORMS[name](**NEEDED.get(name, {}))
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    optimizer = pure.rule(list(leaves.items()), **NEEDED.get(name, {}))
    state = pure.init(params)
    for g in grads:
        params, state = pure.update(params, g, state)
        for n, p in leaves.items():
            p.grad = g[n].clone()
        optimizer.step()
    for n, p in leaves.items():
        assert torch.equal(params[n], p.detach()), n


@pytest.mark.parametrize("name", FORMS)
def test_nothing_that_is_given_changes(name):
    params, grads = problem()
    pure = FORMS[name](**NEEDED.get(name, {}))
    state = pure.init(params)
    _, state = pure.update(params, grads[0], state)
    before = copies(params), copies(grads[1])
    tensors = [
        {k: v.clone() for k, v in s.items() if isinstance(v, torch.Tensor)}
        for s in state["state"]
    ]
    groups = [dict(g) for g in state["groups"]]
    first, _ = pure.update(params, grads[1], state)
    second, _ = pure.update(params, grads[1], state)
    for n in params:
        assert torch.equal(params[n], before[0][n])
        assert torch.equal(grads[1][n], before[1][n])
        assert params[n].grad is None and first[n].grad is None
        assert torch.equal(first[n], second[n])
    for kept, now in zip(tensors, state["state"], strict=True):
        assert all(torch.equal(kept[k], now[k]) for k in kept)
    assert groups == state["groups"]


def test_a_list_and_groups_come_back_as_they_went_in():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    groups = metrize(model)
    grads = [torch.ones_like(p) for g in groups for p in g["params"]]
    pure = functional.steepest_descent(lr=0.1)
    new, _ = pure.update(groups, grads, pure.init(groups))
    assert [g["role"] for g in new] == [g["role"] for g in groups]
    listed = list(model.parameters())
    as_list, _ = functional.sgd(lr=1.0).update(
        listed, [torch.ones_like(p) for p in listed], functional.sgd().init(listed)
    )
    assert isinstance(as_list, list)
    for old, now in zip(listed, as_list, strict=True):
        assert torch.equal(old - 1, now)


def test_a_schedule_changes_one_step():
    params, grads = problem()
    pure = functional.sgd(lr=1.0)
    one, state = pure.update(params, grads[0], pure.init(params), lr=0.5)
    assert torch.allclose(one["bias"], params["bias"] - 0.5 * grads[0]["bias"])
    two, _ = pure.update(one, grads[1], state)
    assert torch.allclose(two["bias"], one["bias"] - grads[1]["bias"])


def test_a_parameter_without_gradient_stays():
    params, grads = problem()
    pure = functional.adam()
    new, state = pure.update(params, {"bias": grads[0]["bias"]}, pure.init(params))
    assert torch.equal(new["weight"], params["weight"])
    assert not torch.equal(new["bias"], params["bias"])
    assert [int(s["step"]) for s in state["state"]] == [0, 1, 0, 0]


def test_the_step_can_be_differentiated_in_its_rate_and_start():
    start = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def after_two_steps(w, lr):
        pure = functional.adam(lr=lr, differentiable=True)
        params, state = {"w": w}, pure.init({"w": w})
        for _ in range(2):
            params, state = pure.update(params, {"w": params["w"] ** 3}, state)
        return params["w"].square().sum()

    assert torch.autograd.gradcheck(after_two_steps, (start, lr))


def test_wrong_arguments_are_named():
    params, grads = problem()
    pure = functional.adam()
    state = pure.init(params)
    with pytest.raises(ValueError, match="4 gradients for 3 parameters"):
        few = list(params.values())[:3]
        pure.update(few, list(grads[0].values()), pure.init(few))
    with pytest.raises(ValueError, match="both be mappings"):
        pure.update(params, list(grads[0].values()), state)
    with pytest.raises(ValueError, match="'wait'"):
        pure.update(params, {**grads[0], "wait": grads[0]["bias"]}, state)
    with pytest.raises(ValueError, match="init"):
        pure.update({"bias": params["bias"]}, {"bias": grads[0]["bias"]}, state)
    with pytest.raises(ValueError, match="no hyper-parameter"):
        pure.update(params, grads[0], state, rate=0.1)
    with pytest.raises(ValueError, match="learning rate"):
        pure.update(params, grads[0], state, lr=-1.0)


@pytest.mark.parametrize("name", FORMS)
def test_wrong_hyperparameters_are_refused_at_once(name):
    form, given = FORMS[name], NEEDED.get(name, {})
    with pytest.raises(TypeError, match=f"^{name} has no argument 'lrr'; .* lr, "):
        form(**given, lrr=0.1)
    with pytest.raises(TypeError, match="by name, but got 2 values without; param"):
        form([torch.ones(3)], 0.1, **given)
    assert list(inspect.signature(form).parameters) == [
        n for n in inspect.signature(rule_of(name)).parameters if n != "params"
    ]
    for needed in given:
        with pytest.raises(TypeError, match=f"{name} needs {needed}=...; its"):
            form()


def test_a_step_rule_is_a_change_like_the_others():
    params, grads = problem()
    pure = functional.steepest_descent(lr=0.1)
    one, _ = pure.update(params, grads[0], pure.init(params), step="steepest")
    other = functional.steepest_descent(lr=0.1, step="steepest")
    two, _ = other.update(params, grads[0], pure.init(params))
    assert all(torch.equal(one[n], two[n]) for n in params)


def test_what_groups_count_is_handed_on():
    """When factors are due goes by the steps of the whole group."""
    params, grads = problem()
    given = {"batch_size": 4, "refresh": 3, "factor_lr": 0.5}
    pure = functional.sirf_shampoo(**given)
    leaves = [p.clone().requires_grad_() for p in params.values()]
    optimizer, state = pure.rule(leaves, **given), pure.init(params)
    for g in grads:
        params, state = pure.update(params, g, state)
        for p, x in zip(leaves, g.values(), strict=True):
            p.grad = x.clone()
        optimizer.step()
    assert state["groups"] == [{"steps_taken": 4}]
    assert all(map(torch.equal, params.values(), leaves))
