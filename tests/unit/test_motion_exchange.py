"""Exchanges: products of weights found in models, and none where there is no product."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anthology import lab
from anthology.motion import find_symmetries


def found(model, loss):
    """The exchanges as text without reasons."""
    each = [s for s in find_symmetries(model, loss) if s.kind == "exchange"]
    assert all(s.defect < 1e-12 for s in each)
    return [str(s).split(";")[0].replace(": exchange", "") for s in each]


def classify(*shape, seed=1):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(shape, generator=g), torch.randint(3, shape[:1], generator=g)
    return lambda net: F.cross_entropy(net(x), y)


class Square(nn.Module):
    def forward(self, x):
        return x.relu() ** 2


LAYERS = "0.weight + 0.bias against 2.weight"


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (nn.ReLU(), [f"{LAYERS}, 6 pieces"]),
        (nn.LeakyReLU(), [f"{LAYERS}, 6 pieces"]),
        (nn.Identity(), [f"{LAYERS}, 6 pieces"]),
        (nn.Dropout(0.3), [f"{LAYERS}, 6 pieces"]),
        (Square(), [f"{LAYERS} (power 2), 6 pieces"]),
        (nn.GELU(), []),
        (nn.Tanh(), []),
        (nn.Softplus(), []),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_layers(activation, expected, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3)).to(dtype)
    assert found(model, classify(12, 4)) == expected


def test_a_chain_has_one_link_less_than_layers():
    torch.manual_seed(0)
    links = [nn.Linear(a, b, bias=False) for a, b in ((4, 6), (6, 6), (6, 9), (9, 3))]
    model = nn.Sequential(links[0], nn.ReLU(), links[1], nn.ReLU(), *links[2:])
    assert sorted(found(model, classify(12, 4))) == [
        "0.weight against 2.weight, 6 pieces",
        "2.weight against 4.weight, 6 pieces",
        "4.weight against 5.weight, 9 pieces",
    ]


def test_convolutions_pooled_and_flattened():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    expected = ["0.weight + 0.bias against 4.weight, 4 pieces"]
    assert found(model, classify(8, 1, 8, 8)) == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_gain_of_batch_normalisation(training):
    torch.manual_seed(0)
    layers = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    layers[1].running_mean.uniform_()
    model = nn.Sequential(*layers).train(training)
    expected = ["1.weight + 1.bias against 3.weight, 6 pieces"]
    assert found(model, classify(12, 4)) == expected


class Attention(nn.Module):
    """Grouped queries, rotary angles and norms of queries and keys, on request."""

    def __init__(self, heads=4, keys=2, rotary=True, normalised=False):
        super().__init__()
        self.rotary, self.normalised, self.share = rotary, normalised, heads // keys
        self.norm = nn.RMSNorm(8)
        self.q = nn.Linear(8, 4 * heads, bias=False)
        self.k, self.v = (nn.Linear(8, 4 * keys, bias=False) for _ in range(2))
        self.o = nn.Linear(4 * heads, 8, bias=False)
        self.norm2, self.head = nn.RMSNorm(8), nn.Linear(8, 3)
        self.gate, self.up = (nn.Linear(8, 12, bias=False) for _ in range(2))
        self.down = nn.Linear(12, 8, bias=False)

    def turned(self, x):
        if self.normalised:
            x = x / x.norm(dim=-1, keepdim=True)
        if not self.rotary:
            return x
        angle = torch.arange(5).double()[:, None] / torch.tensor([1.0, 3.0])
        a, b = x[..., :2], x[..., 2:]
        c, s = angle.cos(), angle.sin()
        return torch.cat([a * c - b * s, a * s + b * c], -1)

    def forward(self, x):
        z = self.norm(x)
        q, k, v = (
            layer(z).unflatten(-1, (-1, 4)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        q, k = self.turned(q), self.turned(k)
        k, v = (x.repeat_interleave(self.share, 1) for x in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        z = self.norm2(x)
        return self.head((x + self.down(F.silu(self.gate(z)) * self.up(z))).mean(1))


ALWAYS = {
    "norm.weight against q.weight + k.weight + v.weight, 8 pieces",
    "norm2.weight against gate.weight + up.weight, 8 pieces",
    "up.weight against down.weight, 12 pieces",
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {},
            {
                "q.weight against k.weight, 2 pieces",
                "v.weight against o.weight, 2 pieces",
            },
        ),
        (
            {"heads": 2},
            {
                "q.weight against k.weight, 2 pieces",
                "v.weight against o.weight, 8 pieces",
            },
        ),
        (
            {"heads": 2, "rotary": False},
            {
                "q.weight against k.weight, 8 pieces",
                "v.weight against o.weight, 8 pieces",
            },
        ),
        ({"normalised": True}, {"v.weight against o.weight, 2 pieces"}),
    ],
    ids=["grouped", "rotary", "plain", "normalised"],
)
def test_attention(settings, expected):
    torch.manual_seed(0)
    assert set(found(Attention(**settings), classify(4, 5, 8))) == ALWAYS | expected


def test_queries_and_keys_that_share_their_weights_are_no_product():
    torch.manual_seed(0)
    model = Attention(heads=2, rotary=False)
    model.k = model.q
    names = set(found(model, classify(4, 5, 8)))
    assert "v.weight against o.weight, 8 pieces" in names
    assert not any("q.weight" in x and "norm" not in x for x in names)


def test_frozen_weights_have_no_part():
    torch.manual_seed(0)
    model = Attention(heads=2)
    model.k.requires_grad_(False)
    names = set(found(model, classify(4, 5, 8)))
    assert "v.weight against o.weight, 8 pieces" in names
    assert not any("q.weight" in x for x in names)


@pytest.mark.parametrize("zero", ["q", "o", "down"])
def test_zeros_hide_no_exchange(zero):
    torch.manual_seed(0)
    model = Attention()
    before = found(model, classify(4, 5, 8))
    nn.init.zeros_(getattr(model, zero).weight)
    assert found(model, classify(4, 5, 8)) == before


def test_fused_projections_with_biases():
    torch.manual_seed(0)

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1).tanh())

    w, b = "inner.in_proj_weight", "inner.in_proj_bias"
    assert set(found(Fused(), classify(4, 5, 8))) == {
        f"{w}[0:8] + {b}[0:8] against {w}[8:16], 8 pieces",
        f"{w}[16:24] + {b}[16:24] against inner.out_proj.weight, 8 pieces",
    }


def test_a_small_gpt():
    tokens = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(0))
    model = lab.transformer(vocabulary=16, width=8, depth=1, heads=2, context=8)

    def loss(net):
        return F.cross_entropy(net(tokens[:, :-1]).mT, tokens[:, 1:])

    block = "blocks.0."
    assert set(found(model, loss)) == {
        f"{block}norm1.weight + {block}norm1.bias against {block}qkv.weight, 8 pieces",
        f"{block}norm2.weight + {block}norm2.bias against {block}up.weight, 8 pieces",
        "norm.weight + norm.bias against head.weight, 8 pieces",
        f"{block}qkv.weight[0:8] against {block}qkv.weight[8:16], 8 pieces",
        f"{block}qkv.weight[16:24] against {block}out.weight, 8 pieces",
    }


def test_a_layer_used_twice_counts_twice():
    torch.manual_seed(0)
    first, shared, last = (
        nn.Linear(a, b, bias=False) for a, b in ((4, 6), (6, 6), (6, 3))
    )
    chain = nn.Sequential(first, nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), last)
    # what the first gives the last takes, or the shared one half as much, twice
    assert found(chain, classify(12, 4)) == [
        "0.weight against 6.weight",
        "2.weight against 0.weight (power 2)",
    ]
