"""The probe: what its figures are, when they are taken, what it refuses."""

import json
import math

import pytest
import torch
from torch import nn

from anthology.motion import Probe, first_counter_term

QUIET = pytest.mark.filterwarnings("ignore:at step:RuntimeWarning")


class Bowl(nn.Module):
    """½ wᵀAw for a given symmetric A, as a loss without input."""

    def __init__(self, curvature, start=None):
        super().__init__()
        a = torch.as_tensor(curvature, dtype=torch.float64)
        self.register_buffer("a", torch.diag(a) if a.ndim == 1 else a)
        start = torch.ones(len(a)) if start is None else start
        self.w = nn.Parameter(torch.as_tensor(start, dtype=torch.float64))

    def forward(self):
        return self.w @ self.a @ self.w / 2


def value(net):
    return net()


def descend(net, optimizer, steps, **options):
    """Train on the fixed loss itself under a probe."""
    options = {"every": 1, **options}
    with Probe(net, optimizer, value, **options) as probe:
        for _ in range(steps):
            optimizer.zero_grad()
            net().backward()
            optimizer.step()
    return probe.records


@QUIET
def test_the_figures_are_their_definitions():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(9, 3).double(), torch.randn(9, 3).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, betas=(0.5, 0.9))
    params = dict(net.named_parameters())

    def batch(f):
        return f(y).square().mean()

    def slope():
        found = torch.autograd.grad(batch(net), list(params.values()))
        return dict(zip(params, found, strict=True))

    probe, moves = Probe(net, optimizer, batch, every=1), []
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        before, old = {k: p.detach().clone() for k, p in params.items()}, slope()
        old_loss = batch(net).item()
        optimizer.step()
        moves.append({k: p.detach() - before[k] for k, p in params.items()})
        new, record = slope(), probe.records[-1]
        assert math.isclose(record["loss"], old_loss)
        gain = bend = 0.0
        for name, row in record["layers"].items():
            move, turned = moves[-1][name], new[name] - old[name]
            assert math.isclose(row["size"], move.norm())
            assert math.isclose(row["turn"], turned.norm() / old[name].norm() / 2)
            assert math.isclose(row["dual"], old[name].abs().sum())
            own = -(old[name] * move).sum().item(), (turned * move).sum().item()
            gain, bend = gain + own[0], bend + own[1]
            expected = own[1] / own[0] if own[0] > 0 else math.nan
            assert (row["gain"], row["bend"]) == pytest.approx(own)
            assert row["overshoot"] == pytest.approx(expected, nan_ok=True)
            if len(moves) > 1:
                change = (move - moves[-2][name]).norm()
                assert math.isclose(row["error"], change / move.norm() / 2)
        assert math.isclose(record["overshoot"], bend / gain)
        assert math.isclose(record["fall"], old_loss - batch(net).item(), abs_tol=1e-12)
        whole = torch.cat([g.flatten() for g in old.values()])
        assert math.isclose(record["penalty"], whole.abs().sum())


@QUIET
def test_on_one_fixed_loss_the_error_is_the_turn_of_the_step_before():
    net = Bowl([4.0, 1.0, 0.3])
    optimizer, slopes = torch.optim.SGD(net.parameters(), lr=0.3), []
    with Probe(net, optimizer, value, every=1) as probe:
        for _ in range(8):
            optimizer.zero_grad()
            net().backward()
            slopes.append(net.w.grad.norm().item())
            optimizer.step()
    rows = probe.records
    for k in range(7):
        # the same change of the gradient, over the old one and over the new one
        turned = rows[k]["turn"] * slopes[k]
        assert math.isclose(rows[k + 1]["error"] * slopes[k + 1], turned, rel_tol=1e-9)
        assert rows[k]["turn"] <= 0.3 * 4 / 2 + 1e-9


def test_half_the_second_difference_is_the_first_counter_term():
    def f(w):
        return w[0] ** 4 / 4 + torch.sin(w[1]) * w[0] + w[1] ** 2

    def relative(lr):
        net = nn.ParameterList([nn.Parameter(torch.tensor([1.0, 0.5]).double())])
        optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        probe = Probe(net, optimizer, parts=["steps"])
        start = net[0].detach().clone()
        for _ in range(2):
            optimizer.zero_grad()
            f(net[0]).backward()
            optimizer.step()
        gradient = torch.func.grad(f)
        xi, g = first_counter_term(gradient, start), gradient(start)
        expected = lr * (xi.norm() / g.norm()).item()
        return abs(probe.records[-1]["error"] / expected - 1)

    coarse, fine = relative(1e-2), relative(1e-3)
    assert fine < 5e-3 and 0.8 < math.log10(coarse / fine) < 1.2


def test_noise_and_turning_round():
    torch.manual_seed(0)
    w = nn.Parameter(torch.zeros(10_000))
    net = nn.ParameterList([w])
    optimizer = torch.optim.SGD([w], lr=0.1)
    with Probe(net, optimizer, every=1) as probe:
        for _ in range(4):
            w.grad = torch.randn_like(w)
            optimizer.step()
        w.grad = torch.ones_like(w)
        for sign in (1, -1, -1):
            w.grad = w.grad * sign
            optimizer.step()
    errors = [record["error"] for record in probe.records]
    assert all(abs(e - math.sqrt(0.5)) < 0.02 for e in errors[1:4])
    assert errors[-2:] == [1.0, 1.0]


@QUIET
def test_each_part_at_its_own_pace():
    """What costs many steps is by default measured seldom."""
    net = Bowl([1.0, 0.5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    every = {"steps": 3, "turn": 2, "sharpness": 4}
    rows = descend(net, optimizer, 8, every=every)
    taken = {
        key: [r["step"] for r in rows if key in r]
        for key in ("error", "turn", "product", "penalty")
    }
    assert taken["error"] == [1, 4, 7] and taken["turn"] == [1, 3, 5, 7]
    assert taken["product"] == [1, 5] and taken["penalty"] == [1]
    errors = [r["error"] for r in rows if "error" in r]
    assert math.isnan(errors[0]) and all(0 < e < 0.1 for e in errors[1:])
    rows = descend(net, optimizer, 5, every=2, parts=["steps"])
    assert [r["step"] for r in rows] == [1, 3, 5]
    assert set(rows[0]) == {"step", "size", "error", "layers"}
    assert descend(net, optimizer, 2, parts=[]) == []
    rows = descend(net, optimizer, 11, every=None)
    assert [r["step"] for r in rows if "error" in r] == list(range(1, 12))
    for part in ("turn", "penalty"):
        assert [r["step"] for r in rows if part in r] == [1, 11]
    assert [r["step"] for r in rows if "product" in r] == [1]


@QUIET
def test_records_are_plain_and_the_table_is_readable():
    net = Bowl([1.0, 0.5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    probe = Probe(net, optimizer, value, every=1)
    assert str(probe) == "no step was measured" and math.isnan(probe.overhead)
    for _ in range(3):
        optimizer.zero_grad()
        net().backward()
        optimizer.step()
    assert json.loads(json.dumps(probe.records))[2] == probe.records[2]
    lines = str(probe).splitlines()
    assert lines[0].startswith("step 3  ") and "product 0.1" in lines[0]
    assert lines[1].split() == [
        "layer",
        "size",
        "error",
        "dual",
        "turn",
        "gain",
        "bend",
        "overshoot",
    ]
    assert lines[2].split()[0] == "w" and len(lines) == 3


@QUIET
def test_the_table_shows_the_newest_of_what_is_seldom_measured():
    net = Bowl([1.0, 0.5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    probe = Probe(net, optimizer, value)
    for _ in range(3):
        optimizer.zero_grad()
        net().backward()
        optimizer.step()
    first, heads, layer = str(probe).splitlines()
    assert first.startswith("step 3  size ") and "product 0.1 (step 1)" in first
    assert first.count("(step 3)") == 0 and "error" in first.split("(step")[0]
    assert {"size", "error", "dual", "turn"} <= {*heads.split()}
    assert "nan" not in layer
    assert 0 < probe.overhead < math.inf
    probe.clear()
    assert probe.records == []
    probe.remove()
    optimizer.step()
    assert probe.records == [] and not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@QUIET
def test_weights_that_are_not_finite_or_do_not_move():
    net = Bowl([1.0, 0.5])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    (row,) = descend(net, optimizer, 1)
    assert row["size"] == 0 and math.isnan(row["error"])
    assert math.isnan(row["product"]) and math.isnan(row["overshoot"])
    with torch.no_grad():
        net.w[0] = math.nan
    (row,) = descend(net, optimizer, 1, parts=["steps", "turn", "penalty"])
    assert math.isnan(row["turn"]) and math.isnan(row["penalty"])


def test_the_fixed_batch_is_one_function_in_spite_of_dropout():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 1)), torch.randn(8, 5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    parts = ["turn", "penalty"]
    with Probe(
        net, optimizer, lambda f: f(x).square().mean(), parts=parts, every=1
    ) as probe:
        for _ in range(3):
            net(x).square().mean().backward()
            optimizer.step()
    assert len({(r["loss"], r["penalty"]) for r in probe.records}) == 1
    assert all(r["fall"] == 0 and r["turn"] == 0 for r in probe.records)
    assert net.training


def test_a_loss_that_is_no_scalar():
    net = Bowl([1.0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Probe(net, optimizer, lambda f: net.w * torch.ones(2)):
        net().backward()
        with pytest.raises(ValueError, match="scalar"):
            optimizer.step()


def test_what_is_refused():
    net = Bowl([1.0])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    wrong = [
        ((net.w, optimizer), {}, TypeError, "model must be"),
        ((net, [net.w]), {}, TypeError, "optimizer must be"),
        ((net, optimizer, 3), {}, TypeError, "loss must be"),
        ((net, optimizer), {"parts": "steps"}, TypeError, "collection"),
        ((net, optimizer), {"parts": ["step"]}, ValueError, "no part 'step'"),
        ((net, optimizer), {"parts": ["turn"]}, ValueError, "needs a loss"),
        ((net, optimizer), {"parts": ["symmetry"]}, ValueError, "needs symmetries"),
        ((net, optimizer), {"every": 0}, ValueError, "positive integer"),
        ((net, optimizer), {"every": True}, ValueError, "positive integer"),
        ((net, optimizer), {"every": {"steps": 1.5}}, ValueError, "positive"),
        ((net, optimizer), {"every": {"stpes": 1}}, ValueError, "no part 'stpes'"),
    ]
    for args, options, error, text in wrong:
        with pytest.raises(error, match=text):
            Probe(*args, **options)
    assert not optimizer._optimizer_step_pre_hooks
