"""Compiled passes: who is stepped, and who is left alone."""

import math
from typing import Any

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion, RootFreeAdamW
from anthology.optim.core.fused import passes
from anthology.optim.core.fused.compile import missing_compiler

pytestmark = pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="no compiler here"
)


@pytest.fixture(autouse=True)
def _small_ones_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "LEAST", 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_entries_that_fit_are_stepped(dtype: torch.dtype) -> None:
    """A bad entry is found at the ends, in the middle and in what is left over."""
    bad = (math.nan, -math.nan, math.inf, -math.inf)
    lengths = [2, 63, 64, 65, 300, 40_000]
    cases = [(n, None) for n in lengths]
    cases += [(n, place) for n in lengths for place in {0, n // 2, n - 1}]
    params = [torch.ones(n, dtype=dtype).requires_grad_() for n, _ in cases]
    for p, (n, place) in zip(params, cases, strict=True):
        p.grad = torch.ones_like(p)
        if place is not None:
            p.grad[place] = bad[(n + place) % len(bad)]
    optimizer = SGD(params, 0.5, fused="compile")
    optimizer.step()
    for p, (_, place) in zip(params, cases, strict=True):
        expected = torch.full_like(p, 0.5)
        if place is not None:
            expected[place] = 1.0
        assert torch.equal(p, expected)
    places = {f"0.{i}": 1 for i, (_, place) in enumerate(cases) if place is not None}
    assert optimizer.skipped == places


def test_small_tensors_go_by_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "LEAST", 100)
    sizes, step = [], passes.Passes.step

    def seen(self: Any, p: torch.Tensor, state: Any) -> None:
        sizes.append(len(p))
        step(self, p, state)

    monkeypatch.setattr(passes.Passes, "step", seen)
    params = [torch.ones(n, requires_grad=True) for n in (99, 100, 1)]
    for p in params:
        p.grad = torch.ones_like(p)
    SGD(params, 0.5, fused="compile").step()
    assert sizes == [100]
    assert all(p.tolist() == [0.5] * len(p) for p in params)


def walk(make: Any, fused: str | None) -> tuple[Any, list[torch.Tensor]]:
    """Steps in which some tensors have a bad entry, a gradient of zero or none."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (40_000,), (7, 5), (3,), (1,)]
    params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    optimizer = make(params, fused=fused)
    for step in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        if step < 4:
            params[step].grad.view(-1)[-1] = math.nan
        if step == 2:
            params[1].grad.zero_()
        if step == 3:
            params[0].grad = None
            params[1].grad.zero_()[39_999] = 1.0  # not in the sample
        optimizer.step()
    return optimizer, params


@pytest.mark.parametrize("kind", [AdamW, RootFreeAdamW])
def test_each_tensor_has_its_own_count(kind: Any) -> None:
    settings = {"batch_size": 4} if kind is RootFreeAdamW else {}

    def make(params: Any, fused: Any) -> Any:
        return kind(params, 1e-2, fused=fused, **settings)

    (ours, params), (theirs, others) = walk(make, "compile"), walk(make, None)
    assert ours.skipped == theirs.skipped == {f"0.{i}": 1 for i in range(4)}
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
        assert float(ours.state[p]["step"]) == float(theirs.state[q]["step"])
    resting = kind is RootFreeAdamW
    assert float(ours.state[params[1]]["step"]) == 5 - resting


def test_a_state_of_another_length_is_not_stepped() -> None:
    p = torch.ones(6, requires_grad=True)
    optimizer = Lion([p], fused="compile")
    p.grad = torch.ones(6)
    optimizer.step()
    optimizer.state[p]["exp_avg"] = torch.zeros(3)
    with pytest.raises(RuntimeError):
        optimizer.step()


def test_parameters_in_one_place_move_one_after_the_other() -> None:
    made = []
    for fused in (None, "compile"):
        p = torch.ones(6, requires_grad=True)
        q = p.detach().requires_grad_()
        optimizer = AdamW([p, q], 0.1, fused=fused, foreach=False)
        p.grad, q.grad = torch.ones(6), torch.full((6,), 2.0)
        optimizer.step()
        made.append(p.detach())
        assert optimizer.state[p]["step"] == optimizer.state[q]["step"] == 1
    torch.testing.assert_close(made[0], made[1])
