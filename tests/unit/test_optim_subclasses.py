"""A user's subclass with a rule of its own gets that rule, whatever its name."""

from typing import Any

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.optim import Rule
from anthology.optim.core.fused import passes as compiled
from anthology.optim.core.fused import triton as launching
from anthology.optim.core.fused.compile import missing_compiler

ENTRYWISE = {
    "AdamW": {},
    "Adam": {},
    "Lion": {},
    "Signum": {},
    "SGD": {"momentum": 0.9},
    "RootFreeRMSProp": {"batch_size": 4},
    "RootFreeAdamW": {"batch_size": 4},
}
WAYS: list[dict[str, Any]] = [{}, {"foreach": False}, {"foreach": True}]
WAYS += [{"fused": True}, {"fused": "compile"}]


def stepped(kind: Any, options: dict[str, Any]) -> list[float]:
    p = torch.ones(3, requires_grad=True)
    q = torch.ones(2, 2, requires_grad=True)
    for x in (p, q):
        x.grad = torch.full_like(x, 2.0)
    kind([p, q], lr=0.5, **options).step()
    found: list[float] = torch.cat([p.detach(), q.detach().flatten()]).tolist()
    return found


def quarter(param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
    param.sub_(grad, alpha=float(grad.new_tensor(0.25)))  # what no compiled pass can do


def quarters(params: Any, grads: Any, states: Any, steps: Any, group: Any) -> None:
    for p, g in zip(params, grads, strict=True):
        p.sub_(g, alpha=0.25)


def with_rule(kind: Any, *parts: Any, **options: Any) -> Any:
    rule = Rule(*parts, new_state=kind.rule.new_state, **options)
    return type(kind.__name__, (kind,), {"rule": rule})


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_a_rule_of_its_own_is_taken(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(optim, name)
    before = compiled.compiled_kernels()
    given = {**ENTRYWISE[name], **options}
    for own in (with_rule(kind, quarter), with_rule(kind, quarter, quarters)):
        if "fused" in options:  # which only a rule that says `entrywise` can have
            with pytest.raises(ValueError, match="does not work entry by entry"):
                stepped(own, given)
        else:
            assert stepped(own, given) == [0.5] * 7
    assert compiled.compiled_kernels() == before


@pytest.mark.parametrize("name", ENTRYWISE)
def test_kernels_are_found_by_the_class_and_not_by_its_name(name: str) -> None:
    kind, options = getattr(optim, name), ENTRYWISE[name]

    def plan(kind: Any) -> Any:
        optimizer = kind([torch.ones(3, requires_grad=True)], **options)
        return launching.plan_of(optimizer, optimizer.param_groups[0])

    assert (plan(kind) is None) == (name == "Adam")
    for other in (with_rule(kind, quarter), with_rule(kind, quarter, quarters)):
        assert other.__name__ == name
        assert plan(other) is None
    assert plan(type("Mine", (kind,), {})) == plan(kind)  # it holds the same rule


@pytest.mark.parametrize("part", ["single", "multi", "new_state", "gradient_limit"])
def test_a_rule_written_as_methods_is_refused(part: str) -> None:
    with pytest.raises(TypeError, match=rf"Mine.{part} is a method.*rule = Rule\("):
        type("Mine", (optim.AdamW,), {part: lambda self: None})


@pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="no compiler here"
)
def test_a_subclass_that_says_so_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LEAST", 2)

    def half(group: Any) -> Any:  # a helper of its own, which compiled code may call
        return group["lr"] * 0.5

    def halved(param: Any, grad: Any, state: Any, step: Any, group: Any) -> None:
        param.sub_(grad * half(group))

    Halved = with_rule(optim.AdamW, halved, entrywise=True)
    before = compiled.compiled_kernels()
    assert stepped(Halved, {"fused": "compile"}) == [0.5] * 7
    assert compiled.compiled_kernels() == before + 1


FUSED = [*ENTRYWISE, "Prodigy"]


@pytest.mark.parametrize("name", FUSED)
def test_what_is_on_the_meta_device_is_not_fused(name: str) -> None:
    fused = True
    kind, options = getattr(optim, name), ENTRYWISE.get(name, {})
    here, meta = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2).to("meta"))
    with pytest.raises(RuntimeError, match="on the meta device; leave fused=None"):
        kind([here, meta], fused=fused, **options)
    optimizer = kind([here], fused=fused, **options)
    with pytest.raises(RuntimeError, match="on the meta device"):
        optimizer.add_param_group({"params": iter([meta])})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [meta], "fused": None})
    optimizer.param_groups[1]["fused"] = fused  # not looked at until the step
    here.grad, meta.grad = torch.ones(2), torch.ones_like(meta)
    with pytest.raises(RuntimeError, match="on the meta device"):
        optimizer.step()
    assert here.tolist() == [1.0, 1.0] and not optimizer.state
    kind([meta], **options)
