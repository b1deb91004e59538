"""Changing what metrize decides: the head, norms, and settings of one's own."""

import pytest
from torch import nn

from anthology import norms as N
from anthology.norms import metrize
from tests.unit.test_roles import Tied, rows


def test_the_head_can_be_named_or_switched_off() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    assert rows(model)["1.weight"] == ("head", N.RMSToInf())
    assert rows(model, head=False)["1.weight"] == ("linear", N.RMSToRMS())
    named = rows(model, head="0")
    assert named["0.weight"] == ("head", N.RMSToInf())
    assert named["1.weight"] == ("linear", N.RMSToRMS())
    assert rows(nn.Linear(3, 2))["weight"] == ("head", N.RMSToInf())
    with pytest.raises(ValueError, match=r"no module with a weight matrix .*: 0, 1"):
        metrize(model, head="lm_head")
    with pytest.raises(ValueError, match="linear layers: none"):
        metrize(nn.LayerNorm(3), head="")
    assert rows(model, head=None) == rows(model, head=[]) == rows(model, head=False)
    assert rows(model, head=["0", "1"])["0.weight"] == ("head", N.RMSToInf())
    for wrong in (3, [1], {"0": 1}, b"0"):
        with pytest.raises(TypeError, match="a module's name or a list of names"):
            metrize(model, head=wrong)  # type: ignore[arg-type]


def test_overrides_by_type_name_and_function() -> None:
    model = Tied()
    found = rows(
        model,
        [
            (nn.Linear, N.Spectral("muon")),
            ("*.linear2.weight", {"norm": N.MaxAbs(), "role": "down"}),
            (lambda name, p, module: p.ndim == 0, N.LInf()),
            ("head.weight", N.Frobenius()),
        ],
    )
    assert found["trunk.layers.0.linear1.weight"] == ("linear", N.Spectral("muon"))
    assert found["trunk.layers.0.linear1.bias"] == ("bias", N.RMS()), "no matrix"
    assert found["trunk.layers.0.linear2.weight"] == ("down", N.MaxAbs())
    assert found["temperature"] == ("other", N.LInf())
    assert found["tokens.weight"] == ("embedding", N.Frobenius()), "by its other name"


def test_settings_make_groups_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = metrize(
        model,
        [("*", {"lr": 0.1}), ("1.*", {"lr": 0.2, "scale": 2}), ("1.bias", N.LInf())],
    )
    seen = {name: g for g in groups for name in g["param_names"]}
    assert [seen[f"{i}.weight"]["lr"] for i in range(3)] == [0.1, 0.2, 0.1]
    assert seen["1.weight"]["scale"] == seen["1.bias"]["scale"] == 2.0
    assert seen["1.bias"]["norm"] == "LInf()"
    assert seen["0.bias"] is seen["2.bias"]
    assert "lr=0.2" in str(groups)


@pytest.mark.parametrize(
    ("overrides", "error", "said"),
    [
        ([("2.wieght", N.RMS())], ValueError, "'2.wieght'.*fits no parameter"),
        ([(nn.Conv2d, N.RMS())], ValueError, "fits no parameter"),
        ([("*.bias", N.Spectral())], ValueError, "fits no parameter"),
        ([("0.weight", N.Split(N.RMSToRMS(), 3))], ValueError, "3 equal parts"),
        ([(nn.Linear, "RMS()")], TypeError, "needs a Norm or a dict"),
        ([(nn.Linear, {"norm": "RMS()"})], TypeError, "needs a Norm or a dict"),
        ([(nn.Linear, N.MaxOver([(N.RMS(), 1)]))], TypeError, "needs a Norm"),
        ([(int, N.RMS())], TypeError, "a selector is"),
        ([(3, N.RMS())], TypeError, "a selector is"),
        ([nn.Linear], TypeError, "a pair"),
        ([("*", {"params": []})], ValueError, "cannot set the parameters"),
        ([("*", {"scale": 0})], ValueError, "positive and finite"),
    ],
)
def test_wrong_overrides_say_what_is_right(overrides, error, said) -> None:
    with pytest.raises(error, match=said):
        metrize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), overrides)
