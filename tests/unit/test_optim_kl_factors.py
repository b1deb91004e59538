"""KL factors and one side: bad gradients, blocks, state, what is refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from anthology.optim import SOAP, Shampoo

KINDS: dict[str, Callable[[list[Tensor]], torch.optim.Optimizer]] = {
    "kl": lambda p: Shampoo(p, 0.01, factors="kl"),
    "kl, average": lambda p: Shampoo(p, 0.01, (0.9, 0.9), factors="kl", refresh=3),
    "kl, eps 0": lambda p: Shampoo(p, 0.01, eps=0.0, factors="kl"),
    "kl, blocks": lambda p: Shampoo(p, 0.01, factors="kl", max_dim=2),
    "one": lambda p: Shampoo(p, 0.01, sides="one"),
    "one, kl, blocks": lambda p: Shampoo(
        p, 0.01, sides="one", factors="kl", max_dim=2, vectors="diagonal"
    ),
    "SOAP": lambda p: SOAP(p, 0.01, factors="kl", refresh=2, skip_first=False),
    "SOAP as published": lambda p: SOAP(p, 0.01, factors="kl", basis_eps=0.0),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest_step(name: str, gradients: list[Tensor]) -> float:
    w = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer, found = KINDS[name]([w]), 0.0
    for g in gradients:
        before = w.detach().clone()
        w.grad = g.clone()
        optimizer.step()
        found = max(found, float((w.detach() - before).norm()))
        assert torch.isfinite(w).all()
        kept = [x for x in optimizer.state[w].values() if x.ndim]
        assert all(torch.isfinite(x).all() for x in kept)
    return found


@every_kind
@pytest.mark.parametrize("shape", [(), (5,), (1, 5), (5, 1), (4, 3), (2, 3, 4), (0, 3)])
def test_bad_gradients_leave_everything_finite(name: str, shape) -> None:
    g = draw(shape, 1)
    for scale in (1e-37, 1e-20, 1.0, 1e12):
        largest_step(name, [scale * g, scale * draw(shape, 2), 0 * g, scale * g])
    assert largest_step(name, [0 * g] * 3) == 0
    largest_step(name, [0 * g, g, 1e-15 * g, 1e10 * g, g])
    largest_step(name, [g, torch.full_like(g, torch.nan), torch.full_like(g, 1e30)])


@every_kind
def test_gradients_of_rank_one_give_no_long_steps(name: str) -> None:
    """The same direction again and again, and then another."""
    a, b = torch.zeros(2, 4, 3).unbind()
    a[0, 0], b[1, 1] = 1.0, 1.0
    usual = 0.01 * 12**0.5
    assert largest_step(name, [a] * 10) < 1.5 * usual
    stale = 1e4 if name == "kl, average" else 40  # ε⁻¹, as the docstring warns
    assert largest_step(name, [a, b, a + b]) < stale * usual


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_lists_and_loops_agree_in_any_dtype(name: str, dtype: torch.dtype) -> None:
    shapes, ends = [(4, 3), (4, 3), (3, 4), (5,), (), (2, 3, 4)], []
    for foreach in (False, True):
        params = [draw(s, i).to(dtype).requires_grad_() for i, s in enumerate(shapes)]
        optimizer = KINDS[name](params)
        optimizer.param_groups[0]["foreach"] = foreach
        for step in range(8):
            for i, p in enumerate(params):
                late = i == 1 and step < 2
                p.grad = None if late else draw(p.shape, 9 * step + i).to(dtype)
            optimizer.step()
        ends.append([p.detach() for p in params])
    for a, b in zip(*ends, strict=True):
        assert (a - b).abs().max() < (1e-2 if dtype == torch.bfloat16 else 1e-4)


def test_roots_begin_to_be_kept_in_the_middle_of_a_run() -> None:
    w = torch.zeros(4, 3, dtype=torch.float64).requires_grad_()
    optimizer = Shampoo([w])
    for step in range(4):
        if step == 2:
            optimizer.param_groups[0]["factors"] = "kl"
        w.grad = draw((4, 3), step).double()
        optimizer.step()
    assert {"root_0_0", "root_0_1"} <= set(optimizer.state[w])
    optimizer.param_groups[0]["factors"] = "sum"
    optimizer.step()
    assert not any(name.startswith("root_") for name in optimizer.state[w])


def test_a_checkpoint_without_the_new_settings_goes_on() -> None:
    for kind in (Shampoo, SOAP):
        w = torch.ones(3, 2, requires_grad=True)
        optimizer = kind([w])
        w.grad = draw((3, 2), 1)
        optimizer.step()
        saved = optimizer.state_dict()
        for name in ("factors", "sides"):
            saved["param_groups"][0].pop(name, None)
        other = kind([w], factors="kl")
        other.load_state_dict(saved)
        assert other.param_groups[0]["factors"] == "sum"
        other.step()


@pytest.mark.parametrize("options", [{"refresh": 3}, {"refresh": 1}, {"sides": "one"}])
def test_the_step_can_be_differentiated(options: dict) -> None:
    def end(start: Tensor) -> Tensor:
        w = start.clone()
        optimizer = Shampoo(
            [w], 0.1, (0.5, 0.9), 0.1, factors="kl", differentiable=True, **options
        )
        for step in range(4):
            w.grad = draw((3, 2), step).double() * start
            optimizer.step()
        return w

    assert torch.autograd.gradcheck(end, draw((3, 2), 9).double().requires_grad_())


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (Shampoo, {"factors": "KL"}, "sum"),
        (Shampoo, {"sides": 1}, "all"),
        (Shampoo, {"factors": "kl", "power": 4}, "power=2 or None"),
        (SOAP, {"factors": "none"}, "kl"),
    ],
)
def test_it_says_what_would_be_right(kind, wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind([torch.ones(2, 2, requires_grad=True)], **wrong)
