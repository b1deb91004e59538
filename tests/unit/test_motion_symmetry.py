"""Symmetries: what is found in models, what is not, and what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anthology import lab, optim
from anthology.motion import Cut, Symmetry, find_symmetries, follow_symmetry

F64 = torch.float64


def data(*shape, classes=3):
    g = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=g), torch.randint(
        classes, shape[:1], generator=g
    )


def classify(*shape):
    x, y = data(*shape)
    return lambda net: F.cross_entropy(net(x), y)


def sequence(*layers):
    return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


def built(model, *shape):
    model(data(*shape)[0])
    return model


def descent(lr, decay=0.0, **rest):
    return lambda net: torch.optim.SGD(net.parameters(), lr, weight_decay=decay, **rest)


def rows(found):
    """What was found without the last layer, of which it is always the logits."""
    return [
        ("+".join(s.names), s.kind, s.cuts[0].axis, s.parts)
        for s in found
        if s.reason != "feeds the loss" and s.kind != "exchange"
    ]


@pytest.mark.parametrize(
    ("layers", "shape", "expected"),
    [
        (
            (nn.Linear(4, 6), nn.BatchNorm1d(6)),
            (12, 4),
            [("0.weight", "scale", 0, 6), ("0.bias", "translation", 0, 6)],
        ),
        ((nn.Linear(4, 6), nn.BatchNorm1d(6).eval()), (12, 4), []),
        (
            (nn.Linear(4, 6), nn.LayerNorm(6)),
            (12, 4),
            [
                ("0.weight+0.bias", "scale", 0, 1),
                ("0.weight", "translation", 0, 1),
                ("0.bias", "translation", 0, 1),
            ],
        ),
        (
            (nn.Linear(4, 6), nn.RMSNorm(6, eps=1e-5)),
            (12, 4),
            [("0.weight+0.bias", "scale", 0, 1)],
        ),
        (
            (nn.Linear(4, 6, bias=False), nn.ReLU(), nn.RMSNorm(6, eps=1e-5)),
            (12, 4),
            [("0.weight", "scale", 0, 1)],
        ),
        ((nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6)), (12, 4), []),
        (
            (nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6)),
            (8, 2, 5, 5),
            [
                ("0.weight+0.bias", "scale", 0, 3),
                ("0.bias", "translation", 0, 3),
            ],
        ),
        (
            (nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)),
            (8, 2, 5, 5),
            [("0.weight", "scale", 0, 6)],
        ),
        (
            (nn.ConvTranspose2d(2, 6, 3), nn.InstanceNorm2d(6)),
            (8, 2, 5, 5),
            [("0.weight", "scale", 1, 6), ("0.bias", "translation", 0, 6)],
        ),
        ((nn.Linear(4, 6), nn.ReLU()), (12, 4), []),
        ((nn.Linear(4, 6), nn.Dropout(0.5)), (12, 4), []),
    ],
    ids=str,
)
def test_what_feeds_a_normalisation(layers, shape, expected):
    torch.manual_seed(0)
    model = built(sequence(*layers), *shape)
    assert rows(find_symmetries(model, classify(*shape))) == expected


def test_a_loss_that_knows_the_scale_of_the_logits_has_no_translation():
    x, _ = data(12, 4)
    model = nn.Linear(4, 3)
    assert find_symmetries(model, lambda net: net(x).square().mean()) == []


def test_dead_and_unused_parameters_are_not_reported():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model.unused = nn.Linear(3, 3)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    assert rows(find_symmetries(model, classify(12, 4))) == []


def test_zeros_hide_no_symmetry_and_make_none():
    """A last layer of zeros stops every gradient at the weights themselves."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh()
    )
    model.append(nn.Linear(5, 3))
    nn.init.zeros_(model[4].weight)
    found = find_symmetries(model, classify(12, 4))
    assert rows(found)[:2] == [
        ("0.weight", "scale", 0, 1),
        ("0.weight", "translation", 0, 1),
    ]
    assert all(math.isfinite(s.defect) for s in found)


def test_the_biases_of_keys_and_normalised_queries():
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.inner(x, x, x, need_weights=False)[0].mean(1))

    (key,) = (
        s
        for s in find_symmetries(Attention(), classify(4, 5, 8))
        if s.reason != "feeds the loss" and s.kind != "exchange"
    )
    assert key.cuts == (Cut("inner.in_proj_bias", 0, 8, 16, 24),)
    assert key.parts == 8
    assert str(key).startswith("inner.in_proj_bias[8:16]: translation")


def test_the_residual_stream_of_a_transformer():
    """Layer normalisations remove what is common to the channels of the stream."""
    tokens = torch.randint(16, (4, 9), generator=torch.Generator().manual_seed(0))
    model = lab.transformer(vocabulary=16, width=8, depth=1, heads=2, context=8)

    def loss(net):
        return F.cross_entropy(net(tokens[:, :-1]).mT, tokens[:, 1:])

    alone = [s for s in find_symmetries(model, loss) if s.kind != "exchange"]
    found = {(s.names[0], s.cuts[0].axis) for s in alone}
    writers = {("blocks.0.out.weight", 0), ("blocks.0.down.weight", 0)}
    tables = {("token.weight", 1), ("position.weight", 1)}
    ends = {("blocks.0.down.bias", 0), ("head.weight", 0)}
    assert found == writers | tables | ends


def test_reasons_and_the_group_norms_of_the_conv_net():
    x = torch.randn(4, 1, 8, 8)
    y = torch.randint(10, (4,))
    found = find_symmetries(lab.conv_net(), lambda net: F.cross_entropy(net(x), y))
    scales = {s.names[0]: s for s in found if s.kind == "scale"}
    assert scales["0.weight"].reason == "feeds 1 (GroupNorm)"
    assert scales["0.weight"].parts == 2
    assert scales["3.weight"].reason == "feeds 4 (GroupNorm)"
    assert str(scales["3.weight"]) == "3.weight: scale, 4 pieces; feeds 4 (GroupNorm)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_left_alone(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).to(dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    loss = classify(12, 4)
    found = find_symmetries(model, loss)
    follow_symmetry(model, loss, found[0], descent(0.1, 0.1), steps=3)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype
    assert all(p.grad is None for p in model.parameters())
    assert model[1].eps == 1e-5 and model.training
    assert not model[0]._forward_hooks and not model._forward_hooks


def test_moved_weights_have_moved_coordinates():
    values = {"w": torch.arange(24, dtype=F64).reshape(6, 4).mT, "b": torch.ones(6)}
    scale = Symmetry("scale", (Cut("w", 1, 2, 6, 6), Cut("b", 0, 2, 6, 6)), 2)
    assert str(scale) == "w[2:6] + b[2:6]: scale, 2 pieces; "
    c = torch.tensor([2.0, 0.5], dtype=F64)
    moved = {**values, **scale.moved(values, c)}
    assert torch.equal(scale.coordinate(moved), c**2 * scale.coordinate(values))
    assert torch.equal(moved["w"][:, :2], values["w"][:, :2])
    shift = Symmetry("translation", (Cut("w", 1, 2, 6, 6),), 2)
    assert shift.pieces(values).shape == (2, 2, 4)
    c = torch.arange(8, dtype=F64).reshape(2, 4)
    moved = shift.moved(values, c)
    gap = shift.coordinate(moved) - shift.coordinate(values)
    assert torch.equal(gap, 2 * c)


def test_an_exchange_moves_the_pieces_of_both():
    values = {"a": torch.arange(1, 9, dtype=F64).reshape(4, 2), "b": torch.ones(3, 2)}
    cuts = Cut("a", 0, 0, 4, 4), Cut("b", 1, 0, 2, 2, -2)
    trade = Symmetry("exchange", cuts, 2, "a product")
    assert str(trade) == "a against b (power 2): exchange, 2 pieces; a product"
    assert (trade.most, trade.channels, trade.names) == (2, 3, ("a", "b"))
    assert trade.coordinate(values).tolist() == [30 - 6, 174 - 6]
    moved = trade.moved(values, torch.tensor([2.0, 10.0], dtype=F64))
    assert moved["a"].tolist() == [[2, 4], [6, 8], [50, 60], [70, 80]]
    torch.testing.assert_close(moved["b"], torch.tensor([[0.25, 0.01]] * 3))
    field = trade.field(values)
    assert field.shape == (2, 7) and field[:, 4:].eq(-2).all()
    half = {k: w / 2 for k, w in values.items()}
    law = trade.law(trade.coordinate(values), values, half, 0.5)
    assert torch.equal(law, trade.coordinate(half))


def test_a_run_has_its_shapes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    loss = classify(12, 4)
    scale, shift, *_, trade = find_symmetries(model, loss)
    run = follow_symmetry(model, loss, scale, descent(0.1), steps=5)
    assert run.times.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert run.angles is not None and run.angles.shape == (5, 6)
    for path in (run.measured, run.flow, run.motion, run.law):
        assert path.shape == (6, 6) and path.dtype == F64
    assert run.leaks.shape == (5, 6)
    # without decay gradient flow keeps the norm
    assert torch.equal(run.flow[-1], run.flow[0])
    run = follow_symmetry(model, loss, shift, descent(0.1, 0.3), steps=5)
    assert run.angles is None and run.measured.shape == (6, 6, 1)
    assert run.leaks.shape == (5, 6, 1)
    assert set(run.gaps()) == {"flow", "motion", "law"}
    run = follow_symmetry(model, loss, trade, descent(0.1, 0.3), steps=5)
    assert run.angles is None and run.law.shape == (6, 6)
    run = follow_symmetry(model, loss, trade, descent(0.1, momentum=0.9), steps=5)
    assert run.flow is None and run.motion is None and set(run.gaps()) == {"law"}


@pytest.mark.parametrize(
    "build",
    [
        lambda net: torch.optim.AdamW(net.parameters(), 0.01),
        lambda net: torch.optim.SGD(net.parameters(), 0.1, 0.9, nesterov=True),
        lambda net: optim.Muon(net.parameters(), 0.01),
        lambda net: optim.SGD(net.parameters(), 0.01, normalised=True),
        lambda net: torch.optim.LBFGS(net.parameters()),
    ],
)
def test_any_optimizer_is_followed_as_it_goes(build):
    """What is measured is what the optimizer did, on a copy."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    loss = classify(12, 4)
    found = find_symmetries(model, loss)
    runs = [follow_symmetry(model, loss, s, build, steps=3) for s in found]
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)).double()
    net.load_state_dict(model.state_dict())
    optimizer = build(net)

    def closure():
        optimizer.zero_grad()
        value = classify(12, 4)(lambda x: net(x.double()))
        value.backward()
        return value

    for _ in range(3):
        optimizer.step(closure)
    end = {name: p.detach() for name, p in net.named_parameters()}
    for symmetry, run in zip(found, runs, strict=True):
        torch.testing.assert_close(run.measured[-1], symmetry.coordinate(end))


def test_refused_models():
    loss = classify(12, 4)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        find_symmetries("model", loss)
    with pytest.raises(TypeError, match="loss must be a function"):
        find_symmetries(nn.Linear(4, 3), 1.0)
    with pytest.raises(ValueError, match="no parameter"):
        find_symmetries(nn.Linear(4, 3).requires_grad_(False), loss)
    with pytest.raises(ValueError, match="no symmetries"):
        find_symmetries(nn.Linear(4, 3), lambda net: loss(net) * math.nan)
    with pytest.raises(ValueError, match="scalar"):
        find_symmetries(nn.Linear(4, 3), lambda net: net(data(12, 4)[0]))
    weight = find_symmetries(nn.Linear(4, 3), loss)[0]
    with pytest.raises(ValueError, match="no trainable parameter weight"):
        model = nn.Sequential(nn.Linear(4, 3))
        follow_symmetry(model, loss, weight, descent(0.1), steps=1)
    with pytest.raises(TypeError, match="one of find_symmetries"):
        follow_symmetry(nn.Linear(4, 3), loss, "weight", descent(0.1), steps=1)
    with pytest.raises(TypeError, match="function from the model to its optimizer"):
        follow_symmetry(nn.Linear(4, 3), loss, weight, "SGD", steps=1)
    with pytest.raises(TypeError, match=r"torch\.optim\.Optimizer"):
        follow_symmetry(nn.Linear(4, 3), loss, weight, lambda net: net, steps=1)
    with pytest.raises(ValueError, match="steps"):
        follow_symmetry(nn.Linear(4, 3), loss, weight, descent(0.1), steps=0)
    with pytest.raises(ValueError, match="has no parameter weight; give it all"):
        follow_symmetry(
            nn.Linear(4, 3),
            loss,
            weight,
            lambda net: torch.optim.SGD([net.bias], 0.1),
            steps=1,
        )
    turning = nn.Linear(4, 3)
    turning.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    with pytest.raises(TypeError, match="phase must be real"):
        find_symmetries(turning, loss)


def test_one_law_needs_one_decay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    loss = classify(12, 4)
    trade = find_symmetries(model, loss)[-1]

    def apart(lr, decay):
        def build(net):
            first = {"params": net[0].parameters(), "lr": lr, "weight_decay": decay}
            return torch.optim.SGD([first, {"params": net[2].parameters()}], 0.1)

        return follow_symmetry(model, loss, trade, build, steps=2)

    assert apart(0.1, 0.0).gaps()["law"] < 1e-12
    run = apart(0.2, 0.0)  # two rates: a law for steps that these are not
    assert run.flow is None and run.gaps()["law"] > 1e-3
    assert run.leaks.abs().max() > 1e-3
    run = apart(0.1, 0.1)
    assert run.law[1:].isnan().all() and run.measured.isfinite().all()


@pytest.mark.parametrize(
    ("build", "lawful"),
    [
        (lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1), False),
        (lambda p: torch.optim.RMSprop(p, 0.01, weight_decay=0.1), False),
        (lambda p: optim.Adam(p, 0.01, weight_decay=0.1), False),
        (lambda p: optim.Lion(p, 0.01, weight_decay=0.1, decay="cautious"), False),
        (lambda p: torch.optim.RMSprop(p, 0.01), True),
        (lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1), True),
        (lambda p: optim.AdamW(p, 0.01, weight_decay=0.1), True),
    ],
)
def test_a_decay_that_asks_the_gradient_has_no_law(build, lawful):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    loss = classify(12, 4)
    bias = find_symmetries(model, loss)[1]
    run = follow_symmetry(
        model, loss, bias, lambda net: build(net.parameters()), steps=2
    )
    assert run.law[1:].isfinite().all() == lawful
    assert run.leaks.isfinite().all() == lawful
