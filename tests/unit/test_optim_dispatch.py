"""The ways to compute a step: which is taken, and that all do the same."""

import copy
from typing import Any

import pytest
import torch

from anthology.optim import (
    SGD,
    SOAP,
    Adam,
    AdamW,
    Lion,
    Muon,
    RootFreeAdamW,
    RootFreeRMSProp,
    Signum,
)
from anthology.optim.core import dispatch
from anthology.optim.core.batch import Batch
from anthology.optim.core.fused import passes
from anthology.optim.core.fused.compile import missing_compiler
from anthology.optim.core.fused.passes import compiled_kernels
from tests.examples import EXAMPLES

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    bool(missing_compiler(CPU)), reason=f"no {missing_compiler(CPU)} here"
)


@pytest.fixture(autouse=True)
def _small_ones_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "LEAST", 2)


# Every rule with every branch it has, in as few kernels as that takes.
RULES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adamw": (AdamW, {"lr": 1e-2}),
    "adam": (Adam, {"lr": 1e-2, "amsgrad": True, "weight_decay": 0.1}),
    "lion": (Lion, {"lr": 1e-2, "weight_decay": 0.1, "maximize": True}),
    "signum": (Signum, {"lr": 1e-2, "nesterov": True, "weight_decay": 0.1}),
    "sgd": (SGD, {"lr": 1e-2, "momentum": 0.9, "dampening": 0.1}),
    "rmsprop": (RootFreeRMSProp, {"batch_size": 4, "weight_decay": 0.1}),
    "rootfree": (RootFreeAdamW, {"batch_size": 4, "bias_correction": True}),
}
SHAPES = [(7, 5), (3,), (200, 130), (7, 5), (7, 5), (1,), (2, 3, 4), ()]


def parameters(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for shape in SHAPES
    ]


def walk(optimizer: Any, params: list[torch.Tensor], steps: int = 4) -> None:
    """Steps with changing rates, one of them with a NaN in two tensors."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for p in params:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = noise.to(p.dtype)
        if step == 2:
            params[0].grad[0, 0] = torch.nan
            params[2].grad[0, 0] = torch.inf
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.9


def largest_gap(xs: list[torch.Tensor], ys: list[torch.Tensor]) -> float:
    pairs = zip(xs, ys, strict=True)
    return max(float((x - y.double()).detach().abs().max()) for x, y in pairs)


@needs_compiler
@pytest.mark.parametrize("name", RULES)
def test_compiled_is_as_close_to_float64_as_the_loop(name: str) -> None:
    rule, settings = RULES[name]
    exact, loop, ours = (
        parameters(torch.float64),
        parameters(torch.float32),
        parameters(torch.float32),
    )
    for p, q in zip(exact, loop, strict=True):
        p.data.copy_(q.detach())
    runs = [(exact, False, None), (loop, False, None), (ours, None, "compile")]
    made = []
    for params, foreach, fused in runs:
        optimizer = rule(params, **settings, foreach=foreach, fused=fused)
        if params is exact:  # gradients of single precision, too
            optimizer.register_step_pre_hook(_rounded)
        walk(optimizer, params)
        made.append(optimizer)
    eager_error = largest_gap(loop, exact)
    assert largest_gap(ours, exact) <= max(2 * eager_error, 1e-7)
    assert made[2].skipped == made[1].skipped == {"0.0": 1, "0.2": 1}
    for p, q in zip(loop, ours, strict=True):
        there, here = made[1].state[p], made[2].state[q]
        assert list(there) == list(here)
        for entry, value in there.items():
            torch.testing.assert_close(here[entry], value, rtol=1e-5, atol=1e-6)


def _rounded(optimizer: Any, *_: Any) -> None:
    for p in optimizer.param_groups[0]["params"]:
        p.grad = p.grad.float().double()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64, torch.float64])
def test_compiled_equals_the_loop_in_other_dtypes(dtype: torch.dtype) -> None:
    loop, ours = ([p for p in parameters(torch.float64)] for _ in range(2))
    loop, ours = (
        [p.detach().to(dtype).requires_grad_() for p in ps] for ps in (loop, ours)
    )
    walk(AdamW(loop, 1e-2, foreach=False), loop)
    walk(AdamW(ours, 1e-2, fused="compile"), ours)
    for p, q in zip(loop, ours, strict=True):
        torch.testing.assert_close(q.detach(), p.detach(), rtol=1e-5, atol=1e-6)


@needs_compiler
def test_a_new_rate_step_or_shape_compiles_nothing() -> None:
    from torch._dynamo.utils import counters

    params = parameters(torch.float32)
    optimizer = Lion(params, 1e-3, fused="compile")
    walk(optimizer, params, steps=1)
    kernels, graphs = compiled_kernels(), counters["stats"]["unique_graphs"]
    walk(optimizer, params, steps=3)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.5)
    others = [torch.randn(n, requires_grad=True) for n in (2, 99, 20_000)]
    optimizer.add_param_group({"params": others, "lr": 0.3})
    walk(optimizer, [*params, *others], steps=2)
    assert compiled_kernels() == kernels
    assert counters["stats"]["unique_graphs"] == graphs
    optimizer.param_groups[0]["weight_decay"] = 0.25  # zero is part of the code
    walk(optimizer, params, steps=1)
    assert compiled_kernels() == kernels + 1


@needs_compiler
def test_what_does_not_lie_flat_goes_another_way() -> None:
    made = []
    for fused in (None, "compile"):
        torch.manual_seed(0)
        p = torch.randn(6, 4).t().requires_grad_()
        q = torch.randn(5, 4, requires_grad=True)
        optimizer = SGD([p, q], 0.1, momentum=0.9, fused=fused)
        for _ in range(2):
            p.grad, q.grad = torch.ones(4, 6), torch.ones(4, 5).t()
            optimizer.step()
        made.append([p.detach(), q.detach()])
    torch.testing.assert_close(made[0], made[1])


@needs_compiler
def test_a_checkpoint_goes_on_compiled() -> None:
    params = parameters(torch.float32)
    first = AdamW(params, 1e-2)
    walk(first, params, steps=2)
    others = [p.detach().clone().requires_grad_() for p in params]
    second = AdamW(others, 1e-2, fused="compile")
    saved = copy.deepcopy(first.state_dict())
    saved["param_groups"][0]["fused"] = "compile"
    second.load_state_dict(saved)
    walk(first, params, steps=1)
    walk(second, others, steps=1)
    assert largest_gap(params, others) < 1e-6


def batch_of(optimizer: Any) -> Batch:
    group = optimizer.param_groups[0]
    return Batch({**group}, list(group["params"]))


def test_which_way_is_taken() -> None:
    def way(rule: Any, **flags: Any) -> str:
        optimizer = rule([torch.ones(3, requires_grad=True)], **flags)
        return dispatch.way_of(optimizer, batch_of(optimizer))

    assert way(AdamW) == "foreach"
    assert way(AdamW, foreach=False) == "loop"
    assert way(AdamW, fused=False, foreach=False) == "loop"
    assert way(AdamW, fused=True) == "torch"
    assert way(AdamW, differentiable=True) == "loop"
    if not missing_compiler(CPU):
        assert way(AdamW, fused="compile") == "compile"
        assert way(Lion, fused=True) == "compile"


@pytest.mark.skipif(bool(missing_compiler(CPU)), reason="no compiler here")
@pytest.mark.parametrize("name", [n for n, e in EXAMPLES.items() if e.kind.rule.fuses])
def test_who_may_ask_for_compiled_code_gets_it(name: str) -> None:
    """The numbers would be the same by lists, so only this can tell."""
    optimizer = EXAMPLES[name].make(fused="compile")(
        [torch.ones(2, 3).requires_grad_()]
    )
    assert dispatch.way_of(optimizer, batch_of(optimizer)) == "compile"


def test_without_a_compiler_only_those_who_asked_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "missing_compiler", lambda _: "a C++ compiler")
    for fused, text in ((True, "fused=True"), ("compile", "fused='compile'")):
        p = torch.ones(3, requires_grad=True)
        p.grad = torch.ones(3)
        with pytest.raises(RuntimeError, match=f"{text} compiles .* a C.. compiler"):
            Lion([p], 0.1, fused=fused).step()
        assert p.tolist() == [1.0, 1.0, 1.0]
    Lion([p], 0.5).step()
    assert p.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("rule", "flags", "error", "text"),
    [
        (AdamW, {"fused": "fast"}, ValueError, "Invalid fused: 'fast'; it must be"),
        (AdamW, {"fused": 1.0}, ValueError, "Invalid fused: 1.0"),
        (Lion, {"fused": True, "differentiable": True}, RuntimeError, "differentiable"),
        (Lion, {"fused": "compile", "foreach": True}, RuntimeError, "foreach"),
        (SGD, {"fused": True, "normalised": True}, ValueError, "no fused form"),
    ],
)
def test_what_cannot_be_combined(
    rule: Any, flags: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        rule([torch.ones(3, requires_grad=True)], **flags)


@pytest.mark.parametrize("rule", [Muon, SOAP])
def test_rules_that_couple_entries_refuse_to_be_fused(rule: Any) -> None:
    optimizer = rule([torch.ones(3, 3, requires_grad=True)])
    group = {"params": [torch.ones(2, 2, requires_grad=True)], "fused": True}
    with pytest.raises(ValueError, match="does not work entry by entry"):
        optimizer.add_param_group(group)
