"""Each parameter of a model once, with the norm of its role."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anthology import norms as N
from anthology.norms import metrize
from tests.norm_catalogue import draw

TOKENS = N.Transpose(N.OneToRMS())


class Tied(nn.Module):
    """A small transformer whose head is its embedding table."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(8, 16))
        self.tokens = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2)
        self.norm = nn.RMSNorm(16)
        self.head = nn.Linear(16, 50)
        self.head.weight = self.tokens.weight
        self.temperature = nn.Parameter(torch.tensor(1.0))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.GroupNorm(2, 8),
        nn.ConvTranspose2d(8, 4, 2, groups=2),
        nn.Conv1d(4, 4, 3),
        nn.Conv3d(4, 4, 3),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def recurrent() -> nn.Module:
    return nn.ModuleDict(
        {
            "bag": nn.EmbeddingBag(9, 4),
            "lstm": nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3),
            "gru": nn.GRUCell(4, 6),
            "rnn": nn.RNN(4, 6),
            "head": nn.Linear(6, 2),
        }
    )


def attention() -> nn.Module:
    return nn.ModuleList(
        [
            nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
            nn.MultiheadAttention(8, 2, add_bias_kv=True),
        ]
    )


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def shared_module() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 4))


def parametrized() -> nn.Module:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    return nn.Sequential(layer, nn.PReLU(), nn.Bilinear(3, 2, 4), nn.Linear(4, 2))


def containers() -> nn.Module:
    model = nn.Module()
    shared = nn.Parameter(torch.zeros(3, 2))
    model.many = nn.ParameterList([shared, nn.Parameter(torch.zeros(2, 3, 4))])
    model.named = nn.ParameterDict({"again": shared, "bias": torch.zeros(5)})
    return model


MODELS = [
    Tied,
    convolutional,
    recurrent,
    attention,
    partly_frozen,
    shared_module,
    parametrized,
    containers,
    nn.Identity,
]


def rows(model: nn.Module, *args, **kwargs) -> dict[str, tuple[str, N.Norm]]:
    """Name → role and norm."""
    return {r.name: (r.role, r.norm) for r in metrize(model, *args, **kwargs).rows}


@pytest.mark.claim("metrize-partition")
@pytest.mark.parametrize("build", MODELS, ids=lambda f: f.__name__)
def test_every_trainable_parameter_is_in_exactly_one_group(
    build: Callable[[], nn.Module],
) -> None:
    model = build()
    groups = metrize(model)
    listed = [p for group in groups for p in group["params"]]
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, listed)) == sorted(map(id, wanted))
    names = dict(model.named_parameters(remove_duplicate=False))
    for group in groups:
        assert len(group["params"]) == len(group["param_names"]) > 0
        for p, name in zip(group["params"], group["param_names"], strict=True):
            assert names[name] is p
    table = {r.name for r in groups.rows} | {s for r in groups.rows for s in r.shared}
    assert table == set(names)
    assert set(groups.frozen) == {
        name for name, p in model.named_parameters() if not p.requires_grad
    }
    lines = str(groups).splitlines()[1 : len(groups.rows) + 1]
    for line, row in zip(lines, groups.rows, strict=True):
        assert line.split()[0] == row.name
        assert repr(row.norm) in line


@pytest.mark.parametrize("build", MODELS, ids=lambda f: f.__name__)
def test_every_norm_measures_its_parameter(build: Callable[[], nn.Module]) -> None:
    for group in metrize(build()):
        norm = N.from_spec(group["norm"])
        for p in group["params"]:
            point = p.detach().reshape(-1) if norm.ndim == 1 else p.detach()
            g = draw(tuple(point.shape))
            t = norm.dualize(g)
            assert (norm.norm(t) - 1).abs().max() < 1e-12


def test_a_tied_transformer() -> None:
    found = rows(Tied())
    assert found["tokens.weight"] == ("embedding", TOKENS)
    assert "head.weight" not in found
    assert found["head.bias"] == ("bias", N.RMS())
    assert found["position"] == ("embedding", TOKENS)
    assert found["temperature"] == ("other", N.RMS())
    assert found["norm.weight"] == ("gain", N.LInf())
    part = "trunk.layers.1."
    assert found[part + "self_attn.in_proj_weight"] == ("qkv", N.Split(N.RMSToRMS(), 3))
    assert found[part + "self_attn.in_proj_bias"] == ("bias", N.RMS())
    assert found[part + "self_attn.out_proj.weight"] == ("linear", N.RMSToRMS())
    assert found[part + "linear2.weight"] == ("linear", N.RMSToRMS())
    assert found[part + "norm1.bias"] == ("bias", N.RMS())
    table = str(metrize(Tied()))
    assert "shared with head.weight" in table
    assert "head" not in {role for role, _ in found.values()}


def test_convolutions_of_every_kind() -> None:
    found = rows(convolutional())
    assert found["0.weight"] == ("conv", N.Conv(2))
    assert found["1.weight"] == ("gain", N.LInf())
    assert found["2.weight"] == ("conv", N.Split(N.Conv(2), 4))
    assert found["3.bias"] == ("bias", N.RMS())
    assert found["4.weight"] == ("conv", N.Split(N.Transpose(N.Conv(2)), 2))
    assert found["5.weight"] == ("conv", N.Conv(1))
    assert found["6.weight"] == ("conv", N.Conv(3))
    assert found["8.weight"] == ("head", N.RMSToInf())


def test_recurrent_and_attention_weights() -> None:
    found = rows(recurrent())
    assert found["bag.weight"] == ("embedding", TOKENS)
    assert found["lstm.weight_ih_l0"] == ("recurrent", N.Split(N.RMSToRMS(), 4))
    assert found["lstm.weight_hh_l1_reverse"] == (
        "recurrent",
        N.Split(N.RMSToRMS(), 4),
    )
    assert found["lstm.weight_hr_l0"] == ("recurrent", N.RMSToRMS())
    assert found["lstm.bias_ih_l0"] == ("bias", N.RMS())
    assert found["gru.weight_hh"] == ("recurrent", N.Split(N.RMSToRMS(), 3))
    assert found["rnn.weight_ih_l0"] == ("recurrent", N.RMSToRMS())
    found = rows(attention())
    for name in ("q", "k", "v"):
        assert found[f"0.{name}_proj_weight"] == ("linear", N.RMSToRMS())
    assert found["1.bias_k"] == ("bias", N.RMS())
    assert "head" not in {role for role, _ in found.values()}


def test_no_layer_of_a_transformer_is_taken_for_a_head() -> None:
    found = rows(nn.Transformer(4, 2, 1, 1, 8, batch_first=True))
    assert found["decoder.layers.0.linear2.weight"] == ("linear", N.RMSToRMS())
    assert "head" not in {role for role, _ in found.values()}


def test_what_is_not_known_goes_by_shape() -> None:
    found = rows(parametrized())
    assert found["0.parametrizations.weight.original0"] == ("gain", N.LInf())
    assert found["0.parametrizations.weight.original1"] == ("linear", N.RMSToRMS())
    assert found["1.weight"] == ("other", N.RMS())
    assert found["2.weight"] == ("other", N.Conv(1))
    found = rows(containers())
    assert found["many.0"] == ("other", N.RMSToRMS())
    assert found["many.1"] == ("stack", N.RMSToRMS())
    assert found["named.bias"] == ("bias", N.RMS())
    assert [N.norm_by_shape(k) for k in range(6)] == [
        N.RMS(),
        N.RMS(),
        N.RMSToRMS(),
        N.Conv(1),
        N.Conv(2),
        N.Conv(3),
    ]


def test_wrong_models_say_what_is_right() -> None:
    with pytest.raises(TypeError, match="needs a torch.nn.Module, got list"):
        metrize([torch.zeros(3)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0.weight has no shape yet"):
        metrize(nn.Sequential(nn.LazyLinear(3)))


def test_frozen_parameters_are_listed_and_left() -> None:
    groups = metrize(partly_frozen())
    assert groups.frozen == ("0.weight", "0.bias")
    assert str(groups).count("frozen, skipped") == 2
    assert str(groups).endswith("metrize again and add_param_group")
    assert "2 frozen parameters in no group" in groups._repr_html_()
    assert repr(groups) == f"Metrized({len(groups)} groups of 4 parameters)"


def test_tables_for_people_and_browsers() -> None:
    groups = metrize(Tied())
    lines = str(groups).splitlines()
    assert lines[0].split() == ["name", "shape", "role", "norm", "scale", "why"]
    assert any("scalar" in line for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    page = groups._repr_html_()
    assert page.count("<tr>") == len(lines)
    assert page.count('scope="col"') == 6
    odd = nn.ParameterDict({"<b>": torch.zeros(2)})
    assert "&lt;b&gt;" in metrize(odd)._repr_html_()


def test_torch_optimizers_take_the_groups() -> None:
    model = Tied()
    tokens = torch.arange(6)[None]
    for optimizer in (
        torch.optim.SGD(metrize(model), lr=0.1),
        torch.optim.AdamW(metrize(model, [("position", {"lr": 0.5})]), lr=1e-3),
    ):
        x = model.tokens(tokens) + model.position[:6]
        F.cross_entropy(model.head(model.norm(model.trunk(x)))[0], tokens[0]).backward()
        before = model.tokens.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(before, model.tokens.weight)
        assert {g["role"] for g in optimizer.param_groups} >= {"qkv", "embedding"}
