"""Any optimizer as a map: it takes the real steps, and leaves everything alone."""

import copy
import warnings

import pytest
import torch
from torch import nn

import anthology.optim as ours
from anthology.motion import generator
from anthology.motion.steps.step_map import step_map

TORCH = {
    "SGD": {},
    "Adam": {},
    "AdamW": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {},
    "Adadelta": {},
    "Adamax": {},
    "NAdam": {},
    "RAdam": {},
    "ASGD": {},
    "Rprop": {},
    "Adafactor": {},
}
VARIANTS = [
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "maximize": True, "foreach": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"foreach": True}),
    ("Adam", {"fused": True}),
]
OURS = [
    name
    for name in ours.__all__
    if isinstance(getattr(ours, name), type)
    and issubclass(getattr(ours, name), torch.optim.Optimizer)
    and name != "BaseOptimizer"
]
NEED_BATCH_SIZE = ("RootFreeRMSProp", "RootFreeAdamW", "SIRFShampoo")


def network(width=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2)).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 2).double()
    return model, lambda: nn.functional.mse_loss(model(x), y)


def with_closure(model, loss, make):
    optimizer = make(list(model.parameters()))

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return optimizer, closure


def built(make):
    return with_closure(*network(), make)


def sgd(parameters, **settings):
    return torch.optim.SGD(parameters, lr=0.05, **settings)


def of_torch(name, settings):
    return lambda p: getattr(torch.optim, name)(p, lr=0.01, **settings)


def of_ours(name):
    extra = {"batch_size": 8} if name in NEED_BATCH_SIZE else {}
    return lambda p: getattr(ours, name)(p, lr=0.01, **extra)


def matrices(p):
    return [x for x in p if x.ndim == 2]


def muon(p):
    return torch.optim.Muon(matrices(p), lr=0.01)


ALL = [
    *(pytest.param(of_torch(n, s), id=n) for n, s in TORCH.items()),
    *(pytest.param(of_torch(n, s), id=f"{n} {'+'.join(s)}") for n, s in VARIANTS),
    pytest.param(
        muon,
        id="torch Muon",
        marks=pytest.mark.skipif(
            not hasattr(torch.optim, "Muon"), reason="this torch has no Muon"
        ),
    ),
    *(pytest.param(of_ours(n), id=f"ours {n}") for n in OURS),
]


def values(optimizer):
    groups = optimizer.param_groups
    return torch.cat([p.detach().reshape(-1) for g in groups for p in g["params"]])


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("warm", [0, 3], ids=["fresh", "warm"])
def test_the_map_takes_the_steps_that_the_optimizer_takes(make, warm):
    optimizer, closure = built(make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(warm):
            optimizer.step(closure)
        step = step_map(optimizer, closure)
        v = step.start
        assert torch.equal(step.parameters(v), values(optimizer))
        for _ in range(8):
            v = step(v)
            optimizer.step(closure)
            # NAdam keeps a product of numbers in float32, the map in float64
            gap = (step.parameters(v) - values(optimizer)).abs().max()
            assert gap <= (1e-8 if "NAdam" in repr(step) else 0)


def everything(optimizer):
    """Deep copies of all a step may touch, with the identities of the tensors."""
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    state = {
        i: {k: (id(v), copy.deepcopy(v)) for k, v in optimizer.state[p].items()}
        for i, p in enumerate(parameters)
        if p in optimizer.state
    }
    return {
        "parameters": [(id(p), p.data_ptr(), p.detach().clone()) for p in parameters],
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "identities": [id(p.grad) for p in parameters],
        "state": state,
        "groups": [
            {k: copy.deepcopy(v) for k, v in g.items() if k != "params"}
            for g in optimizer.param_groups
        ],
        "attributes": {k: id(v) for k, v in vars(optimizer).items()},
    }


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        bits = [x.detach().contiguous().view(-1).view(torch.uint8) for x in (a, b)]
        assert torch.equal(*bits)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("warm", [0, 2], ids=["fresh", "warm"])
def test_optimizer_and_model_are_left_bit_for_bit(make, warm):
    optimizer, closure = built(make)
    for _ in range(warm):
        optimizer.step(closure)
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    assert_same(before, everything(optimizer))
    step(step(step.start))
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize("failing", range(1, 5))
def test_an_exception_leaves_them_too(failing):
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    optimizer.step(closure)
    before = everything(optimizer)
    calls = 0

    def fails():
        nonlocal calls
        calls += 1
        value = closure()
        if calls == failing:
            raise ArithmeticError("stop")
        return value

    with pytest.raises(ArithmeticError, match="stop"):
        step = step_map(optimizer, fails)
        for _ in range(failing):
            step(step.start)
    assert_same(before, everything(optimizer))


def test_a_learning_rate_in_a_tensor_and_a_scheduler_are_left_alone():
    optimizer, closure = built(
        lambda p: torch.optim.Adam(p, lr=torch.tensor(0.01), weight_decay=0.1)
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    step(step.start)
    assert_same(before, everything(optimizer))
    optimizer.step(closure)
    scheduler.step()


def test_bits_that_compare_equal_or_never_do_are_kept():
    w = torch.tensor([-0.0, float("nan"), 5e-324], dtype=torch.float64)
    w.requires_grad_()
    optimizer, closure = with_closure(
        nn.ParameterList([w]), lambda: (w * w).sum(), lambda p: sgd(p, momentum=0.5)
    )
    w = optimizer.param_groups[0]["params"][0]
    before = everything(optimizer)
    step = step_map(optimizer, closure)
    assert step(step.start)[1].isnan()
    assert_same(before, everything(optimizer))


def test_the_vector_holds_parameters_then_state():
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    step = step_map(optimizer, closure)
    d = sum(p.numel() for p in optimizer.param_groups[0]["params"])
    assert step.count == d
    assert step.start.shape == (d + 4 + 2 * d,)  # four counters, two moments
    assert repr(step) == f"StepMap(Adam: {d} parameters, {2 * d + 4} numbers of state)"
    v = step(step.start)
    state = step.state(v)
    parameters = optimizer.param_groups[0]["params"]
    assert [s["exp_avg"].shape for s in state] == [p.shape for p in parameters]
    assert all(s["step"] == 1 for s in state)
    optimizer.step(closure)
    for p, named in zip(parameters, state, strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(named[name], optimizer.state[p][name])
    batch = torch.stack([v, v])
    assert step.parameters(batch).shape == (2, d)


def test_a_fractional_counter_is_a_fractional_time():
    optimizer, closure = built(lambda p: torch.optim.Adam(p, lr=0.01))
    step = step_map(optimizer, closure)
    v = step(step.start)
    for named in step.state(v):
        named["step"].add_(0.25 + 2.0**-40)  # more digits than float32 has
    after = step.state(step(v))
    assert all(named["step"] == 2.25 + 2.0**-40 for named in after)


def test_the_counter_advances_at_one_a_step():
    optimizer, closure = built(lambda p: ours.AdamW(p, lr=0.01))
    step = step_map(optimizer, closure)
    velocity = step.state(generator(step, step.start, 3, 0.01))
    for named in velocity:
        torch.testing.assert_close(named["step"].item(), 1 / 0.01)
        assert named["skipped"] == 0


def test_parameters_without_a_gradient_stand_still():
    model, loss = network()
    model[0].weight.requires_grad_(False)
    for make in (of_torch("Adam", {}), of_ours("AdamW")):
        optimizer, closure = with_closure(model, loss, make)
        step = step_map(optimizer, closure)
        moved = step.parameters(step(step.start) - step.start)
        assert (moved[:12] == 0).all()
        assert (moved[12:] != 0).all()


def test_several_groups_and_stacked_batches():
    model, _ = network()
    x, y = torch.randn(2, 4, 4).double(), torch.randn(2, 4, 2).double()
    groups = [
        {"params": model[0].parameters()},
        {"params": model[2].parameters(), "lr": 0.2},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.5)

    def closure_of(batch):
        def closure():
            value = nn.functional.mse_loss(model(x[batch]), y[batch])
            value.backward()
            return value

        return closure

    first, second = (step_map(optimizer, closure_of(b)) for b in (0, 1))
    v = second(first(first.start))
    for batch in (0, 1):
        optimizer.zero_grad()
        optimizer.step(closure_of(batch))
    assert torch.equal(first.parameters(v), values(optimizer))


class Numbers(torch.optim.Optimizer):
    """Gradient descent that keeps one of everything in its state."""

    def __init__(self, params, lr=0.1, change=None):
        super().__init__(params, {"lr": lr, "calls": 0})
        self.change = change

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("length", 0.0)
                state.setdefault("number", 3)
                state.setdefault("flag", True)
                state.setdefault("nothing", None)
                state.setdefault("indices", torch.arange(2))
                state["length"] += float(p.grad.norm())
                if self.change == "settings":
                    group["calls"] += 1
                elif self.change == "late setting" and state["length"] > 2:
                    group["calls"] = 7
                elif self.change == "dropped":
                    del state["length"]
                elif self.change == "late" and state["length"] > 2:
                    state["late"] = torch.zeros(())
                elif self.change in ("number", "indices"):
                    state[self.change] = state[self.change] + 1
                elif self.change is not None:
                    state["other"] = self.change
                with torch.no_grad():
                    p.sub_(group["lr"] * p.grad)
        return loss


def test_floats_move_and_all_else_stays():
    optimizer, closure = built(lambda p: Numbers(p))
    step = step_map(optimizer, closure)
    assert step.start.shape == (step.count + 4,)
    moved = step.state(step(step.start))
    assert all(set(named) == {"length"} for named in moved)
    assert all(named["length"] > 0 for named in moved)


@pytest.mark.parametrize("change", ["number", "settings"])
def test_integers_that_a_step_changes_are_counters(change):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    step = step_map(optimizer, closure)
    assert len(step.start) == step.count + 4 + (4 if change == "number" else 1)
    moved = step(step.start) - step.start
    optimizer.step(closure)
    if change == "number":
        assert all(named["number"] == 1 for named in step.state(moved))
    else:
        assert step.state(moved)[-1]["calls"] == 4
        assert optimizer.param_groups[0]["calls"] == 4
    assert torch.equal(step.parameters(step.start + moved), values(optimizer))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("indices", RuntimeError, "changed the state 'indices', which is no floating"),
        ([1.0], TypeError, "state 'other' must be a number or a Tensor, got list"),
        (1j, TypeError, "state 'other' must be a number or a Tensor, got complex"),
        (torch.zeros(2, dtype=torch.complex128), TypeError, "dense and real, got torc"),
        (torch.zeros(2).to_sparse(), TypeError, "dense and real, got torch.sparse"),
        (torch.zeros(2), TypeError, "'other' must be float64 like the parameters, got"),
        (torch.zeros(2, dtype=torch.bfloat16), TypeError, "got torch.bfloat16"),
    ],
)
def test_state_that_is_no_coordinate_is_refused_if_it_moves(change, error, text):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    before = everything(optimizer)
    with pytest.raises(error, match=text):
        step_map(optimizer, closure)
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("dropped", "dropped the state 'length'"),
        ("late", "made the state 'late'"),
        ("late setting", "changed the setting 'calls'"),
    ],
)
def test_entries_that_come_and_go_are_refused(change, text):
    optimizer, closure = built(lambda p: Numbers(p, change=change))
    with pytest.raises(RuntimeError, match=text):
        step = step_map(optimizer, closure)
        v = step.start
        for _ in range(50):
            v = step(v)


def test_a_first_step_that_does_not_tell_its_start_is_refused():
    optimizer, closure = built(lambda p: sgd(p, momentum=0.9, dampening=0.5))
    with pytest.raises(ValueError, match="take one step, then make the map"):
        step_map(optimizer, closure)
    optimizer.step(closure)
    step = step_map(optimizer, closure)
    optimizer.step(closure)
    assert torch.equal(step.parameters(step(step.start)), values(optimizer))


def test_a_random_loss_is_refused():
    model, loss = network()
    optimizer, closure = with_closure(
        model, lambda: loss() * (1 + torch.rand(())), of_torch("Adam", {})
    )
    with pytest.raises(ValueError, match="not a function of parameters and state"):
        step_map(optimizer, closure)


def test_wrong_arguments_are_named():
    optimizer, closure = built(lambda p: sgd(p))
    parameters = optimizer.param_groups[0]["params"]
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got list"):
        step_map(parameters, closure)
    with pytest.raises(TypeError, match="closure must be a function that computes"):
        step_map(optimizer, None)
    with pytest.raises(ValueError, match="no parameter received a gradient"):
        step_map(optimizer, lambda: 0.0)
    single = torch.zeros(2, requires_grad=True)
    with pytest.raises(TypeError, match="every parameter must be float64, got torch.f"):
        step_map(sgd([*parameters, single]), closure)
    step = step_map(optimizer, closure)
    with pytest.raises(TypeError, match=r"convert it with v.double\(\)"):
        step(step.start.float())
    with pytest.raises(ValueError, match=r"v must have shape \(23,\) like start"):
        step(step.start[:-1])
    with pytest.raises(TypeError, match="v must be a Tensor"):
        step([1.0])


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_step_hooks_are_refused(kind):
    optimizer, closure = built(lambda p: sgd(p))
    handle = getattr(optimizer, f"register_step_{kind}_hook")(lambda *_: None)
    with pytest.raises(ValueError, match=f"has a step {kind}-hook"):
        step_map(optimizer, closure)
    handle.remove()
    assert step_map(optimizer, closure).count == 23


def test_a_list_in_the_state_is_refused_and_nothing_changes():
    optimizer, closure = built(lambda p: torch.optim.LBFGS(p))
    before = everything(optimizer)
    with pytest.raises(TypeError, match="must be a number or a Tensor, got list"):
        step_map(optimizer, closure)
    assert_same(before, everything(optimizer))


@pytest.mark.parametrize("make", [of_torch("Adam", {}), of_ours("AdamW")])
def test_transposed_parameters_and_a_caller_without_gradients(make):
    stored = torch.arange(6, dtype=torch.float64).reshape(2, 3)
    p = stored.mT.requires_grad_()
    assert not p.is_contiguous()
    c = torch.randn(3, 2, dtype=torch.float64)
    optimizer = make([p])

    def closure():
        loss = ((p - c) ** 2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        step = step_map(optimizer, closure)
        v = step(step.start.clone().requires_grad_())
    assert not v.requires_grad
    assert torch.equal(p, torch.arange(6).reshape(2, 3).mT)
    optimizer.step(closure)
    assert torch.equal(step.parameters(v), p.detach().reshape(-1))


def test_empty_parameters_are_no_trouble():
    empty = nn.Parameter(torch.zeros(0, 3, dtype=torch.float64))
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for make in (of_torch("Adam", {}), of_ours("AdamW")):
        optimizer, closure = with_closure(
            nn.ParameterList([empty, w]), lambda: w.square().sum() + empty.sum(), make
        )
        step = step_map(optimizer, closure)
        assert step.count == 2
        assert step(step.start).isfinite().all()
