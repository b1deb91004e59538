"""Compiled code reads what a schedule changes: nothing is compiled anew."""

import inspect
import math
from typing import Any

import pytest
import torch

from anthology import optim
from anthology.optim.core.fused import passes
from anthology.optim.core.fused.compile import missing_compiler
from anthology.optim.core.fused.passes import compiled_kernels
from anthology.optim.parts.prodigy.compiled import pass_kernels
from tests.examples import EXAMPLES, Example

pytestmark = pytest.mark.skipif(
    bool(missing_compiler(torch.device("cpu"))), reason="no compiler here"
)


@pytest.fixture(autouse=True)
def _small_ones_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "LEAST", 2)


# What a schedule may change, of all that have it.
SCHEDULED = (
    *("betas", "momentum", "alpha", "dampening"),
    *("weight_decay", "eps", "batch_size"),
)
COMPILED = {
    name: example for name, example in EXAMPLES.items() if example.kind.rule.fuses
}


def case(example: Example) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """A class with fused="compile", its options, and what a schedule may change."""
    known = inspect.signature(example.kind).parameters
    decay = {"weight_decay": 0.1} if "weight_decay" in known else {}
    names = tuple(name for name in SCHEDULED if name in known)
    return example.kind, {**example.needs, **decay, **example.compiled}, names


CASES = {name: case(example) for name, example in COMPILED.items()}


def test_the_classes_that_compile_are_known_by_their_flags() -> None:
    assert {"SGD", "Adam", "AdamW", "RootFreeAdamW", "Prodigy"} <= set(CASES)


def changed(group: dict[str, Any], names: tuple[str, ...], k: int) -> None:
    """What schedules set at step k: cycles, warm-ups, and decays that end at 0."""
    wave = 0.5 - 0.5 * math.cos(k)
    group["lr"] = 0.01 * (1 + wave)
    given = {
        "betas": (0.85 + 0.1 * wave, 0.99 + 0.009 * wave),
        "momentum": 0.85 + 0.1 * wave,
        "alpha": 0.9 + 0.09 * wave,
        "dampening": 0.1 + 0.2 * wave,
        "weight_decay": 0.0 if k == 6 else 0.1 * wave + 0.01,
        "eps": 1e-3 * (1 + wave),
        "batch_size": 4.0 + k % 3,
    }
    group.update({name: given[name] for name in names})


def walk(kind: Any, options: dict[str, Any], dtype: torch.dtype) -> Any:
    """Eight steps, with the numbers compiled after the first two."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(33, 5), (7,), (20, 20)]
    names = options.pop("names")
    params = [
        torch.randn(s, generator=generator, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
        for s in shapes
    ]
    optimizer = kind(params, **options)
    seen = []
    for k in range(8):
        for p in params:
            g = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = g.float().to(dtype)
        changed(optimizer.param_groups[0], names, k)
        optimizer.step()
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        seen.append((compiled_kernels(), pass_kernels(), graphs))
    return params, seen


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_compiles_nothing(name: str) -> None:
    kind, options, names = CASES[name]
    options = {**options, "names": names}
    ours, seen = walk(kind, {**options, "fused": "compile"}, torch.float32)
    assert seen[0][0] + seen[0][1] > 0
    assert seen[1:] == seen[:1] * 7, seen
    loop, _ = walk(kind, {**options, "foreach": False}, torch.float32)
    exact, _ = walk(kind, {**options, "foreach": False}, torch.float64)

    def gap(params: list[torch.Tensor]) -> float:
        pairs = zip(params, exact, strict=True)
        return max(float((p.double() - q).detach().abs().max()) for p, q in pairs)

    assert gap(ours) <= max(2 * gap(loop), 3e-7)


def test_one_cycle_compiles_once() -> None:
    p = torch.randn(9, 3, requires_grad=True)
    optimizer = optim.AdamW([p], 1e-2, fused="compile")
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    counts = set()
    for _ in range(10):
        p.grad = torch.randn_like(p)
        optimizer.step()
        cycle.step()
        counts.add(compiled_kernels())
    assert len(counts) == 1


def test_the_largest_gradient_follows_the_schedule() -> None:
    """On a device the pass looks itself, and must not use the limit of step one."""
    from anthology.optim.core import batch

    p = torch.ones(4, dtype=torch.complex64, requires_grad=True)  # tensor by tensor
    optimizer = optim.SGD([p], 1e-38, momentum=0.5, fused="compile")
    p.grad = torch.ones_like(p)
    optimizer.step()
    assert batch.reads_flags_for_free(p.device)
    optimizer.param_groups[0]["momentum"] = 0.99
    p.grad = torch.full_like(p, 1e37)
    optimizer.step()
    assert optimizer.skipped == {"0.0": 1}
