"""What a checkpoint may be: early, partial, old, of torch, switched since, copied."""

import copy
import gc
import io
import weakref
from itertools import pairwise

import pytest
import torch
from torch.nn import Parameter

from anthology import optim
from anthology.norms import metrize
from tests.checkpoint_cases import (
    SHAPES,
    changed,
    checkpoints,
    every,
    made,
    nameless,
    params_of,
    refused,
    same,
    train,
)


@pytest.fixture(scope="module")
def saved():
    return checkpoints()


@every
def test_a_state_that_only_some_have_is_loaded(kind):
    first = made(kind)
    some = params_of(first)[::2]
    train(first, params=some)
    second = made(kind, copy.deepcopy(params_of(first)))
    second.load_state_dict(first.state_dict())
    train(first, 6)
    train(second, 6)
    assert same(params_of(first), params_of(second))


@every
def test_state_made_early_and_no_state_are_loaded(kind):
    for early in (True, False):
        first = made(kind)
        if early:
            first.create_state()
        second = train(made(kind), 7, 2)
        params = [p.detach().clone() for p in params_of(first)]
        second.load_state_dict(first.state_dict())
        with torch.no_grad():
            for p, start in zip(params_of(second), params, strict=True):
                p.copy_(start)
        train(first, 8)
        train(second, 8)
        assert same(params_of(first), params_of(second)), early


@every
def test_older_checkpoints_without_a_class_or_a_count_are_loaded(saved, kind):
    older = changed(
        nameless(saved[kind.__name__]),
        lambda _, x: {n: v for n, v in x.items() if n != "skipped"},
    )
    for group in older["param_groups"]:
        group = {k: v for k, v in group.items() if k != "rounding"}
    optimizer = made(kind)
    optimizer.load_state_dict(older)
    known = saved[kind.__name__]["state"]
    for key, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            expected = known[key][name] * (name != "skipped")
            assert torch.equal(value, expected)


@every
def test_what_a_user_keeps_in_the_state_comes_back(kind):
    optimizer = made(kind)
    first = params_of(optimizer)[0]
    optimizer.state[first]["note"] = "before the first step"
    train(optimizer)
    optimizer.state[first]["seen"] = torch.ones(2)
    optimizer.state["run"] = {"name": "x"}
    other = made(kind)
    other.load_state_dict(optimizer.state_dict())
    kept = other.state[params_of(other)[0]]
    assert kept["note"] == "before the first step"
    assert torch.equal(kept["seen"], torch.ones(2))
    assert other.state["run"] == {"name": "x"}
    train(optimizer, 9)
    train(other, 9)


@every
def test_a_user_s_subclass_goes_to_and_fro(saved, kind):
    class Mine(kind):
        pass

    mine = made(Mine)
    mine.load_state_dict(saved[kind.__name__])
    assert mine.state_dict()["saved_by"][:2] == ["Mine", kind.__name__]
    made(kind).load_state_dict(train(mine).state_dict())


@every
def test_deep_copies_go_on_bit_for_bit(kind):
    for fused in (None, *["compile"] * (kind is optim.Prodigy)):
        options = {} if fused is None else {"fused": fused}
        torch.manual_seed(0)
        shapes = (*SHAPES, (4, 3), (3,), (4, 3), (200, 100))
        params = [Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = train(made(kind, params, **options), 1, 4)
        twin = copy.deepcopy(optimizer)
        again = copy.deepcopy(twin)
        for x in (optimizer, twin, again):
            train(x, 2, 4)
            assert same(params_of(x), params_of(optimizer))


@every
def test_tensors_of_a_checkpoint_share_no_memory(saved, kind):
    optimizer = made(kind)
    optimizer.load_state_dict(saved[kind.__name__])
    train(optimizer)
    entries = [
        x for state in optimizer.state_dict()["state"].values() for x in state.values()
    ]
    ranges = sorted(
        (x.data_ptr(), x.data_ptr() + x.nbytes) for x in entries if x.nbytes
    )
    assert all(end <= start for (_, end), (start, _) in pairwise(ranges))


@every
def test_a_group_that_was_taken_out_is_let_go(kind):
    gc.freeze()  # what was there before need not be looked through
    torch.manual_seed(0)
    params = [Parameter(torch.randn(shape)) for shape in (*SHAPES, *SHAPES)]
    halves = [{"params": params[:3]}, {"params": params[3:]}]
    optimizer = train(made(kind, halves))
    count = len(optimizer.param_groups) // 2
    gone = optimizer.param_groups[count:]
    dead = [weakref.ref(p) for g in gone for p in g["params"]]
    entries = [weakref.ref(optimizer.state[p()][n]) for p in dead for n in ("step",)]
    for p in dead:
        del optimizer.state[p()]
    del optimizer.param_groups[count:], gone, halves, params, p
    train(optimizer)
    gc.collect()
    gc.unfreeze()
    assert all(x() is None for x in (*dead, *entries))


TORCH = [
    (torch.optim.Adam, optim.Adam, {}),
    (torch.optim.Adam, optim.Adam, {"amsgrad": True}),
    (torch.optim.Adam, optim.Adam, {"foreach": True}),
    (torch.optim.Adam, optim.Adam, {"lr": torch.tensor(1e-3)}),
    (torch.optim.AdamW, optim.AdamW, {"weight_decay": 0.1}),
    (torch.optim.AdamW, optim.Adam, {"weight_decay": 0.0}),
    (torch.optim.Adam, optim.AdamW, {"weight_decay": 0.0}),
    (torch.optim.SGD, optim.SGD, {"lr": 0.1}),
    (torch.optim.SGD, optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    (torch.optim.SGD, optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (torch.optim.SGD, optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
]
if hasattr(torch.optim, "Muon"):  # since 2.9
    TORCH += [
        (torch.optim.Muon, optim.Muon, {"lr": 0.02}),
        (torch.optim.Muon, optim.Muon, {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"}),
    ]


@pytest.mark.parametrize("way", ["in", "out"])
@pytest.mark.parametrize(("theirs", "ours", "options"), TORCH)
def test_checkpoints_go_into_torch_and_come_from_there(theirs, ours, options, way):
    torch.manual_seed(0)
    shapes = SHAPES[:2] if ours is optim.Muon else SHAPES
    params = [Parameter(torch.randn(shape)) for shape in shapes]
    kinds = (theirs, ours) if way == "in" else (ours, theirs)
    first = train(kinds[0](params, **options))
    second = kinds[1](copy.deepcopy(params), **{**options, "lr": 1.0})
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    train(first, 2)
    train(second, 2)
    muon = ours is optim.Muon  # torch multiplies in bfloat16
    tol = 1e-2 if muon else 1e-6
    for p, q in zip(params_of(first), params_of(second), strict=True):
        assert torch.allclose(p, q, rtol=tol, atol=tol)
    if theirs.__name__ == ours.__name__:
        back = kinds[0](copy.deepcopy(params), **options)
        back.load_state_dict(second.state_dict())
        train(back, 3)


def test_muon_s_checkpoint_goes_to_torch_only_where_the_step_is_the_same():
    matrix = [Parameter(torch.ones(4, 3))]
    for options in ({"method": "svd"}, {"kernel": "stack"}, {"adjust_lr_fn": None}):
        group = made(optim.Muon, matrix, **options).state_dict()["param_groups"][0]
        assert ("ns_coefficients" in group) == ("adjust_lr_fn" in options)


def test_a_muon_checkpoint_without_a_rule_takes_that_of_its_entries():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    for state in (True, False):
        first = optim.Muon(metrize(model), lr=0.02)
        rules = [group["rule"] for group in first.param_groups]
        if state:
            train(first)
        checkpoint = first.state_dict()
        for group in checkpoint["param_groups"]:
            del group["rule"]
        second = optim.Muon(metrize(model), lr=0.02)
        second.load_state_dict(checkpoint)
        assert [group["rule"] for group in second.param_groups] == rules
        train(second)
    vector = [Parameter(torch.ones(3))]
    bias = optim.Muon(vector)
    checkpoint = train(torch.optim.SGD([Parameter(torch.ones(3))], momentum=0.9))
    refused(bias, checkpoint.state_dict(), "rule='muon' needs at least two axes")


def test_another_rule_is_told_by_parameter():
    first = train(optim.Muon([{"params": [Parameter(torch.ones(4, 3))]}]))
    checkpoint = first.state_dict()
    checkpoint["param_groups"][0]["rule"] = "adamw"
    refused(made(optim.Muon, [Parameter(torch.ones(4, 3))]), checkpoint, "0.0: exp_avg")


@pytest.mark.parametrize(
    ("kind", "off", "on"),
    [
        (optim.SGD, {"momentum": 0.0}, {"momentum": 0.9}),
        (optim.SGD, {"momentum": 0.9}, {"momentum": 0.9, "dampening": 0.5}),
        (optim.Signum, {"momentum": 0.0}, {"momentum": 0.9}),
        (optim.SteepestDescent, {"momentum": 0.0}, {"momentum": 0.9}),
        (optim.Scion, {"momentum": 0.0}, {"momentum": 0.9}),
        (optim.FreeSteepestDescent, {"momentum": 0.0}, {"momentum": 0.9}),
        (optim.FreeSteepestDescent, {"beta3": 0.0}, {"beta3": 0.9}),
        (optim.FreeSteepestDescent, {}, {"growth_rate": 2.0}),
        (optim.Prodigy, {"beta3": 0.0}, {"beta3": 0.9}),
        (optim.Prodigy, {}, {"growth_rate": 2.0}),
        (optim.Adam, {"amsgrad": False}, {"amsgrad": True}),
        (optim.Shampoo, {"betas": (0.0, 0.9)}, {"betas": (0.9, 0.9)}),
        (optim.Shampoo, {"refresh": 1}, {"refresh": 3}),
        (optim.KrADagrad, {"refresh": 1}, {"refresh": 3}),
        (optim.SOAP, {"refresh": 1}, {"refresh": 10}),
    ],
)
def test_what_was_switched_since_the_last_step_is_loaded(kind, off, on):
    for before, after in ((off, on), (on, off)):
        first = train(made(kind, **before))
        checkpoint = first.state_dict()
        for group in checkpoint["param_groups"]:
            group.update(after)
        second = made(kind, copy.deepcopy(params_of(first)), **before)
        second.load_state_dict(checkpoint)
        train(second, 2)
        assert all(bool(p.isfinite().all()) for p in params_of(second))
        if "growth_rate" in on:
            assert second.d >= first.d  # the estimate never shrinks
