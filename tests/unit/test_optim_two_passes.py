"""Prodigy in two compiled passes: the same steps as by its definition."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from anthology.optim import Prodigy
from anthology.optim.core import batch
from anthology.optim.core.fused.compile import missing_compiler
from anthology.optim.parts.prodigy import compiled as compiled_passes
from anthology.optim.parts.prodigy import eager as eager_passes
from anthology.optim.parts.prodigy import rows

pytestmark = pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="needs a C++ compiler"
)
SHAPES = [(7, 5), (7, 5), (200, 100), (7, 5), (1,), (), (30,), (6, 4)]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "without the first average": {"betas": (0.0, 0.99)},
    "without averages": {"betas": (0.0, 0.0), "eps": 1e-3},
    "beta3": {"beta3": 0.9, "eps": 1e-3},
    "growth": {"growth_rate": 1.3, "d_coef": 0.5, "d0": 1e-4},
    "slices": {"slice_p": 3},
    "up": {"maximize": True},
    "all": {
        "lr": 0.7,
        "betas": (0.8, 0.99),
        "weight_decay": 0.02,
        "use_bias_correction": True,
        "safeguard_warmup": True,
        "growth_rate": 2.0,
    },
}


def noise(shape: tuple[int, ...], generator: torch.Generator, dtype: Any) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def run(
    dtype: Any, steps: int = 50, bad: bool = True, **options: Any
) -> tuple[list[Tensor], Prodigy]:
    """Two groups, one tensor not contiguous, some without gradient, one NaN."""
    generator = torch.Generator().manual_seed(0)
    params = [noise(shape, generator, dtype) for shape in SHAPES]
    ends = [noise(shape, generator, dtype) for shape in SHAPES]
    params[-1], ends[-1] = params[-1].t(), ends[-1].t()
    params = [p.requires_grad_() for p in params]
    groups = [{"params": params[:5]}, {"params": params[5:], "lr": 0.5}]
    optimizer = Prodigy(groups, **{"d0": 1e-2, **options})
    for k in range(steps):
        for p, end in zip(params, ends, strict=True):
            # towards the end, and of a size that no step changes
            p.grad = 0.5 * noise(tuple(p.shape), generator, dtype) - end
        if bad and k == 20:
            params[1].grad[2, 3] = math.nan  # type: ignore[index]
            params[2].grad[2, 3] = math.inf  # type: ignore[index]
        if bad and k == 30:
            params[0].grad = None
        for group in optimizer.param_groups:
            group["lr"] *= 0.99
        optimizer.step()
    return params, optimizer


def gap(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference in units of the largest number of each tensor."""
    pairs = zip(ours, theirs, strict=True)
    gaps = [(a - b).abs().max() / b.abs().max().clamp_min(1e-30) for a, b in pairs]
    return float(torch.stack(gaps).detach().max())


def same_state(ours: Prodigy, theirs: Prodigy, tolerance: float) -> None:
    ends = [
        [x.state[p] for group in x.param_groups for p in group["params"]]
        for x in (ours, theirs)
    ]
    for one, other in zip(*ends, strict=True):
        assert list(one) == list(other)
        assert float(one["step"]) == float(other["step"])
        assert float(one["skipped"]) == float(other["skipped"])
        names = [name for name in one if name not in ("step", "skipped")]
        pairs = [[x[name] for name in names] for x in (one, other)]
        assert gap(*pairs) < tolerance


def laid(optimizer: Prodigy) -> list[rows.Strip]:
    """The rows of several tensors."""
    found = [row for shelf in optimizer.shelves.values() for row in shelf.rows]
    return [row for row in found if len(row.states) > 1]


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_to_its_definition_in_double_precision(name):
    theirs, plain = run(torch.float64, foreach=False, **OPTIONS[name])
    assert plain.d > 1e-2
    for flags in ({"foreach": True}, {"fused": "compile"}):
        ours, optimizer = run(torch.float64, **flags, **OPTIONS[name])
        assert abs(optimizer.d / plain.d - 1) < 1e-12
        assert gap(ours, theirs) < 1e-12
        assert optimizer.skipped == plain.skipped == {"0.1": 1, "0.2": 1}
        same_state(optimizer, plain, 1e-11)


@pytest.mark.parametrize("name", OPTIONS)
def test_as_close_to_double_precision_as_its_definition(name):
    exact, _ = run(torch.float64, **OPTIONS[name])
    theirs, _ = run(torch.float32, **OPTIONS[name])
    ours, _ = run(torch.float32, fused=True, **OPTIONS[name])
    eager = gap([x.double() for x in theirs], exact)
    assert gap([x.double() for x in ours], exact) < 2 * eager + 1e-6


@pytest.mark.parametrize("name", ["defaults", "without the first average", "all"])
def test_where_flags_cannot_be_read(monkeypatch, name):
    theirs, plain = run(torch.float64, **OPTIONS[name])
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    ours, optimizer = run(torch.float64, fused="compile", **OPTIONS[name])
    assert gap(ours, theirs) < 1e-12
    assert optimizer.skipped == plain.skipped
    same_state(optimizer, plain, 1e-11)


@pytest.mark.parametrize("name", ["defaults", "without the first average", "all"])
def test_piece_by_piece(monkeypatch, name):
    theirs, plain = run(torch.float64, foreach=False, **OPTIONS[name])
    monkeypatch.setattr(eager_passes, "PIECE", 64)
    ours, optimizer = run(torch.float64, foreach=True, **OPTIONS[name])
    assert gap(ours, theirs) < 1e-12
    same_state(optimizer, plain, 1e-11)


def test_a_narrow_and_a_complex_parameter():
    for dtype, tolerance in ((torch.bfloat16, 2.0**-7), (torch.complex128, 1e-12)):
        ends = []
        for fused in (None, "compile"):
            torch.manual_seed(0)
            params = [torch.randn(9, 8).to(dtype).requires_grad_() for _ in range(3)]
            optimizer = Prodigy(params, d0=1e-2, fused=fused)
            for _ in range(50):
                for p in params:
                    p.grad = torch.randn(9, 8, dtype=torch.float64).to(dtype) - 1
                optimizer.step()
            assert optimizer.state[params[0]]["exp_avg"].dtype != torch.bfloat16
            ends.append([p.detach() for p in params])
        wide = [[x.to(torch.complex128) for x in xs] for xs in ends]
        assert gap(*wide) < tolerance


def test_nothing_is_compiled_anew_for_other_numbers_and_shapes():
    run(torch.float64, steps=3, bad=False, fused="compile")
    before = compiled_passes.pass_kernels()
    for shape in [(3, 3), (100, 200), (5,), (2, 3, 4)]:
        params = [torch.ones(shape, dtype=torch.float64) for _ in range(3)]
        optimizer = Prodigy(params, lr=0.1, betas=(0.5, 0.5), d0=1e-3, fused="compile")
        for lr in (0.1, 0.3):
            optimizer.param_groups[0]["lr"] = lr
            for p in params:
                p.grad = torch.ones_like(p)
            optimizer.step()
    assert compiled_passes.pass_kernels() == before


def test_small_tensors_together_or_alone(monkeypatch):
    together, _ = run(torch.float64, fused="compile", use_bias_correction=True)
    monkeypatch.setattr(rows, "SMALL", 0)
    alone, optimizer = run(torch.float64, fused="compile", use_bias_correction=True)
    assert not laid(optimizer)
    assert gap(together, alone) < 1e-12


def test_rows_are_taken_down_when_the_state_is_another():
    params, optimizer = run(torch.float64, bad=False, fused="compile")
    kept = laid(optimizer)
    assert [len(row.states) for row in kept] == [3]
    memory = io.BytesIO()
    torch.save(optimizer.state_dict(), memory)
    memory.seek(0)
    saved = torch.load(memory, weights_only=True)
    twins = [p.detach().clone().requires_grad_() for p in params]
    halves = [{"params": twins[:5]}, {"params": twins[5:]}]
    resumed = Prodigy(halves, fused="compile")
    resumed.load_state_dict(saved)
    optimizer.load_state_dict(saved)
    for x, xs in ((optimizer, params), (resumed, twins)):
        for p in xs:
            p.grad = torch.ones_like(p)
        x.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    assert optimizer.d == resumed.d
    now = laid(optimizer)
    assert len(now) == 1 and now[0] is not kept[0]


def test_a_deep_copy_goes_its_own_way():
    params, optimizer = run(torch.float64, bad=False, fused="compile")
    twin = copy.deepcopy(optimizer)
    before = {n: x.clone() for n, x in optimizer.state[params[0]].items()}
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    twin.step()
    assert all(torch.equal(before[n], optimizer.state[params[0]][n]) for n in before)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"fused": "cuda"}, ValueError, "Invalid fused"),
        ({"fused": True, "foreach": True}, RuntimeError, "cannot be `True` together"),
        ({"fused": True, "differentiable": True}, RuntimeError, "differentiable"),
    ],
)
def test_impossible_combinations_are_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        Prodigy([torch.ones(3, requires_grad=True)], **options)
