"""Experts in stacks, routers, positions and tokens: what modules of one's own hold."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anthology import norms as N
from anthology.linalg import polar
from anthology.norms import metrize
from anthology.optim import Muon, Scion, SteepestDescent
from tests.unit.test_roles import TOKENS, rows

STACK = ("stack", N.RMSToRMS())
ENTRYWISE = ("entrywise", N.LInf())


class Experts(nn.Module):
    """Two-layer experts; the second stack is stored in × out."""

    def __init__(self, experts: int, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Parameter(0.1 * torch.randn(experts, hidden, width))
        self.up_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.down = nn.Parameter(0.1 * torch.randn(experts, hidden, width))
        self.bias = nn.Parameter(torch.zeros(experts, 1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.einsum("td,ehd->eth", x, self.up) + self.up_bias[:, None]
        return torch.einsum("eth,ehd->etd", h.relu(), self.down) + self.bias


class Mixture(nn.Module):
    """Tokens → mixture of experts → tokens; the router is the last nn.Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.experts = Experts(4, 6, 8)
        self.router = nn.Linear(6, 4, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        weights = self.router(x).softmax(-1)
        x = x + torch.einsum("te,etd->td", weights, self.experts(x))
        return x @ self.table.weight.T


class Vision(nn.Module):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 16, 2, 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 17, 16))
        self.gate = nn.Parameter(torch.ones(16, 1, 1))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.trunk = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (self.patch(x) * self.gate).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.head(self.trunk(x + self.pos_embed)[:, 0])


def learn(model: nn.Module, optimizer, x: torch.Tensor, y: torch.Tensor) -> list[float]:
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_a_mixture_of_experts() -> None:
    found = rows(Mixture())
    assert found["experts.up"] == found["experts.down"] == STACK
    assert found["experts.up_bias"] == found["experts.bias"] == ("bias", TOKENS)
    assert found["router.weight"] == ("linear", N.RMSToRMS())
    assert "head" not in {role for role, _ in found.values()}
    found = rows(nn.Sequential(Mixture(), nn.Linear(11, 2)))
    assert found["1.weight"] == ("head", N.RMSToInf())
    assert rows(Mixture(), head="router")["router.weight"][0] == "head"


@pytest.mark.parametrize("name", ["gate", "block.router", "mlp.router_proj", "Router"])
def test_names_of_routers(name: str) -> None:
    model = nn.Module()
    inner = model
    *path, last = name.split(".")
    for part in path:
        inner.add_module(part, nn.Module())
        inner = getattr(inner, part)
    inner.add_module(last, nn.Linear(4, 2))
    assert rows(model)[f"{name}.weight"] == ("linear", N.RMSToRMS())
    for other in ("gate_proj", "aggregate", "navigate"):
        model = nn.ModuleDict({other: nn.Linear(4, 2)})
        assert rows(model)[f"{other}.weight"][0] == "head"


def test_a_transposed_stack_by_override() -> None:
    flipped = N.Transpose(N.RMSToRMS())
    found = rows(Mixture(), [("experts.down", flipped)])
    assert found["experts.down"] == ("stack", flipped)
    assert found["experts.up"] == STACK


def test_experts_are_measured_one_by_one() -> None:
    """The step of an expert is that of a layer of its own."""
    model = Mixture().double()
    groups = metrize(model, [("experts.down", N.Transpose(N.RMSToRMS()))])
    optimizer = SteepestDescent(groups, lr=1.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    F.cross_entropy(model(torch.arange(9)), torch.arange(9)).backward()
    optimizer.step()
    for e in range(4):
        for name, root in (("up", 8 / 6), ("down", 6 / 8)):
            p = model.get_parameter(f"experts.{name}")
            step = before[f"experts.{name}"][e] - p[e]
            assert (step - root**0.5 * polar(p.grad[e])).abs().max() < 1e-10
        p = model.experts.up_bias
        step = before["experts.up_bias"][e] - p[e]
        g = p.grad[e]
        assert (step - g / g.square().mean().sqrt()).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", ["flatten", "positions", "stack"])
@pytest.mark.parametrize("foreach", [True, False])
def test_muon_takes_experts_apart(kernel: str, foreach: bool) -> None:
    model = Mixture().double()
    groups = metrize(model, [("experts.down", N.Transpose(N.RMSToRMS()))])
    optimizer = Muon(
        groups,
        lr=1.0,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        method="svd",
        adjust_lr_fn="rms_to_rms",
        kernel=kernel,
        foreach=foreach,
    )
    rules = {
        name: group["rule"]
        for group in optimizer.param_groups
        for name in group["param_names"]
    }
    assert rules["experts.up"] == rules["experts.down"] == "muon"
    assert rules["experts.up_bias"] == rules["table.weight"] == "adamw"
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    F.cross_entropy(model(torch.arange(9)), torch.arange(9)).backward()
    optimizer.step()
    for name, root in (("up", 8 / 6), ("down", 6 / 8)):
        p = model.get_parameter(f"experts.{name}")
        step = before[f"experts.{name}"] - p
        for e in range(4):
            expected = root**0.5 * polar(p.grad[e])
            assert (step[e] - expected).abs().max() < 1e-10


def test_a_vision_transformer() -> None:
    found = rows(Vision())
    assert found["pos_embed"] == found["cls_token"] == ("embedding", TOKENS)
    assert found["gate"] == ("gain", N.LInf())
    assert found["patch.weight"] == ("conv", N.Conv(2))
    assert found["head.weight"] == ("head", N.RMSToInf())
    model = Vision()
    step = N.from_spec(
        next(g for g in metrize(model) if "pos_embed" in g["param_names"])["norm"]
    ).dualize(torch.randn(1, 17, 16))
    assert (step.square().mean(-1) - 1).abs().max() < 1e-5, "each row a unit step"


@pytest.mark.parametrize("kind", [SteepestDescent, Scion, Muon])
@pytest.mark.parametrize("build", [Mixture, Vision])
def test_such_models_train(kind, build) -> None:
    torch.manual_seed(0)
    model = build()
    options = {"adamw_lr": 0.02} if kind is Muon else {}
    if kind is Scion:
        options = {"unconstrained": True, "radius": 1.0}
    optimizer = kind(metrize(model), lr=0.02, **options)
    if build is Mixture:
        losses = learn(model, optimizer, torch.arange(11), torch.arange(11).roll(3))
    else:
        x = torch.randn(12, 1, 8, 8)
        losses = learn(model, optimizer, x, torch.arange(12) % 3)
    assert losses[-1] < 0.8 * losses[0]


def holder(kind: str, **params: tuple[int, ...]) -> nn.Module:
    model = type(kind, (nn.Module,), {})()
    for name, shape in params.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    return model


@pytest.mark.parametrize(
    ("kind", "name", "shape", "expected"),
    [
        ("Layer", "w", (3, 4, 5), STACK),
        ("Layer", "w1", (1, 4, 5), ("embedding", TOKENS)),
        ("Layer", "positional_embedding", (7, 5), ("embedding", TOKENS)),
        ("Layer", "register_tokens", (3, 4, 5), ("embedding", TOKENS)),
        ("Layer", "class_embedding", (5,), ("embedding", N.RMS())),
        ("Layer", "wte", (50, 5), ("embedding", TOKENS)),
        ("Layer", "token_embedding_table", (50, 5), ("embedding", TOKENS)),
        ("Layer", "relative_position_bias_table", (9, 2), ENTRYWISE),
        ("Layer", "A_log", (5, 3), ENTRYWISE),
        ("Layer", "D", (5, 3), ("other", N.RMSToRMS())),
        ("Layer", "time_mix_key", (1, 1, 5), ENTRYWISE),
        ("Layer", "pos_bias_u", (3, 5), ENTRYWISE),
        ("Layer", "layer_scale_parameter", (5,), ("gain", N.LInf())),
        ("Layer", "gamma_1", (5,), ("gain", N.LInf())),
        ("Layer", "gamma", (5, 3), ("other", N.RMSToRMS())),
        ("MyRMSNorm", "weight", (5,), ("gain", N.LInf())),
        ("MyRMSNorm", "beta", (5,), ("bias", N.RMS())),
        ("CohereLayerNorm", "weight", (2, 5), ("gain", N.LInf())),
        ("RMSNormGated", "scale", (5,), ("gain", N.LInf())),
        ("Normaliser", "weight", (3, 5), ("other", N.RMSToRMS())),
        ("VocabParallelEmbedding", "weight", (50, 5), ("embedding", TOKENS)),
        ("TopKRouter", "weight", (3, 5), ("linear", N.RMSToRMS())),
        ("ColumnParallelLinear", "weight", (3, 5), ("head", N.RMSToInf())),
        ("Experts", "up", (2, 3, 4, 5), STACK),
        ("Layer", "up", (2, 3, 16, 17), STACK),
        ("Layer", "kernel", (2, 3, 15, 17), ("other", N.Conv(2))),
        ("GRU", "weight_hh", (12, 4), ("recurrent", N.Split(N.RMSToRMS(), 3))),
        ("Attention", "in_proj_weight", (15, 5), ("qkv", N.Split(N.RMSToRMS(), 3))),
        ("Layer", "token_mixing", (7, 5), ("other", N.RMSToRMS())),
        ("Layer", "exposition", (7, 5), ("other", N.RMSToRMS())),
        ("Layer", "bias", (3, 5), ENTRYWISE),
        ("Layer", "layer_scale", (5, 1, 1), ("gain", N.LInf())),
        ("Layer", "scale", (1, 5, 1, 1), ("gain", N.LInf())),
        ("Layer", "kernel", (3, 4, 5, 5), ("other", N.Conv(2))),
        ("MyConv1d", "weight", (3, 4, 5), ("other", N.Conv(1))),
        ("MyConv1d", "weight", (1, 4, 5), ("other", N.Conv(1))),
        ("Layer", "nothing", (0, 4, 5), STACK),
    ],
)
def test_by_name_and_shape(kind, name, shape, expected) -> None:
    assert rows(holder(kind, **{name: shape}))[name] == expected


def test_a_parametrised_kernel_is_no_stack() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 2))
    found = rows(layer)
    assert found["parametrizations.weight.original0"] == ("gain", N.LInf())
    assert found["parametrizations.weight.original1"] == ("conv", N.Conv(1))


def test_a_trunk_in_one_module() -> None:
    found = rows(holder("Trunk", w=(2, 8, 8), gamma=(2, 8), bias=(2, 8), gain=(3, 8)))
    assert found["w"] == STACK
    assert found["gamma"] == ("gain", N.LInf())
    assert found["bias"] == ("bias", TOKENS)
    assert found["gain"] == ("other", N.RMSToRMS())
