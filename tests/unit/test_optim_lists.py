"""Compiled code over whole lists of tensors: who is stepped, and who is left alone."""

import math

import pytest
import torch

from anthology.optim import SGD, AdamW, Lion
from anthology.optim.core.fused import lists
from anthology.optim.core.fused import passes as compiled
from anthology.optim.core.fused.compile import (
    EXAMPLE,
    HEAD,
    missing_compiler,
    plain_step,
)
from anthology.optim.core.fused.lists import LARGE, Lists, compile_lists, largest_bits

pytestmark = pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="no compiler here"
)
LENGTHS = [1, 2, 63, 64, 65, 300, LARGE - 1, LARGE, LARGE + 17]


def descent(dtype: torch.dtype) -> Lists:
    """w ← w − η·g for lists, the smallest rule there is."""
    names = [name for name in SGD([torch.ones(1)]).defaults if name != "lr"]
    plain = {name: SGD([torch.ones(1)]).defaults[name] for name in names}
    wide = torch.promote_types(dtype, torch.float32)
    example = [torch.zeros(EXAMPLE, dtype=dtype) for _ in range(2)]
    example.append(torch.ones(len(HEAD), dtype=wide))
    found = compile_lists(plain_step(SGD.rule, plain, [], wide), example)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_only_what_fits_is_stepped(dtype: torch.dtype) -> None:
    """A bad entry is found at the ends, in the middle and in what is left over."""
    run, limit = descent(dtype), 100.0
    wide = torch.promote_types(dtype, torch.float32)
    rate = torch.full((len(HEAD),), 0.5, dtype=wide)
    bad = (math.nan, -math.nan, math.inf, -math.inf, -101.0, 101.0)
    cases = [(n, None, 1.0) for n in LENGTHS] + [(n, 0, -100.0) for n in LENGTHS]
    cases += [
        (n, place, bad[(n + place) % len(bad)])
        for n in LENGTHS
        for place in {0, n // 4, n // 2, n - 1}
    ]
    params = [torch.ones(n, dtype=dtype) for n, _, _ in cases]
    grads = [torch.ones(n, dtype=dtype) for n, _, _ in cases]
    for g, (_, place, value) in zip(grads, cases, strict=True):
        if place is not None:
            g[place] = value
    columns = [[x.data_ptr() for x in xs] for xs in (params, grads)]
    taken = run(
        [*columns, [rate.data_ptr()] * len(cases)], [c[0] for c in cases], limit
    )
    fine = [2 * len(LENGTHS) > i for i in range(len(cases))]
    assert taken == fine
    for p, g, moved in zip(params, grads, fine, strict=True):
        assert torch.equal(p, 1 - 0.5 * g if moved else torch.ones_like(p))


@pytest.mark.parametrize("limit", [1.0, 3.0e38, math.sqrt(3.4e38), 1e-3, 1e300, 7e4])
@pytest.mark.parametrize("dtype", lists.BITS)
def test_the_largest_number_within_a_limit(limit: float, dtype: torch.dtype) -> None:
    kind = lists.BITS[dtype][0]
    bits = torch.tensor(largest_bits(limit, dtype), dtype=torch.int64)
    inside = bits.to(kind).view(dtype).double()
    beyond = (bits + 1).to(kind).view(dtype).double()
    assert inside <= limit < beyond
    assert inside.isfinite()


def walk(fused: str | None) -> tuple[AdamW, list[torch.Tensor]]:
    """Steps after which the tensors have taken different numbers of them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (40_000,), (7, 5), (3,), (1,)]
    params = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    optimizer = AdamW(params, 1e-2, fused=fused)
    for step in range(5):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        if step < 4:
            params[step].grad.view(-1)[-1] = math.nan
        optimizer.step()
    return optimizer, params


def test_each_tensor_has_its_own_count() -> None:
    (ours, params), (theirs, others) = walk("compile"), walk(None)
    assert ours.skipped == theirs.skipped == {f"0.{i}": 1 for i in range(4)}
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
        assert float(ours.state[p]["step"]) == float(theirs.state[q]["step"])


def test_without_one_c_function_each_tensor_is_called_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lists, "_single_function", lambda *_: ((), 0, 0))
    monkeypatch.setattr(compiled, "_kernels", {})
    test_each_tensor_has_its_own_count()


def test_a_state_of_another_length_is_not_stepped_by_addresses() -> None:
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
