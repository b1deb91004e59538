"""Which process computes which matrix."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest

from anthology.optim.core.sharding.mesh import assign, matrix_cost
from experiments.ranks import MODELS, RESULTS, matrices, table, traffic


def loads(costs: list[float], owners: list[int], ranks: int) -> list[float]:
    found = [0.0] * ranks
    for cost, owner in zip(costs, owners, strict=True):
        found[owner] += cost
    return found


def best(costs: list[float], ranks: int) -> float:
    """The least largest load there is, by trying all."""
    every = itertools.product(range(ranks), repeat=len(costs))
    return min(max(loads(costs, list(owners), ranks)) for owners in every)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_never_worse_than_four_thirds_of_the_best(ranks: int) -> None:
    draw = random.Random(0)
    for _ in range(60):
        costs = [float(draw.randint(1, 20)) for _ in range(draw.randint(1, 7))]
        largest = max(loads(costs, assign(costs, ranks), ranks))
        assert largest <= (4 / 3 - 1 / (3 * ranks)) * best(costs, ranks) + 1e-9


def test_what_was_there_before_counts() -> None:
    assert assign([3.0, 2.0], 3, [9.0, 1.0, 0.0]) == [2, 1]
    assert assign([], 2) == []


@pytest.mark.parametrize("arguments", [([1.0], 0), ([1.0], 2, [0.0])])
def test_impossible_processes_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="process|ranks"):
        assign(*arguments)


def test_the_cost_of_a_shape() -> None:
    assert matrix_cost((30, 20)) == 20 * 400 * 30 + 10 * 8000
    assert matrix_cost((20, 30)) == matrix_cost((30, 20))
    assert matrix_cost((7, 20, 30)) == 7 * matrix_cost((20, 30))
    assert matrix_cost((16, 8, 3, 3)) == matrix_cost((16, 72))
    assert (matrix_cost((5,)), matrix_cost(()), matrix_cost((0, 3))) == (5, 1, 0)


@pytest.mark.parametrize("ranks", [1, 2, 5, 16])
def test_what_is_sent_is_received(ranks: int) -> None:
    shapes = [(7, 3), (4, 4), (1, 9), (5,), (16, 2, 2)]
    owners = assign([matrix_cost(shape) for shape in shapes], ranks)
    pairs = traffic(shapes, owners, ranks)
    assert sum(sent for sent, _ in pairs) == sum(got for _, got in pairs)
    numbers = sum(math.prod(shape) for shape in shapes)
    assert sum(sent for sent, _ in pairs) <= 3 * numbers
    if ranks == 1:
        assert pairs == [(0, 0)]


def test_the_transformers_have_their_published_sizes() -> None:
    """Numbers between embedding and head, gains left out."""
    sizes = {m: sum(a * b for a, b in matrices(m)) for m in MODELS}
    assert sizes == {
        "Llama 3.2 1B": 1_235_814_400 - 128_256 * 2048 - 33 * 2048,
        "Llama 3 8B": 8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096,
        "Llama 3 70B": 70_553_706_496 - 2 * 128_256 * 8192 - 161 * 8192,
    }


def test_the_stored_table_is_what_the_script_makes() -> None:
    stored = json.loads(Path(RESULTS).read_text())
    assert json.loads(json.dumps(table(stored["rates"]))) == stored["rows"]
