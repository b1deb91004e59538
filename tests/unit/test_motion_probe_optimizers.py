"""The probe under every optimizer: it sees all of them and changes none."""

import copy
import math

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.motion import Probe
from anthology.norms import metrize
from tests.examples import EXAMPLES

OURS = [example.kind for example in EXAMPLES.values()]
THEIRS = [
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.RMSprop,
    torch.optim.Rprop,
    torch.optim.ASGD,
    torch.optim.Adafactor,
]


def build(kind, params):
    needs = EXAMPLES[kind.__name__].needs if kind in OURS else {}
    return kind(params, **needs)


class Net(nn.Module):
    """Small, with all that a real model has: tied, frozen, unused, empty weights."""

    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.hidden = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.token.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(3, 2)
        self.empty = nn.Parameter(torch.zeros(0, 4))

    def forward(self, x):
        h = torch.tanh(self.hidden(self.norm(self.token(x))))
        return self.head(self.drop(self.frozen(h)))


def train(kind, watch, steps=5):
    torch.manual_seed(0)
    net = Net()
    optimizer = build(kind, [p for p in net.parameters() if p.numel()])
    probe, x = None, torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    if watch:
        probe = Probe(
            net,
            optimizer,
            lambda f: loss(f, x),
            every={"turn": 1, "penalty": 1, "sharpness": 4},
        )
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, torch.randint(6, (8,))).backward()
        optimizer.step()
    return net, optimizer, probe


def loss(net, x):
    return nn.functional.cross_entropy(net(x), (x + 1) % 6)


@pytest.mark.filterwarnings("ignore:at step:RuntimeWarning")
@pytest.mark.parametrize(
    "kind",
    OURS + THEIRS,
    ids=lambda kind: f"{kind.__module__.split('.')[0]}.{kind.__name__}",
)
def test_a_watched_run_is_the_same_run_bit_for_bit(kind):
    watched, one, probe = train(kind, True)
    ends = torch.rand(3)
    plain, two, _ = train(kind, False)
    assert torch.equal(ends, torch.rand(3))
    same(watched.state_dict(), plain.state_dict())
    same(one.state_dict()["state"], two.state_dict()["state"])
    for p, q in zip(watched.parameters(), plain.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)

    records = probe.records
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5]
    assert ["sharpness" in r for r in records] == [True, False, False, False, True]
    assert math.isnan(records[0]["error"]) and records[-1]["error"] > 0
    for record in records:
        # SOAP only looks at the first gradient
        assert record["size"] > 0 or (kind is optim.SOAP and record["step"] == 1)
        assert (record["turn"] > 0) == (record["size"] > 0)
        assert 0 < record["penalty"] < math.inf
        layers = record["layers"]
        assert "token.weight" in layers and "head.weight" not in layers
        assert not {"frozen.weight", "empty"} & set(layers)
        assert layers["unused.weight"]["size"] == 0
        moved = [r for name, r in layers.items() if not name.startswith("unused")]
        assert all(0 < r["dual"] < math.inf for r in moved)
    assert "token.weight" in str(probe) and probe.overhead > 0


def same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, dict):
            same(value, b[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        elif isinstance(value, int | float | str):
            assert value == b[key]


@pytest.mark.filterwarnings("ignore:at step:RuntimeWarning")
@pytest.mark.parametrize("kind", [optim.SteepestDescent, torch.optim.AdamW, optim.Muon])
def test_groups_of_a_metrized_model(kind):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    groups = metrize(net)
    optimizer = kind(groups, lr=0.01)
    x = torch.randn(8, 4)
    with Probe(net, optimizer, lambda f: f(x).square().mean(), every=1) as probe:
        net(x).square().mean().backward()
        optimizer.step()
    (record,) = probe.records
    g = dict(net.named_parameters())
    for row in groups.rows:
        given = record["layers"][row.name]["dual"]
        assert given > 0 and g[row.name].grad is not None
    total = sum(r["dual"] for r in record["layers"].values())
    assert math.isclose(record["penalty"], total, rel_tol=1e-6)


def test_lbfgs_steps_with_a_closure():
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.randn(8, 3)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        value = net(x).square().mean()
        value.backward()
        return value

    with Probe(net, optimizer, every=1) as probe:
        for _ in range(3):
            optimizer.step(closure)
    assert all(r["size"] > 0 and r["penalty"] > 0 for r in probe.records)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
def test_torch_muon_is_measured_in_the_spectral_norm():
    torch.manual_seed(0)
    net, x = nn.Linear(5, 3, bias=False), torch.randn(8, 5)
    optimizer = torch.optim.Muon(net.parameters(), lr=0.1)
    with Probe(net, optimizer, every=1) as probe:
        net(x).square().mean().backward()
        optimizer.step()
    nuclear = torch.linalg.matrix_norm(net.weight.grad, "nuc").item()
    assert math.isclose(probe.records[0]["penalty"], nuclear, rel_tol=1e-5)


def test_sparse_gradients():
    net = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(net.parameters(), lr=0.1)
    with Probe(net, optimizer, every=1) as probe:
        net(torch.tensor([1, 2])).square().sum().backward()
        grad = net.weight.grad.to_dense()
        optimizer.step()
    dual = probe.records[0]["layers"]["weight"]["dual"]
    assert math.isclose(dual, grad.abs().sum().item(), rel_tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types(dtype):
    torch.manual_seed(0)
    net = nn.Linear(4, 2, dtype=dtype)
    x = torch.randn(8, 4, dtype=dtype)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(net, optimizer, lambda f: f(x).square().mean(), every=1) as probe:
        for _ in range(3):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
    exact = 0.1 * torch.linalg.eigvalsh(hessian(x.double())).max().item()
    tolerance = 1e-6 if dtype == torch.float64 else 0.02
    for record in probe.records:
        assert math.isclose(record["product"], exact, rel_tol=tolerance)
        assert record["error"] > 0 or record["step"] == 1


def hessian(x):
    """Of mean((Wx + b)²) over two outputs, in one of them."""
    inputs = torch.cat([x, torch.ones(len(x), 1)], 1)
    return inputs.T @ inputs / len(x)


def test_groups_added_later_and_weights_unfrozen_later():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)), torch.randn(8, 3)
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[1].parameters(), lr=0.1)
    probe = Probe(net, optimizer, lambda f: f(x).square().mean(), every=1)
    for step in range(4):
        if step == 2:
            net[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(net[0].parameters()), "lr": 0.2})
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert [len(r["layers"]) for r in probe.records] == [2, 2, 4, 4]
    copy.deepcopy(optimizer)
