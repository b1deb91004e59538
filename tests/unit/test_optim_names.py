"""Names: all groups of an optimizer carry them or none does, and who stands still."""

import copy
import warnings

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.norms import metrize
from anthology.optim.core.names import named
from anthology.optim.core.watch import LONG
from tests.device_cases import OURS
from tests.examples import EXAMPLES

KINDS = {name: example.make() for name, example in EXAMPLES.items()}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def weight(*shape):
    return torch.ones(*(shape or (3, 4))).requires_grad_()


def unnamed_after_named(kind):
    kind([*metrize(network()), {"params": [weight()]}])


def named_after_unnamed(kind):
    optimizer = kind([weight()])
    before = copy.deepcopy(optimizer.state_dict())
    try:
        optimizer.add_param_group({"params": [("extra", weight())]})
    finally:
        assert optimizer.state_dict() == before


def half_named(kind):
    kind([("one", weight()), weight()])


def too_few_names(kind):
    kind([{"params": [weight(), weight()], "param_names": ["one"]}])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (
            unnamed_after_named,
            r"without names.*Give this group their names, as \('name'",
        ),
        (named_after_unnamed, r"with names.*Give the others their names, as \('name'"),
        (half_named, r"1 of 2 tensors have one\. Give all their names"),
        (too_few_names, "1 names for 2 parameters; give one for each"),
    ],
)
def test_who_names_some_and_not_others_is_told_the_cure(name, attempt, said):
    with pytest.raises(ValueError, match=said):
        attempt(KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_the_cure_is_one(name):
    for extra in (
        {"params": [("extra", weight())]},
        {"params": [weight()], "param_names": ["extra"]},
    ):
        optimizer = KINDS[name]([*metrize(network()), extra])
        assert optimizer.param_groups[-1]["param_names"] == ["extra"]


@pytest.mark.parametrize("with_names", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_groups_without_parameters_follow_the_others(name, with_names):
    item = ("one", weight()) if with_names else weight()
    optimizer = KINDS[name]([{"params": []}, {"params": [item]}, {"params": []}])
    found = [group.get("param_names") for group in optimizer.param_groups]
    assert found == ([[], ["one"], []] if with_names else [None] * 3)
    p = optimizer.param_groups[1]["params"][0]
    for _ in range(3):
        p.grad = torch.randn_like(p)
        optimizer.step()
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(optimizer.state_dict())
    assert repr(twin) and isinstance(str(twin), str)
    assert twin.param_groups[2]["params"] == []
    assert not torch.equal(p.detach(), torch.ones(3, 4)) or optimizer.warmup_steps


def stepped(optimizer, bad, steps):
    """The warnings of so many steps in which some tensors have no finite gradient."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            for name, p in named(optimizer.param_groups):
                p.grad = torch.full_like(p, torch.nan if name in bad else 0.1)
            optimizer.step()
    return [w for w in caught if "no finite gradient" in str(w.message)]


@pytest.mark.parametrize("name", OURS)
def test_who_is_skipped_for_long_is_named_once(name):
    torch.manual_seed(0)
    params = [("good", weight(4, 3)), ("bad", weight(4, 3)), ("worse", weight(3, 5))]
    optimizer = OURS[name](params)
    assert not stepped(optimizer, {"bad", "worse"}, LONG - 5)
    assert not stepped(optimizer, {}, LONG)
    (said,) = stepped(optimizer, {"bad", "worse"}, 2 * LONG)
    assert "still: bad, worse. " in str(said.message)
    assert said.filename == __file__
    assert not stepped(optimizer, {"good", "bad", "worse"}, 3 * LONG), "once"


@pytest.mark.parametrize("fused", [None, True, "compile"])
def test_fifty_in_a_row_from_the_first_step(fused):
    optimizer = optim.AdamW([weight() for _ in range(8)], fused=fused)
    (said,) = stepped(optimizer, {f"0.{i}" for i in range(8)}, 50)
    assert "0.0, 0.1, 0.2, 0.3, 0.4 and 3 more" in str(said.message)


def test_a_resumed_optimizer_begins_to_count_anew():
    optimizer = optim.SGD([("p", weight())], 0.1)
    assert not stepped(optimizer, {"p"}, LONG)
    saved = optimizer.state_dict()
    other = optim.SGD([("p", weight())], 0.1)
    assert not stepped(other, {}, 3)
    other.load_state_dict(saved)
    assert other.skipped == {"p": LONG}
    assert not stepped(other, {"p"}, LONG - 3)
    assert not stepped(other, {}, 2 * LONG)
    assert stepped(copy.deepcopy(other), {"p"}, 2 * LONG)


def test_state_of_others_is_no_counter():
    p = weight()
    optimizer = optim.SGD([p], 0.1)
    optimizer.state[p]["theirs"] = 1
    assert optimizer.skipped == {}


def test_looking_never_waits_on_a_device():
    """The counters set out, and are read only after their event has passed."""
    from anthology.optim.core import watch

    coming = watch._Counts({}, [])
    coming._events = [type("Event", (), {"query": lambda self: False})()]
    assert not coming.arrived
    optimizer = optim.SGD([("p", weight())], 0.1)
    stepped(optimizer, {}, 1)
    held = optimizer._watch
    held._coming = coming
    assert not stepped(optimizer, {"p"}, LONG - 1)
    assert held._coming is coming, "still on its way"
    coming._events = []
    stepped(optimizer, {}, 1)
    assert held._coming is None
