"""Pure steps under vmap: each member of an ensemble does what it does alone."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from anthology.optim import functional
from tests.pure_forms import FORMS, NEEDED

MEMBERS = 3
SHAPES = {"weight": (3, 4), "bias": (4,), "scalar": (), "kernel": (2, 3, 2, 2)}


def made(name: str, **options: Any) -> functional.PureOptimizer:
    return FORMS[name](**{**NEEDED.get(name, {}), **options})


def ensemble(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {n: torch.randn(MEMBERS, *s, dtype=dtype) for n, s in SHAPES.items()}


def member(tree: Any, i: int) -> Any:
    return torch.utils._pytree.tree_map(lambda x: x[i], tree)


def assert_same(ours: Any, theirs: Any) -> None:
    ours, shape = torch.utils._pytree.tree_flatten(ours)
    theirs, other = torch.utils._pytree.tree_flatten(theirs)
    assert shape == other and len(ours) > 0
    for x, y in zip(ours, theirs, strict=True):
        assert torch.equal(x, y)


def loss(params: dict[str, Tensor]) -> Tensor:
    return torch.stack([(x.sin() * x).sum() for x in params.values()]).sum()


@pytest.mark.parametrize("name", FORMS)
def test_members_step_as_they_do_alone(name: str) -> None:
    pure, params = made(name), ensemble()
    state = vmap(pure.init)(params)
    alone = [member(params, i) for i in range(MEMBERS)]
    states = [pure.init(p) for p in alone]
    for _ in range(3):
        slopes = vmap(grad(loss))(params)
        params, state = vmap(pure.update)(params, slopes, state)
        for i in range(MEMBERS):
            alone[i], states[i] = pure.update(alone[i], member(slopes, i), states[i])
    for i in range(MEMBERS):
        assert_same(member(params, i), alone[i])
        assert_same(member(state, i), states[i])


@pytest.mark.parametrize("name", FORMS)
def test_a_whole_run_with_its_gradients_is_mapped(name: str) -> None:
    pure, starts = made(name), ensemble()

    def run(params: dict[str, Tensor]) -> dict[str, Tensor]:
        state = pure.init(params)
        for _ in range(2):
            params, state = pure.update(params, grad(loss)(params), state)
        return params

    together = vmap(run)(starts)
    for i in range(MEMBERS):
        alone = run(member(starts, i))
        for n, x in alone.items():
            torch.testing.assert_close(together[n][i], x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_a_search_over_rates(name: str) -> None:
    """One start and its gradients, and a rate for each member."""
    pure, start = made(name), member(ensemble(), 0)
    rates = torch.tensor([0.1, 0.03, 0.0], dtype=torch.float64)
    slopes, state = grad(loss)(start), pure.init(start)

    def one(lr: Tensor) -> Any:
        return pure.update(start, slopes, state, lr=lr)

    def other(lr: Tensor) -> Any:  # as an argument of the class
        return made(name, lr=lr).update(start, slopes, state)

    for step in (one, other):
        found = vmap(step)(rates)
        for i, lr in enumerate(rates):
            assert_same(member(found, i), step(lr))


@pytest.mark.parametrize("name", FORMS)
def test_a_member_with_a_nan_is_skipped_alone(name: str) -> None:
    pure, params = made(name), ensemble(torch.float32)
    slopes = {n: torch.ones_like(p) for n, p in params.items()}
    slopes["weight"][1, 0, 0] = torch.nan
    new, state = vmap(pure.update)(params, slopes, vmap(pure.init)(params))
    assert torch.equal(new["weight"][1, 0, 0], params["weight"][1, 0, 0])
    assert all(bool(x.isfinite().all()) for x in new.values())
    assert state["state"][0]["skipped"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", FORMS)
def test_slopes_through_an_ensemble_of_steps(name: str) -> None:
    pure, starts = made(name, differentiable=True), ensemble()
    moving = {n: x.cos() for n, x in starts.items()}
    rates = torch.full((MEMBERS,), 0.1, dtype=torch.float64)

    def after(lr: Tensor, start: Any, slopes: Any) -> Tensor:
        state = pure.init(start)
        for _ in range(2):
            start, state = pure.update(start, slopes, state, lr=lr)
        return loss(start)

    followed = rates.clone().requires_grad_()
    total = vmap(after)(followed, starts, moving).sum()
    (found,) = torch.autograd.grad(total, followed)
    for i in range(MEMBERS):
        lr = rates[i].clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            after(lr, member(starts, i), member(moving, i)), lr
        )
        torch.testing.assert_close(found[i], slope, rtol=1e-9, atol=1e-12)


def test_ensembles_of_ensembles_and_other_forms() -> None:
    pure = made("adam", lr=0.1)
    w = torch.randn(2, 3, 4)
    step = lambda w, g: pure.update([w], [g], pure.init([w]))[0][0]
    assert torch.equal(vmap(vmap(step))(w, w.cos()), step(w, w.cos()))
    assert torch.equal(vmap(step, (None, 0))(w[0], w), step(w[0].expand_as(w), w))
    assert torch.equal(vmap(step, 1, 1)(w, w.cos()), step(w, w.cos()))
    groups = lambda w: pure.init([{"params": [w], "lr": 0.2}])
    assert vmap(groups)(w)["state"][0]["exp_avg"].shape == w.shape


def test_derivatives_are_taken_around_an_ensemble() -> None:
    pure = made("sgd", differentiable=True)

    def after(lr: Tensor) -> Tensor:
        p = {"w": torch.ones(3)}
        return pure.update(p, p, pure.init(p), lr=lr)[0]["w"].square().sum()

    rates = torch.full((2,), 0.1)
    slopes = lambda r: grad(lambda r: vmap(after)(r).sum())(r)
    torch.testing.assert_close(slopes(rates), torch.full((2,), -5.4))
    curved = grad(lambda r: slopes(r).sum())(rates)
    torch.testing.assert_close(curved, torch.full((2,), 6.0))
    with pytest.raises(RuntimeError, match="take it around vmap, as in grad"):
        vmap(grad(after))(rates)
