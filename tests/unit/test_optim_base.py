"""What the shared base does for every optimizer."""

import copy
import io

import pytest
import torch
from torch import Tensor

from anthology.linalg import decompositions
from anthology.norms import metrize
from anthology.optim import AdamW, BaseOptimizer, Lion, Rule, SteepestDescent
from anthology.optim.core import batch
from anthology.optim.core import dispatch as gather
from anthology.optim.parts import arithmetic as passes
from anthology.testing import contract


def average(param, group):
    return {"exp_avg": torch.zeros_like(param)}


def descend_by_signs(param, grad, state, step, group):
    state["exp_avg"].lerp_(grad, 1 - group["beta"])
    param.sub_(state["exp_avg"].sign() * group["lr"])


class Tiny(BaseOptimizer):
    """All that a new optimizer needs: here sign descent on an average."""

    rule = Rule(descend_by_signs, new_state=average)

    def __init__(self, params, lr=0.01, beta=0.5, maximize=False):
        super().__init__(params, {"lr": lr, "beta": beta, "maximize": maximize})


def test_a_new_optimizer_is_ten_lines_and_keeps_the_contract():
    contract(Tiny).raise_if_failed()


def trained(shapes, poison, kind=AdamW, steps=6, **options):
    """Parameters and optimizer after some steps, one gradient of which is bad."""
    torch.manual_seed(3)
    params = [torch.randn(s).requires_grad_() for s in shapes]
    optimizer = kind(params, **options)
    for k in range(steps):
        for i, p in enumerate(params):
            p.grad = torch.randn(p.shape)
            if k == 3 and i in poison:
                p.grad.view(-1)[-1] = poison[i]
        optimizer.step()
    return params, optimizer


ENTRYWISE = [
    (AdamW, {"lr": 0.1}),
    (AdamW, {"lr": 0.1, "amsgrad": True, "foreach": False}),
    (AdamW, {"lr": 0.1, "fused": True}),
]
KINDS = [
    *ENTRYWISE,
    (SteepestDescent, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    (SteepestDescent, {"lr": 0.1, "momentum": 0.9, "step": "steepest"}),
    (SteepestDescent, {"lr": 0.1, "momentum": 0.9, "across": "l2"}),
]
SHAPES = [(4, 3), (5,), (), (2, 3)]


@pytest.mark.parametrize(("kind", "options"), KINDS[3:])
def test_a_bad_tensor_is_left_as_if_it_had_no_gradient(kind, options):
    """Parameter, state and counters; the others move as if it were not there."""
    bad = {0: float("nan"), 2: float("inf")}
    params, optimizer = trained(SHAPES, bad, kind, **options)
    torch.manual_seed(3)
    others = [torch.randn(s).requires_grad_() for s in SHAPES]
    reference = kind(others, **options)
    for k in range(6):
        for i, p in enumerate(others):
            p.grad = torch.randn(p.shape)
            if k == 3 and i in bad:
                p.grad = None
        reference.step()
    for p, q in zip(params, others, strict=True):
        assert torch.equal(p, q)
        for name, value in reference.state[q].items():
            if name != "skipped":
                assert torch.equal(optimizer.state[p][name], value)
    assert optimizer.skipped == {"0.0": 1, "0.2": 1}
    assert reference.skipped == {}


@pytest.mark.parametrize(
    ("kind", "options"), [*ENTRYWISE, (Lion, {"decay": "cautious"})]
)
@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("bad", [float("nan"), float("-inf"), 3e38])
def test_a_bad_entry_is_left_alone(kind, options, free, bad, monkeypatch):
    """Parameter and state, where a rule works entry by entry; the others do not see."""
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: free)
    runs = [trained(SHAPES, {0: x, 2: x}, kind, **options) for x in (bad, 1.0)]
    for i, (p, q) in enumerate(zip(*(params for params, _ in runs), strict=True)):
        lists = [(p, q)]
        there, here = runs[0][1].state[p], runs[1][1].state[q]
        assert there["step"] == here["step"]
        lists += [
            (x, here[k]) for k, x in there.items() if k not in ("step", "skipped")
        ]
        for x, y in lists:
            same = x == y
            assert bool(same.view(-1)[:-1].all())
            assert bool(same.view(-1)[-1]) == (i not in (0, 2))
    assert runs[0][1].skipped == {"0.0": 1, "0.2": 1}

    # the entry itself: as if this step had not been
    w = torch.tensor([1.0, 2.0]).requires_grad_()
    optimizer = kind([w], weight_decay=0.5, **options)
    for last in (0.3, bad, 0.3):
        before = [
            w.detach().clone(),
            {k: x.clone() for k, x in optimizer.state[w].items()},
        ]
        w.grad = torch.tensor([1.0, last])
        optimizer.step()
        after = optimizer.state[w]
        still = [w[1] == before[0][1]]
        still += [after[k][1] == x[1] for k, x in before[1].items() if x.dim()]
        assert all(still) == any(still[1:]) == (last is bad)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("bad", [{}, {1: float("nan")}, {0: 1e38, 3: float("-inf")}])
def test_the_device_path_does_the_same(kind, options, bad, monkeypatch):
    """Selecting afterwards (where flags cannot be read) equals taking out before."""
    params, optimizer = trained(SHAPES, bad, kind, **options)
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    monkeypatch.setattr(gather, "DEVICE_BATCH", 13)
    others, masked = trained(SHAPES, bad, kind, **options)
    assert masked.skipped == optimizer.skipped
    for p, q in zip(params, others, strict=True):
        assert torch.allclose(p, q, rtol=5e-7, atol=5e-7)
        assert optimizer.state[p]["step"] == masked.state[q]["step"]


def test_the_device_path_never_reads_from_the_device(monkeypatch):
    """No .item(), bool() or tolist() on the way: each would make the host wait."""

    def forbidden(self, *args):
        raise AssertionError("a step read a number back")

    lr = torch.tensor(0.1)
    for kind, options in KINDS[:2] + KINDS[3:]:
        p = torch.ones(4, 3).requires_grad_()
        optimizer = kind([p], **{**options, "lr": lr, "foreach": None})
        p.grad = torch.randn(4, 3)
        p.grad[0, 0] = float("nan")
        with monkeypatch.context() as patch:
            patch.setattr(batch, "reads_flags_for_free", lambda device: False)
            # a decomposition waits for its device, whoever reads what it returns
            patch.setattr(decompositions, "untraced", lambda x: False)
            for name in ("item", "__bool__", "__float__", "__int__", "tolist"):
                patch.setattr(Tensor, name, forbidden)
            optimizer.step()
        assert optimizer.skipped == {"0.0": 1}


def test_skipped_tensors_have_their_names():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = AdamW(model.named_parameters())
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        model[1].weight.grad[0, 0] = float("nan")
        optimizer.step()
    assert optimizer.skipped == {"1.weight": 2}
    state = optimizer.state_dict()
    again = AdamW(model.named_parameters())
    again.load_state_dict(state)
    assert again.skipped == {"1.weight": 2}


def test_nothing_changes_when_a_gradient_is_sparse():
    first, second = torch.ones(4, 3), torch.ones(5, 3)
    p, q = first.clone().requires_grad_(), second.clone().requires_grad_()
    optimizer = AdamW([{"params": [p]}, {"params": [q]}])
    p.grad, q.grad = torch.randn(4, 3), torch.randn(5, 3).to_sparse()
    with pytest.raises(RuntimeError, match="AdamW does not support sparse gradients"):
        optimizer.step()
    assert torch.equal(p, first)
    assert not optimizer.state


def test_groups_that_users_hold_are_not_modified():
    group = {"params": [torch.ones(3).requires_grad_()], "lr": 0.5}
    before = dict(group)
    AdamW([group])
    assert group == before
    groups = metrize(torch.nn.Linear(3, 2))
    kept = [dict(g) for g in groups]
    SteepestDescent(groups, lr=0.1)
    SteepestDescent(groups, lr=0.2)
    assert [g.keys() for g in groups] == [g.keys() for g in kept]


def test_eager_state_is_the_lazy_one():
    p, q = torch.ones(4, 3).requires_grad_(), torch.ones(4, 3).requires_grad_()
    eager, lazy = AdamW([p], amsgrad=True), AdamW([q], amsgrad=True)
    eager.create_state()
    assert set(eager.state[p]) == {
        "step",
        "skipped",
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
    }
    for optimizer, x in ((eager, p), (lazy, q)):
        x.grad = torch.full((4, 3), 0.3)
        optimizer.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_narrow_parameters_keep_float32_state_through_a_file(narrow):
    p = torch.randn(4, 3).to(narrow).requires_grad_()
    optimizer = AdamW([p], lr=0.1)
    p.grad = torch.randn(4, 3).to(narrow)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    q = p.detach().clone().requires_grad_()
    resumed = AdamW([q])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for name, value in optimizer.state[p].items():
        assert resumed.state[q][name].dtype == torch.float32
        assert torch.equal(resumed.state[q][name], value)
    assert resumed.param_groups[0]["lr"] == 0.1


def test_loading_runs_the_users_hooks_and_refuses_what_does_not_fit():
    p = torch.ones(4, 3).requires_grad_()
    optimizer = AdamW([p])
    p.grad = torch.randn(4, 3)
    optimizer.step()
    seen = []
    other = AdamW([torch.ones(4, 3).requires_grad_()])

    def double(_, state_dict):
        state_dict = copy.deepcopy(state_dict)
        state_dict["state"][0]["exp_avg"] *= 2
        return state_dict

    other.register_load_state_dict_pre_hook(double)
    other.register_load_state_dict_post_hook(lambda _: seen.append("after"))
    other.load_state_dict(optimizer.state_dict())
    (state,) = other.state.values()
    assert torch.equal(state["exp_avg"], 2 * optimizer.state[p]["exp_avg"])
    assert seen == ["after"]
    with pytest.raises(ValueError, match="doesn't match the size"):
        AdamW([p, torch.ones(2)]).load_state_dict(optimizer.state_dict())
    assert len(other._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate", [0.1, [0.3, 0.3], [0.3, 0.7]])
def test_passes_over_lists_do_what_one_operation_a_tensor_does(dtype, rate):
    """To the last bit, however a number reaches the tensors."""
    xs = [torch.randn(5, 3, dtype=dtype), torch.randn(7, dtype=dtype)]
    rates = rate if isinstance(rate, list) else [rate] * 2
    for run, compute in (
        (passes.scale, torch.mul),
        (passes.divide, torch.div),
        (passes.shift, torch.add),
    ):
        if run is passes.shift and isinstance(rate, list):
            continue
        found = [x.clone() for x in xs]
        run(found, rate)
        for x, y, r in zip(found, xs, rates, strict=True):
            assert torch.equal(x, compute(y, r))


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("foreach", [True, False])
def test_a_gradient_may_be_as_large_as_its_limit(count, foreach):
    """The bound on several small tensors must not skip what is still finite."""
    largest = torch.finfo(torch.float32).max / 2
    params = [torch.zeros(40).requires_grad_() for _ in range(count)]
    for p in params:
        p.grad = torch.full((40,), largest)
    Lion(params, 0.1, foreach=foreach).step()
    assert all(bool((p == -0.1).all()) for p in params)
    params[0].grad[7] *= 1.001
    optimizer = Lion(params, 0.1, foreach=foreach)
    optimizer.step()
    assert optimizer.skipped == {"0.0": 1}
