"""A gradient that is exactly zero is no evidence: root-free rules treat it as None."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from anthology import optim
from anthology.optim import functional, joined
from anthology.optim.core import batch

KINDS = {
    "RootFreeRMSProp": partial(optim.RootFreeRMSProp, weight_decay=0.1),
    "RootFreeAdamW": partial(optim.RootFreeAdamW, weight_decay=0.1),
    "bias correction": partial(optim.RootFreeAdamW, bias_correction=True),
    "SIRFShampoo": partial(optim.SIRFShampoo, weight_decay=0.1),
    "SIRFShampoo, T = 2": partial(optim.SIRFShampoo, refresh=2),
}
FORMS = [{"foreach": False}, {"foreach": True}, {"capturable": True}]
ENTRYWISE = [name for name in KINDS if "SIRF" not in name]
SHAPES = [(8, 6), (6,), (), (2, 3, 4)]


def draw(shape: tuple[int, ...], seed: int, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype)


def run(make, idle: list[int], options: dict, dtype=torch.float32) -> list[Tensor]:
    """Weights after four gradients, with so many of zeros before each."""
    params = [nn.Parameter(draw(s, i, dtype)) for i, s in enumerate(SHAPES)]
    other = nn.Parameter(draw((3, 2), 9, dtype))  # always has a gradient
    optimizer = make([*params, other], lr=0.1, batch_size=8, **options)
    for k, count in enumerate(idle):
        for real in [False] * count + [True]:
            for i, p in enumerate(params):
                g = draw(p.shape, 10 * k + i, dtype)
                p.grad = g if real else torch.zeros_like(g)
            other.grad = draw((3, 2), k, dtype)
            optimizer.step()
    assert not optimizer.skipped
    assert all(optimizer.state[p]["step"] == len(idle) for p in params)
    assert optimizer.state[other]["step"] == len(idle) + sum(idle)
    return [p.detach() for p in params]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def forms(name: str) -> list[dict]:
    if "T = 2" in name:  # a captured step cannot choose
        return FORMS[:2]
    return FORMS + [{"fused": "compile"}] * (name in ENTRYWISE)


CASES = [(name, form) for name in KINDS for form in forms(name)]


@pytest.mark.parametrize("flags", [True, False], ids=["read", "not read"])
@pytest.mark.parametrize(("name", "form"), CASES, ids=str)
def test_zeros_leave_no_trace(name, form, flags, monkeypatch) -> None:
    """Neither before the first gradient nor between two."""
    if not flags:
        monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    # an even number, so that the refreshes fall on the same gradients
    idle = [30, 0, 2, 4]
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        expected = run(KINDS[name], [0] * 4, form, dtype)
        assert same(run(KINDS[name], idle, form, dtype), expected)


@pytest.mark.parametrize("name", KINDS)
def test_after_a_thousand_zeros_a_step_is_that_of_a_fresh_state(name) -> None:
    w = nn.Parameter(draw((8, 6), 0))
    optimizer = KINDS[name]([w], batch_size=32)
    for _ in range(1000):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    assert torch.equal(w, draw((8, 6), 0))
    assert not optimizer.skipped


@pytest.mark.parametrize("name", KINDS)
def test_negative_zero_tiny_and_nan(name) -> None:
    """−0 is zero; the smallest number is not; NaN is counted as skipped.

    Where a rule works entry by entry, the other entries take their step then.
    """
    w = nn.Parameter(draw((4, 3), 0))
    optimizer = KINDS[name]([w], batch_size=1)
    last = 1 + optimizer.rule.entrywise
    for value, steps, skipped in ((-0.0, 0, 0), (1e-45, 1, 0), (torch.nan, last, 1)):
        w.grad = torch.zeros(4, 3)
        w.grad[1, 2] = value
        optimizer.step()
        state = optimizer.state[w]
        assert (int(state["step"]), int(state["skipped"])) == (steps, skipped)


@pytest.mark.parametrize("name", KINDS)
def test_as_pure_functions(name) -> None:
    make = KINDS[name]
    form = {
        optim.RootFreeRMSProp: functional.root_free_rmsprop,
        optim.RootFreeAdamW: functional.root_free_adamw,
        optim.SIRFShampoo: functional.sirf_shampoo,
    }[make.func]
    pure = form(lr=0.1, batch_size=8, **make.keywords)
    params = {"w": draw((4, 3), 0)}
    state = pure.init(params)
    new, after = pure.update(params, {"w": torch.zeros(4, 3)}, state)
    assert torch.equal(new["w"], params["w"])
    for key, value in after["state"][0].items():
        assert torch.equal(value, state["state"][0][key])


def test_a_pair_counts_if_one_of_both_has_a_gradient() -> None:
    layer = nn.Linear(3, 2)
    optimizer = optim.SIRFShampoo(joined(layer), lr=0.1, batch_size=4)
    before = [p.detach().clone() for p in layer.parameters()]

    def step(weight: float, bias: float) -> None:
        layer.weight.grad = torch.full((2, 3), weight)
        layer.bias.grad = torch.full((2,), bias)
        optimizer.step()

    step(0.0, 0.0)
    assert same([p.detach() for p in layer.parameters()], before)
    step(0.0, 1.0)
    assert int(optimizer.state[layer.weight]["step"]) == 1
    assert not torch.equal(layer.bias, before[1])


def test_an_expert_that_nobody_chose() -> None:
    """Half of the experts are not routed for long; then all of them are."""
    for name, make in KINDS.items():
        torch.manual_seed(0)
        experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        optimizer = make(experts.parameters(), batch_size=16)
        moved = []
        for chosen in [1] * 300 + [2] * 3:
            optimizer.zero_grad()
            x = torch.randn(16, 4)
            outs = [e(x) if i < chosen else 0 * e(x) for i, e in enumerate(experts)]
            sum(out.square().mean() for out in outs).backward()
            before = experts[1].weight.detach().clone()
            optimizer.step()
            moved.append(float((experts[1].weight - before).norm()))
        fresh = make(nn.Linear(4, 4).parameters(), batch_size=16)
        assert max(moved[:300]) == 0, name
        assert max(moved[300:]) < 20 * fresh.defaults["lr"], name
