"""A checkpoint that does not fit is refused by name, and nothing has changed then."""

import pytest
import torch
from torch.nn import Parameter

from anthology import optim
from tests.checkpoint_cases import (
    changed,
    checkpoints,
    content,
    every,
    made,
    nameless,
    params_of,
    refused,
    train,
)
from tests.examples import EXAMPLES

# The same recursion and the same entries; each derives from the other.
ALIKE = [{"Adam", "AdamW"}, {"SteepestDescent", "Scion"}]
# Without a class in the checkpoint only entries are left to tell. These keep the same,
# or, as momenta, differ in size alone; S of the root-free class starts at one.
ALIKE_BY_ENTRIES = [{x.name, other} for x in EXAMPLES.values() for other in x.alike]
ONE_WAY = {("RootFreeAdamW", "Adam"), ("RootFreeAdamW", "AdamW")}


@pytest.fixture(scope="module")
def saved():
    return checkpoints()


@every
def test_the_state_of_another_class_is_refused(saved, kind):
    new = kind.__name__
    for old, checkpoint in saved.items():
        optimizer = train(made(kind), 2, 1)
        if old == new or {old, new} in ALIKE:
            optimizer.load_state_dict(checkpoint)
            train(optimizer, 3, 1)
            assert all(bool(p.isfinite().all()) for p in params_of(optimizer))
        else:
            refused(optimizer, checkpoint, f"{new} cannot load", f"of {old};")


@every
def test_without_a_class_the_entries_decide(saved, kind):
    new = kind.__name__
    for old, checkpoint in saved.items():
        mild = {old, new} in ALIKE_BY_ENTRIES or (old, new) in ONE_WAY
        if old == new or mild or {old, new} in ALIKE:
            made(kind).load_state_dict(nameless(checkpoint))
        else:
            refused(made(kind), nameless(checkpoint), f"{new} cannot load")


@every
def test_an_entry_that_one_tensor_has_lost_is_named(saved, kind):
    checkpoint = saved[kind.__name__]
    for lost, entries in checkpoint["state"].items():
        for name in entries:
            torn = changed(
                checkpoint,
                lambda key, x, lost=lost, name=name: {
                    n: v for n, v in x.items() if (key, n) != (lost, name)
                },
            )
            alone = kind is optim.Muon and lost == 2 and name == "skipped"
            if alone:  # the only tensor of its group: never kept, as by torch
                made(kind).load_state_dict(torn)
            else:
                refused(made(kind), torn, f"{name} is missing")


@every
def test_an_entry_that_all_have_lost_is_named(saved, kind):
    checkpoint = saved[kind.__name__]
    spared = {"skipped"} | set(EXAMPLES[kind.__name__].spared)
    for name in {n for entries in checkpoint["state"].values() for n in entries}:
        torn = changed(
            checkpoint,
            lambda _, x, name=name: {n: v for n, v in x.items() if n != name},
        )
        if name in spared:
            made(kind).load_state_dict(torn)
        else:
            refused(made(kind), torn, f"{name} is missing")


@every
def test_an_entry_of_another_shape_or_kind_is_named(saved, kind):
    checkpoint = saved[kind.__name__]
    for key, entries in checkpoint["state"].items():
        for name, value in entries.items():
            sparse = [value.to_sparse()] if value.ndim else []
            tensors = (value.new_zeros(2, *value.shape), value.to("meta"), *sparse)
            for wrong in (*tensors, "text", {}, [1.0]):
                torn = {
                    **checkpoint,
                    "state": {**checkpoint["state"], key: {**entries, name: wrong}},
                }
                refused(made(kind), torn, name)


@every
def test_a_hyper_parameter_that_no_constructor_takes_is_refused(saved, kind):
    checkpoint = saved[kind.__name__]
    bad = {"lr": float("nan"), "betas": (0.9, 1.5), "momentum": float("nan")}
    for name, value in bad.items():
        if name not in checkpoint["param_groups"][0]:
            continue
        groups = [{**group, name: value} for group in checkpoint["param_groups"]]
        wrong = {**checkpoint, "param_groups": groups}
        refused(train(made(kind), 4, 1), wrong, "group 0", "Invalid")


@every
def test_a_hook_that_raises_leaves_everything_as_it_was(saved, kind):
    def fail(*_):
        raise RuntimeError("mine")

    for register in ("pre_hook", "post_hook"):
        optimizer = train(made(kind), 5, 1)
        getattr(optimizer, f"register_load_state_dict_{register}")(fail)
        before = content(optimizer)
        with pytest.raises(RuntimeError, match="mine"):
            optimizer.load_state_dict(saved[kind.__name__])
        assert content(optimizer) == before


def test_names_are_used_where_they_are_known():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = train(optim.AdamW(model.named_parameters()))
    torn = changed(
        optimizer.state_dict(),
        lambda key, x: {n: v for n, v in x.items() if (key, n) != (2, "exp_avg")},
    )
    refused(optim.AdamW(model.named_parameters()), torn, "1.weight: exp_avg is missing")
    for group in torn["param_groups"]:
        assert "param_names" in group  # and come from the checkpoint if need be
    refused(optim.AdamW(model.parameters()), torn, "1.weight: exp_avg is missing")
    del torn["param_groups"][0]["param_names"]
    refused(optim.AdamW(model.parameters()), torn, "0.2: exp_avg is missing")


def test_what_is_no_state_dict_or_of_another_size_is_refused():
    optimizer = train(made(optim.AdamW))
    known = optimizer.state_dict()
    for wrong in (
        {},
        {"state": {}},
        {**known, "state": []},
        {**known, "param_groups": [{}]},
    ):
        refused(optimizer, wrong, "no state dict of an optimizer", "`param_groups`")
    one = train(made(optim.Lion, [Parameter(torch.ones(2))])).state_dict()
    refused(optimizer, one, "of Lion;", "doesn't match the size", "[1], not [3]")
    two = made(optim.AdamW, [{"params": [Parameter(torch.ones(2))]}] * 1)
    two.add_param_group({"params": [Parameter(torch.ones(2)) for _ in range(2)]})
    refused(optimizer, two.state_dict(), "different number of parameter groups")
    long = changed(optimizer.state_dict(), lambda *_: {"step": 1.0, "x": 1})
    assert "and" not in refused(made(optim.AdamW), long, "exp_avg is missing")[-90:-60]


def test_a_complex_average_is_not_halved():
    real, pairs = (
        made(optim.AdamW, [Parameter(torch.ones(2, dtype=x))])
        for x in (torch.float32, torch.complex64)
    )
    train(pairs)
    refused(real, pairs.state_dict(), "exp_avg is torch.complex64, not torch.float32")
