"""Many tensors in one launch are stepped as each alone."""

from typing import Any

import pytest
import torch

from anthology.kernels import many as module
from anthology.kernels import tables
from anthology.kernels.entrywise import RULES, step
from anthology.kernels.many import step_many

BF16 = torch.bfloat16
# aligned and not, one number, a block and more, none at all
SIZES = [16, 7, 1, 1024, 2000, 0, 1025, 64]


class Members:
    """Parameters, gradients and averages of every size, the same each time."""

    def __init__(self, rule: str, kind: torch.dtype, device: str) -> None:
        generator = torch.Generator().manual_seed(0)

        def noise(size: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.randn(size, generator=generator).to(device, dtype)

        self.params = [noise(size, kind) for size in SIZES]
        self.grads = [noise(size, kind) for size in SIZES]
        own = range(RULES[rule])
        self.averages = [[noise(n, torch.float32).abs() for _ in own] for n in SIZES]
        self.rests = [noise(size, BF16) * 2.0**-9 for size in SIZES]
        self.numbers = torch.rand(len(SIZES), 3, generator=generator).to(device)
        self.seeds = torch.arange(len(SIZES), device=device)
        self.flags = torch.arange(len(SIZES), device=device) != 3

    @property
    def written(self) -> list[torch.Tensor]:
        return [*self.params, *self.rests, *(x for own in self.averages for x in own)]


def both(
    rule: str, kind: torch.dtype, rounding: str, device: str, times: int = 2
) -> tuple[Members, Members]:
    one, other = Members(rule, kind, device), Members(rule, kind, device)
    settings: dict[str, Any] = {"eps": 1e-3, "decay": 0.1, "nesterov": rule == "sgd"}
    for _ in range(times):
        for i, (p, g) in enumerate(zip(one.params, one.grads, strict=True)):
            step(
                rule,
                p,
                g,
                one.averages[i],
                one.numbers[i],
                finite=one.flags[i],
                residual=one.rests[i] if rounding == "compensated" else None,
                seed=one.seeds[i] if rounding == "stochastic" else None,
                **settings,
            )
        step_many(
            rule,
            other.params,
            other.grads,
            other.averages,
            other.numbers,
            finite=other.flags,
            residuals=other.rests if rounding == "compensated" else None,
            seeds=other.seeds if rounding == "stochastic" else None,
            **settings,
        )
    return one, other


@pytest.mark.parametrize("kind", [torch.float32, BF16])
@pytest.mark.parametrize("rule", RULES)
def test_as_one_by_one(rule: str, kind: torch.dtype, device: str) -> None:
    one, other = both(rule, kind, "nearest", device)
    for x, y in zip(one.written, other.written, strict=True):
        assert torch.equal(x, y)
    start = Members(rule, kind, device)
    assert torch.equal(other.params[3], start.params[3])  # its flag is False
    assert not torch.equal(other.params[4], start.params[4])


@pytest.mark.parametrize("rounding", ["stochastic", "compensated"])
def test_rounded_as_one_by_one(rounding: str, device: str) -> None:
    one, other = both("adamw", BF16, rounding, device)
    for x, y in zip(one.written, other.written, strict=True):
        assert torch.equal(x, y)


def test_tables_are_made_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = tables.made
    monkeypatch.setattr(tables, "made", lambda *xs: made.append(make(*xs)) or made[-1])
    both("lion", torch.float32, "nearest", device, times=3)
    assert len(made) == 1
    assert sorted(table.aligned for table in made[0]) == [False, True]
    assert sum(len(table.rows) for table in made[0]) == len(SIZES) - 1
    assert sum(len(table.owners) for table in made[0]) == 9


def test_no_more_tables_than_are_kept(device: str) -> None:
    lists = [
        [torch.ones(4, device=device) for _ in range(2)] for _ in range(tables.KEPT + 3)
    ]
    for xs in lists:
        step_many("descent", xs, xs, [[], []], torch.ones(2, 3, device=device))
    assert len(tables._tables) == tables.KEPT
    assert all(x.tolist() == [0.0] * 4 for xs in lists for x in xs)


def test_a_graph_makes_no_table(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is stepped one by one; what is there stays for the graph."""
    monkeypatch.setattr(tables, "is_capturing", lambda _: True)
    monkeypatch.setattr(tables, "_tables", type(tables._tables)())
    monkeypatch.setattr(tables, "_captured", [])
    alone = []
    monkeypatch.setattr(
        module, "step", lambda *xs, **given: alone.append(xs) or step(*xs, **given)
    )
    one, other = both("adamw", torch.float32, "nearest", device)
    assert len(alone) == 2 * len(SIZES) and not tables._tables
    for x, y in zip(one.written, other.written, strict=True):
        assert torch.equal(x, y)
    tables._tables["there"] = []
    assert tables.known("there", torch.device(device)) == []
    assert tables._captured == [[]]


def test_what_is_refused(device: str) -> None:
    xs = [torch.ones(4, device=device), torch.ones(4, dtype=BF16, device=device)]
    numbers = torch.ones(2, 3, device=device)
    with pytest.raises(ValueError, match="of one dtype and one device together"):
        step_many("descent", xs, xs, [[], []], numbers)
    with pytest.raises(ValueError, match="lion keeps 1 averages, not 0"):
        step_many("lion", xs[:1], xs[:1], [[]], numbers)
    step_many("lion", [], [], [], numbers)
    assert xs[0].tolist() == [1.0] * 4
