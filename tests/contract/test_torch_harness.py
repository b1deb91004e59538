"""PyTorch's own harness for optimizers, run over every optimizer of the package.

PyTorch ships the descriptions that its tests run on
(`torch.testing._internal.common_optimizers`): an `OptimizerInfo` names a class, a
function that lists its configurations and one that lists what it must refuse. The
classes here are described to it in the same way, and the questions asked are those of
PyTorch's ``test_optim.py``, in our words. A new public class takes part by itself.
"""

import copy
import inspect
import io
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.testing._internal import common_optimizers as harness
from torch.testing._internal.common_utils import TestCase

from anthology import optim
from tests.contract.harness_infos import INFOS, REWORDED, TAKEN, configurations

every = pytest.mark.parametrize("info", INFOS.values(), ids=list(INFOS))


def layer(dtype: torch.dtype = torch.float64) -> list[Parameter]:
    """Weight and bias of a layer, drawn with a fixed seed."""
    torch.manual_seed(3)
    shapes = ((10, 5), (10,))
    return [Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def closure_of(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> Any:
    """The loss that PyTorch's tests descend on, as a closure."""
    dtype = params[0].dtype
    point = torch.linspace(-1, 1, 5, dtype=torch.float64).to(dtype)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (params[0].mv(point) + params[1]).abs().pow(2).sum()
        loss.backward()
        return loss

    return closure


@every
def test_it_refuses_what_torch_refuses(info):
    for error in info.optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        params = [Parameter(torch.ones(1, 1))] if given.params is None else given.params
        if given.desc in TAKEN:
            info.optim_cls(params, **given.kwargs)
            continue
        betas = given.kwargs.get("betas", ())
        tensors = any(isinstance(beta, torch.Tensor) for beta in betas)
        words = REWORDED if tensors else error.error_regex
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type, match=words):
                info.optim_cls(params, **given.kwargs)
        else:
            with pytest.raises(error.error_type, match=words):
                info.optim_cls(params, **given.kwargs)


@every
def test_it_goes_in_the_right_direction(info):
    for given in configurations(info):
        params = layer()
        optimizer = info.optim_cls(params, **given)
        closure = closure_of(optimizer, params)
        before = closure().item()
        for _ in range(20):
            optimizer.step(closure)
        after = closure().item()
        assert after > before if given.get("maximize") else after < before, given


@every
def test_it_goes_in_the_right_direction_with_every_scheduler(info):
    for schedulers in info.scheduler_inputs:
        params = layer()
        optimizer = info.optim_cls(params, **configurations(info)[0])
        closure, active = (
            closure_of(optimizer, params),
            [s(optimizer) for s in schedulers],
        )
        before = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure)
            for scheduler in active:
                takes = "metrics" in inspect.signature(scheduler.step).parameters
                scheduler.step(loss.detach()) if takes else scheduler.step()
        assert closure().item() < before


@every
def test_lists_and_loop_agree_at_every_step(info):
    case = TestCase()
    for asked in info.optim_inputs_func("cpu"):
        tracker = harness.TensorTracker({"rtol": 1e-9, "atol": 1e-11})
        for foreach in (False, True):
            params = [*layer(), *layer(), Parameter(torch.ones((), dtype=torch.double))]
            optimizer = info.optim_cls(params, foreach=foreach, **asked.kwargs)
            torch.manual_seed(4)
            for step in range(7):
                for p in params:
                    p.grad = torch.randn_like(p) if step != 3 else None
                optimizer.step()
                state = [optimizer.state[p] for p in params]
                seen = [t for s in state for t in s.values() if t.is_floating_point()]
                for t in (*params, *seen):
                    if foreach:
                        tracker.pop_check_set(t, case)
                    else:
                        tracker.add(t)
        assert tracker.all_popped()


@every
def test_nothing_happens_without_gradients(info):
    for given in configurations(info):
        params = layer()
        kept = [p.detach().clone() for p in params]
        info.optim_cls(params, **given).step()
        assert all(map(torch.equal, params, kept)), given


@every
def test_nothing_happens_at_zero_gradients(info):
    for given in configurations(info):
        params = layer()
        kept = [p.detach().clone() for p in params]
        if "weight_decay" in inspect.signature(info.optim_cls).parameters:
            given = {**given, "weight_decay": 0.0}
        if info.optim_cls is optim.Scion:  # its ball pulls the weights inwards
            given = {**given, "unconstrained": True}
        optimizer = info.optim_cls(params, **given)
        for _ in range(3):
            for p in params:
                p.grad = torch.zeros_like(p)
            optimizer.step()
        assert all(map(torch.equal, params, kept)), given


@every
def test_gradients_are_never_written(info):
    for given in configurations(info):
        params = layer()
        optimizer = info.optim_cls(params, **given)
        grads = [torch.randn_like(p) for p in params]
        for _ in range(3):
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            optimizer.step()
            assert all(
                torch.equal(p.grad, g) for p, g in zip(params, grads, strict=True)
            )


@every
def test_a_checkpoint_resumes_exactly(info):
    for given in configurations(info):
        params = layer()
        first = info.optim_cls(params, **given)
        for _ in range(3):
            first.step(closure_of(first, params))
        assert first.state_dict()["param_groups"] == first.state_dict()["param_groups"]
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        resumed = copy.deepcopy(params)
        second = info.optim_cls(resumed, **given)
        second.load_state_dict(torch.load(file, weights_only=True))
        for _ in range(12):
            first.step(closure_of(first, params))
            second.step(closure_of(second, resumed))
        assert all(map(torch.equal, params, resumed)), given


@every
def test_a_copy_keeps_every_public_attribute(info):
    for given in configurations(info):
        params = layer()
        optimizer = info.optim_cls(params, **given)
        optimizer.step(closure_of(optimizer, params))
        names = {name for name in dir(optimizer) if not name.startswith("_")}
        twin = copy.deepcopy(optimizer)
        assert names == {name for name in dir(twin) if not name.startswith("_")}
        assert info.optim_cls.__name__ in repr(twin)


@every
def test_hooks_run_around_each_step_in_order(info):
    params, seen = layer(), []
    optimizer = info.optim_cls(params, **configurations(info)[0])
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    for _ in range(2):
        optimizer.step(closure_of(optimizer, params))
    assert seen == ["before", "after"] * 2


@every
def test_groups_have_their_own_rate_and_their_own_decay(info):
    given = {**configurations(info)[0], "lr": 1e-2}
    params = layer()
    kept = [p.detach().clone() for p in params]
    groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.0}]
    optimizer = info.optim_cls(groups, **given)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, params))
    assert not torch.equal(params[0], kept[0])
    assert torch.equal(params[1], kept[1])
    if "weight_decay" in inspect.signature(info.optim_cls).parameters:
        for group in groups:
            group.update(lr=1e-2, weight_decay=0.5 if group is groups[0] else 0.0)
        optimizer = info.optim_cls(groups, **given)
        start = [p.detach().clone() for p in params]
        # to some rules zeros are no gradient; nobody's step of this is seen
        least = 1e-300 if optimizer.rule.zero_is_none else 0.0
        for _ in range(3):
            for p in params:
                p.grad = torch.full_like(p, least)
            optimizer.step()
        assert params[0].norm() < start[0].norm()
        assert torch.equal(params[1], start[1])


@every
def test_autograd_follows_a_differentiable_step(info):
    asked = harness._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float64, info, ("foreach",)
    )
    for given in (a.kwargs for a in asked if a.kwargs["differentiable"]):
        leaves = layer()
        grads = [torch.randn_like(p).requires_grad_() for p in leaves]
        params = [p.clone() for p in leaves]
        optimizer = info.optim_cls(params, **given)
        for _ in range(3):
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            optimizer.step()
        loss = sum(p.square().sum() for p in params)
        for slope in torch.autograd.grad(loss, [*leaves, *grads]):
            assert bool(slope.isfinite().all()), given


@every
def test_complex_parameters_descend(info):
    given = configurations(info)[0]
    params = layer(torch.complex128)
    optimizer = info.optim_cls(params, **given)
    closure = closure_of(optimizer, params)
    before = closure().item()
    for _ in range(20):
        optimizer.step(closure)
    assert closure().item() < before


@every
def test_dtypes_mix_in_one_optimizer(info):
    dtypes = (torch.float32, torch.bfloat16, torch.float64)
    for given in configurations(info):
        torch.manual_seed(5)
        params = [Parameter(torch.zeros(3, 2, dtype=dtype)) for dtype in dtypes]
        optimizer = info.optim_cls(params, **{**given, "lr": 0.1})
        for _ in range(3):
            for p in params:
                p.grad = torch.randn_like(p)
            optimizer.step()
        assert all(bool((p != 0).any()) for p in params), given
        assert [p.dtype for p in params] == list(dtypes)
