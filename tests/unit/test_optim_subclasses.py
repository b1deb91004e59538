"""A user's subclass with a rule of its own gets that rule, whatever its name."""

from typing import Any

import pytest
import torch
from torch import nn

from anthology import optim
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


def own_single(kind: Any) -> Any:
    def single(
        self: Any, param: Any, grad: Any, state: Any, step: Any, group: Any
    ) -> None:
        self.seen = True  # what no compiled pass can do
        param.sub_(grad, alpha=0.25)

    return type(kind.__name__, (kind,), {"single": single})


def own_multi(kind: Any) -> Any:
    def multi(
        self: Any, params: Any, grads: Any, states: Any, steps: Any, group: Any
    ) -> None:
        for p, g in zip(params, grads, strict=True):
            p.sub_(g, alpha=0.25)

    return type(kind.__name__, (kind,), {"multi": multi})


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("name", ENTRYWISE)
def test_a_rule_of_its_own_is_taken(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(optim, name)
    before = compiled.compiled_kernels()
    given = {**ENTRYWISE[name], **options}
    assert stepped(own_single(kind), given) == [0.5] * 7
    if options.get("foreach") is not False:  # which asks for `single`
        assert stepped(own_multi(kind), given) == [0.5] * 7
    assert compiled.compiled_kernels() == before


@pytest.mark.parametrize("name", ENTRYWISE)
def test_kernels_are_found_by_the_class_and_not_by_its_name(name: str) -> None:
    kind, options = getattr(optim, name), ENTRYWISE[name]

    def plan(kind: Any) -> Any:
        optimizer = kind([torch.ones(3, requires_grad=True)], **options)
        return launching.plan_of(optimizer, optimizer.param_groups[0])

    assert (plan(kind) is None) == (name == "Adam")
    for other in (own_single(kind), own_multi(kind), type(name, (kind,), {})):
        assert other.__name__ == name
        assert plan(other) is None


@pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="no compiler here"
)
def test_a_subclass_that_says_so_is_compiled() -> None:
    class Halved(optim.AdamW):
        entrywise = True

        def single(
            self, param: Any, grad: Any, state: Any, step: Any, group: Any
        ) -> None:
            param.sub_(grad * group["lr"] * 0.5)

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
