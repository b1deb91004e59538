"""Rules of one's own, and parameters whose shape or numbers are elsewhere."""

import pytest
import torch
from torch import nn

from anthology import norms as N
from anthology.norms import forget_role_rule, metrize, role_rule
from anthology.optim import Muon, SteepestDescent
from tests.unit.test_roles import rows

FLIPPED = N.Transpose(N.RMSToRMS())


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 8))
        self.shift = nn.Parameter(torch.zeros(8))


class Derived(Layer):
    pass


def model() -> nn.Module:
    return nn.Sequential(Derived(), nn.Linear(8, 2))


@pytest.fixture
def forget():
    """Take back the rules that a test registers."""
    known: list = []
    yield known.append
    for where in known:
        forget_role_rule(where)


@pytest.mark.parametrize("where", [Layer, "Layer", "Derived", "*.kernel", "0.kernel"])
def test_one_call_teaches_a_type_or_a_name(where, forget) -> None:
    before = rows(model())
    role_rule(where, "flipped", FLIPPED)
    forget(where)
    found = rows(model())
    assert found["0.kernel"] == ("flipped", FLIPPED)
    assert {n for n in found if found[n] != before[n]} == {"0.kernel"}
    assert "rule for" in str(metrize(model()))
    over = rows(model(), [("0.kernel", N.MaxAbs())])
    assert over["0.kernel"] == ("flipped", N.MaxAbs())


def test_the_decorator_and_which_rule_counts(forget) -> None:
    seen = []

    @role_rule("Layer")
    def rule(name, param, module):
        seen.append((name, tuple(param.shape), type(module)))
        return ("gain", N.LInf()) if param.ndim == 1 else None

    forget("Layer")
    found = rows(model())
    assert found["0.shift"] == ("gain", N.LInf())
    assert found["0.kernel"] == ("other", N.RMSToRMS())
    assert seen == [("0.kernel", (4, 8), Derived), ("0.shift", (8,), Derived)]
    role_rule("*shift", "bias", N.RMS())
    forget("*shift")
    assert rows(model())["0.shift"] == ("bias", N.RMS()), "the last one"
    role_rule("Layer", "gain", N.LInf())
    assert rows(model())["0.shift"] == ("gain", N.LInf()), "replaced, and last again"


def test_a_rule_comes_before_the_head(forget) -> None:
    role_rule(nn.Linear, "linear", N.RMSToRMS())
    forget(nn.Linear)
    assert rows(model())["1.weight"] == ("linear", N.RMSToRMS())
    assert rows(model())["1.bias"] == ("bias", N.RMS())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((3,), "a type of modules, the name of one or a glob"),
        ((int,), "a type of modules"),
        (("Layer", "linear"), "a role and a Norm, or neither"),
        (("Layer", None, N.RMS()), "a role and a Norm, or neither"),
        (("Layer", "linear", "RMS()"), "a role and a Norm, or neither"),
    ],
)
def test_wrong_rules_say_what_is_right(arguments, said) -> None:
    with pytest.raises(TypeError, match=said):
        role_rule(*arguments)
    with pytest.raises(TypeError, match="a rule is a function"):
        role_rule("Layer")(3)
    with pytest.raises(KeyError, match="no rule for Layer"):
        forget_role_rule(Layer)


@pytest.mark.parametrize(
    "answer", ["linear", ("linear",), ("linear", "RMS()"), (N.RMS(),) * 2]
)
def test_a_rule_must_answer_with_role_and_norm(answer, forget) -> None:
    role_rule("Layer")(lambda name, param, module: answer)
    forget("Layer")
    with pytest.raises(TypeError, match="rule for Layer must return a role and a Norm"):
        metrize(model())


def test_a_rule_must_fit(forget) -> None:
    role_rule("Layer", "qkv", N.Split(N.RMSToRMS(), 3))
    forget("Layer")
    with pytest.raises(ValueError, match="3 equal parts"):
        metrize(model())


def hollow(**attributes: object) -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.zeros(0))
    for name, value in attributes.items():
        setattr(layer.weight, name, value)
    return nn.Sequential(nn.Linear(4, 4), layer)


def flat() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(torch.zeros(7))
    return layer


def packed() -> nn.Module:
    model = nn.Module()
    kind = type("FlatParameter", (nn.Parameter,), {})
    model.register_parameter("_flat_param", kind(torch.zeros(12)))
    return model


@pytest.mark.parametrize(
    "build",
    [hollow, lambda: hollow(ds_shape=(3, 4)), flat, packed, lambda: nn.LayerNorm(0)],
)
def test_a_shape_that_is_elsewhere_is_refused(build) -> None:
    with pytest.raises(ValueError, match="which is not its own: FSDP flattened it"):
        metrize(build())
    model = build().requires_grad_(False)
    assert len(metrize(model).frozen) == len(list(model.parameters()))


def test_a_layer_without_outputs_is_whole() -> None:
    assert [r.role for r in metrize(nn.Linear(3, 0)).rows] == ["head", "bias"]


def test_meta_tensors_are_marked() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    table = metrize(model)
    assert str(table).count("on meta: no numbers") == 4
    assert [r.role for r in table.rows] == ["linear", "bias", "head", "bias"]


@pytest.mark.parametrize("kind", [SteepestDescent, Muon])
def test_what_is_unfrozen_trains_if_it_was_included(kind) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert "metrize(model, include_frozen=True)" in str(metrize(model))
    table = metrize(model, include_frozen=True)
    assert not table.frozen
    assert "frozen" not in str(table)
    optimizer = kind(table, lr=0.1)
    before = model[0].weight.clone()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(before, model[0].weight), "still frozen"
    model[0].requires_grad_(True)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)
