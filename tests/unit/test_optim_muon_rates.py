"""The two rates of Muon: what a schedule, a group and a checkpoint make of them."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler, swa_utils

from anthology.norms import metrize
from anthology.optim import AdamW, functional
from anthology.optim import Muon as Measured
from tests.random_steps import train


def Muon(params, lr=1e-3, **options):
    """With AdamW's rate as published, 3e-4, from which the figures below follow."""
    return Measured(params, lr, **{"adamw_lr": 3e-4, **options})


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).double()


def ratio(optimizer):
    """That of the two rates, the same in all groups."""
    muon = {r["muon"] for r in optimizer.rates if "muon" in r}
    adamw = {r["adamw"] for r in optimizer.rates if "adamw" in r}
    (one,), (other,) = muon, adamw
    return float(other) / float(one)


def cycled(optimizer):
    return lr_scheduler.CyclicLR(optimizer, 1e-3, 0.05, 3, cycle_momentum=False)


def once(optimizer, highest):
    return lr_scheduler.OneCycleLR(
        optimizer, highest, total_steps=12, cycle_momentum=False
    )


SCHEDULES = {
    "OneCycleLR": lambda o: once(o, 0.02),
    "OneCycleLR of lists": lambda o: once(o, [0.02] * len(o.param_groups)),
    "CyclicLR": cycled,
    "SWALR": lambda o: swa_utils.SWALR(o, 0.05, anneal_epochs=5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 1e-3),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("grouped", [True, False])
def test_both_rates_keep_their_ratio_under_every_schedule(schedule, grouped):
    """Against two optimizers of torch's kind, each with its rate written by hand."""
    model = network()
    twin = copy.deepcopy(model)
    params, others = list(model.parameters()), list(twin.parameters())
    optimizer = Muon(metrize(model) if grouped else params, lr=0.02)
    head = others[2] if grouped else others[1]
    elementwise = [others[1], others[3], head] if grouped else [others[1], others[3]]
    matrices = [p for p in others if all(p is not q for q in elementwise)]
    byhand = AdamW(elementwise, 3e-4, (0.9, 0.95), 1e-10, 0.1)
    plain = Muon(matrices, lr=0.02)
    steps = SCHEDULES[schedule](optimizer)
    torch.manual_seed(5)
    for _ in range(9):
        (lr,) = {group["lr"] for group in optimizer.param_groups}
        byhand.param_groups[0]["lr"] = 3e-4 * lr / 0.02
        plain.param_groups[0]["lr"] = lr
        assert ratio(optimizer) == pytest.approx(3e-4 / 0.02)
        for p, q in zip(params, others, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for each in (optimizer, byhand, plain):
            each.step()
        steps.step()
    for p, q in zip(params, others, strict=True):
        assert float((p - q).detach().abs().max()) < 1e-12


def test_a_list_as_long_as_the_groups_given_is_taken():
    optimizer = Muon(network().parameters(), lr=0.02)
    lr_scheduler.OneCycleLR(optimizer, max_lr=[0.02], total_steps=10)
    assert len(optimizer.param_groups) == 1
    model = network()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters()}]
    optimizer = Muon(groups, lr=0.02)
    lr_scheduler.OneCycleLR(optimizer, max_lr=[0.02, 0.01], total_steps=10)
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    assert sizes == [2, 2]


def test_a_group_may_choose_its_rule_and_rates():
    shapes = [(4, 3), (4,), (9, 4), (5,), (3, 3)]
    matrix, bias, table, gain, last = (torch.zeros(s).requires_grad_() for s in shapes)
    optimizer = Muon(
        [
            {"params": [matrix, bias], "lr": 0.5, "adamw_lr": 0.25},
            {"params": [table], "rule": "adamw", "lr": 0.125},
            {"params": [gain], "adamw_lr": 0.5},
            {"params": [last], "lr": 2.0},
        ],
        lr=1.0,
    )
    expected = [{"muon": 0.5, "adamw": 0.25}, {"adamw": 0.125}, {"adamw": 0.5}]
    expected += [{"muon": 2.0}]
    assert optimizer.rates == expected
    schedule = lr_scheduler.LambdaLR(optimizer, lambda k: 0.5**k)
    train(optimizer, [matrix, bias, table, gain, last], 1)
    schedule.step()
    halved = [{rule: lr / 2 for rule, lr in rates.items()} for rates in expected]
    assert optimizer.rates == halved
    rows = [line.split() for line in str(optimizer).splitlines()]
    assert [row[4] for row in rows] == ["0.25", "0.125", "0.0625", "0.25", "1"]


@pytest.mark.parametrize("lr", [0.0, torch.tensor(0.0), torch.zeros(1)])
@pytest.mark.parametrize("alone", [True, False])
def test_a_rate_of_zero_has_no_ratio_and_moves_nothing(lr, alone):
    """The ratio is that to the default lr; of a group of AdamW alone it is one."""
    matrix, bias = torch.ones(4, 3).requires_grad_(), torch.ones(4).requires_grad_()
    group = {"params": [bias]} if alone else {"params": [matrix, bias], "adamw_lr": 0.5}
    optimizer = Muon([{**group, "lr": lr}] if alone else [group], lr=lr)
    train(optimizer, [matrix, bias], 2)
    assert (matrix == 1).all() and (bias == 1).all()
    optimizer.param_groups[0]["lr"] = 2e-3
    rate = optimizer.rates[0]["adamw"]
    assert rate == pytest.approx(2e-3 if alone else 1.0)
    train(optimizer, [matrix, bias], 1)
    assert bias.isfinite().all() and (bias != 1).all()


@pytest.mark.parametrize("lr", [1e-300, 5e-324, 1e300])
def test_extreme_rates_are_what_they_say(lr):
    p = torch.zeros(3, dtype=torch.float64).requires_grad_()
    assert Muon([p], lr=lr).rates == [{"adamw": 3e-4}]


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("foreach", [True, False])
def test_rates_that_are_tensors(shape, foreach):
    """In place too, as for a CUDA graph: the reference does not move with lr."""
    params = [torch.ones(4, 3).requires_grad_(), torch.ones(4).requires_grad_()]
    others = [p.detach().clone().requires_grad_() for p in params]
    lr, rate = torch.full(shape, 0.5), torch.full((1,), 0.25)
    options = {"foreach": foreach, "method": "cubic"}
    optimizer = Muon(params, lr=lr, adamw_lr=rate, **options)
    plain = Muon(others, lr=0.5, adamw_lr=0.25, **options)
    for factor in (1.0, 0.5, 0.125):
        lr.fill_(0.5 * factor)
        plain.param_groups[0]["lr"] = 0.5 * factor
        (rates,) = optimizer.rates
        assert float(rates["muon"]) == 0.5 * factor
        assert float(rates["adamw"]) == 0.25 * factor
        train(optimizer, params, 2)
        train(plain, others, 2)
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)


def test_gradients_with_respect_to_both_rates():
    """η of one rule does not move the tensors of the other."""
    rates = [torch.tensor(x, requires_grad=True) for x in (0.5, 0.25)]
    params = {"w": torch.eye(2), "b": torch.ones(2)}
    grads = {"w": torch.eye(2), "b": torch.ones(2)}
    for _ in range(2):  # the graph of a step is its own
        pure = functional.muon(
            lr=rates[0],
            adamw_lr=rates[1],
            weight_decay=0.0,
            method="cubic",
            differentiable=True,
        )
        new, _ = pure.update(params, grads, pure.init(params))
        by_bias = torch.autograd.grad(new["b"].sum(), rates, retain_graph=True)
        by_matrix = torch.autograd.grad(
            new["w"].sum(), rates, allow_unused=True, materialize_grads=True
        )
        assert [float(x) for x in by_bias] == pytest.approx([0.0, -2.0])
        assert float(by_matrix[0]) < -0.5
        assert float(by_matrix[1]) == 0


def test_functional_takes_both_rates_of_a_schedule():
    params = {"w": torch.eye(2), "b": torch.ones(2)}
    grads = {"w": torch.eye(2), "b": torch.ones(2)}
    pure = functional.muon(lr=0.5, adamw_lr=0.25, weight_decay=0.0)
    state = pure.init(params)

    def bias(**changes):
        return float(1 - pure.update(params, grads, state, **changes)[0]["b"][0])

    assert bias() == pytest.approx(0.25)
    assert bias(lr=0.25) == pytest.approx(0.125)
    assert bias(lr=0.25, adamw_lr=0.5) == pytest.approx(0.25)


def test_a_checkpoint_without_rules_is_read_by_shape():
    model = network()
    optimizer = Muon(model.parameters(), 0.02)
    train(optimizer, list(model.parameters()), 2)
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        for name in ("adamw_at", "adamw_lr", "adamw_betas", "adamw_eps"):
            del group[name]
    other = Muon(model.parameters(), 0.02)
    other.load_state_dict(saved)
    assert other.rates == [{"muon": 0.02, "adamw": 3e-4}]
    train(other, list(model.parameters()), 1)


@pytest.mark.parametrize("where", ["first", "last", "only"])
def test_an_empty_group_is_no_rule_of_its_own(where):
    empty = {"params": []}
    full = {"params": list(network().parameters())}
    groups = {"first": [empty, full], "last": [full, empty], "only": [empty]}[where]
    optimizer = Muon(groups, 0.02)
    train(optimizer, full["params"], 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert optimizer.rates[groups.index(empty)] == {}
    assert len(str(optimizer).splitlines()) == (0 if where == "only" else 4)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16, torch.float64])
def test_in_one_group_each_tensor_keeps_the_state_of_its_rule(dtype):
    """A complex vector is seen as pairs, of two axes, and is none the less no matrix."""
    shapes = [(4, 3), (4,), (), (0, 3), (2, 3, 2, 2)]
    params = [torch.ones(s, dtype=dtype).requires_grad_() for s in shapes]
    optimizer = Muon(params, 0.02)
    optimizer.create_state()
    kept = {"momentum_buffer"}, {"exp_avg", "exp_avg_sq"}
    for p in params:
        entries = kept[p.ndim < 2]
        assert set(optimizer.state[p]) == {"step", "skipped"} | entries
        assert all(optimizer.state[p][name].shape == p.shape for name in entries)
    train(optimizer, params, 2)
    copies = [p.detach().clone().requires_grad_() for p in params]
    other = Muon(copies, 0.5)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, 2, seed=4)
    train(other, copies, 2, seed=4)
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


def test_groups_may_be_handed_to_another_optimizer():
    model = network()
    optimizer = Muon(metrize(model), 0.02)
    lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=9)
    other = Muon([dict(group) for group in optimizer.param_groups], 0.5)
    assert other.rates == optimizer.rates


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_reference_that_is_none_is_refused(value):
    group = {"params": [torch.zeros(3)], "lr": 0.1, "adamw_at": value}
    with pytest.raises(ValueError, match="must be positive"):
        Muon([group])
