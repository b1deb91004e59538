"""SIRFShampoo: structures by axis, refresh, narrow factors, stacks, extremes."""

import io
import math
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from anthology.linalg import STRUCTURES
from anthology.optim import SIRFShampoo
from anthology.optim.core import batch
from anthology.optim.parts.kronecker import inverse_free
from anthology.testing import contract

SHAPES = [(4, 3), (), (6,), (4, 3), (1, 4, 3), (2, 3, 4), (6, 1), (2, 3, 2, 2), (4, 3)]


def weights(shapes=SHAPES, dtype=torch.float64) -> list[Tensor]:
    torch.manual_seed(1)
    drawn = [torch.randn(s, dtype=torch.float64).to(dtype) for s in shapes]
    return [x.requires_grad_() for x in drawn]


def feed(optimizer: SIRFShampoo, steps: int, seed: int = 2) -> None:
    made = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=made).to(p.dtype)
        optimizer.step()


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("refresh", [1, 3])
def test_stacks_equal_the_loop(name: str, refresh: int) -> None:
    """Equal shapes, axes of one among them, go as one stack."""
    options = {"structures": name, "refresh": refresh, "factor_lr": 0.2}
    results = []
    for foreach in (True, False):
        params = weights()
        optimizer = SIRFShampoo(
            params, 0.1, weight_decay=0.1, batch_size=4, foreach=foreach, **options
        )
        feed(optimizer, 7)
        results.append(params)
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_a_vector_gets_a_diagonal_factor_unless_asked() -> None:
    """B·g² entry by entry; the authors' package would keep d² numbers."""
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = SIRFShampoo([p], 0.5, 0.1, momentum=0.0, batch_size=4, damping=0.2)
    k, m = torch.ones(2, 3, dtype=torch.float64) * torch.tensor([[1.0], [0.0]])
    w = torch.zeros(3, dtype=torch.float64)
    for _ in range(20):
        p.grad = torch.randn(3, dtype=torch.float64)
        m = 0.5 * m + 0.25 * (4 * p.grad**2 * k**2 + 0.2 * k**2 - 1)
        k = k - 0.1 / max(1.0, m.norm().item()) * k * m
        w = w - 0.5 * k**2 * p.grad
        optimizer.step()
    assert (p - w).abs().max() < 1e-12
    assert optimizer.state[p]["factor_0"].shape == (3,)
    dense = SIRFShampoo([p], batch_size=4, structures="dense")
    dense.create_state()
    assert dense.state[p]["factor_0"].shape == (9,)


def test_structures_by_axis_and_by_number_of_axes() -> None:
    shapes = [(5,), (5, 4), (3, 4, 5), (5, 1, 4)]
    sizes = {
        None: [(5,), (25, 16), (9, 16, 25), (25, 16)],
        "lower": [(15,), (15, 10), (6, 10, 15), (15, 10)],
        ("diagonal", "lower"): [(5,), (5, 10), (9, 16, 25), (5, 10)],
    }
    found = {1: "dense", 3: ("diagonal", "dense", "upper-row")}
    by_axes = [(25,), (25, 16), (3, 16, 9), (25, 16)]
    for given, expected in [*sizes.items(), (found, by_axes)]:
        params = weights(shapes)
        optimizer = SIRFShampoo(params, structures=given, batch_size=2)
        feed(optimizer, 1)
        for p, want in zip(params, expected, strict=True):
            state = optimizer.state[p]
            kept = [v.numel() for k, v in state.items() if k.startswith("factor_m")]
            assert tuple(kept) == want
            assert not any(k.startswith("product") for k in state)


def test_groups_have_their_own() -> None:
    a, b = weights([(3, 3), (3, 3)])
    groups = [{"params": [a]}, {"params": [b], "structures": "diagonal", "refresh": 2}]
    optimizer = SIRFShampoo(groups, batch_size=2)
    feed(optimizer, 3)
    assert "product_0" not in optimizer.state[a]
    assert optimizer.state[b]["product_0"].shape == (3,)


@pytest.mark.parametrize("name", ["dense", "diagonal", "block-diagonal", "lower"])
def test_kept_products_are_those_of_the_factors(name: str) -> None:
    """KKᵀ is kept only where it stays in the structure, and changes when K does."""
    (p,) = weights([(4, 3)])
    optimizer = SIRFShampoo([p], 0.1, 0.3, refresh=3, structures=name, batch_size=2)
    seen = []
    for t in range(7):
        feed(optimizer, 1, seed=t)
        state = optimizer.state[p]
        seen.append(state["factor_0"].clone())
        if name == "lower":
            assert "product_0" not in state
            continue
        for n, dim in enumerate((4, 3)):
            kind = inverse_free.kinds_for([4, 3], name)[n]
            expected = kind.outer(state[f"factor_{n}"])
            assert kind.dim == dim
            assert (state[f"product_{n}"] - expected).abs().max() < 1e-13
    changed = [not torch.equal(a, b) for a, b in pairwise(seen)]
    assert changed == [False, False, True, False, False, True]


@pytest.mark.parametrize("options", [{}, {"factor_dtype": "bfloat16"}, {"refresh": 3}])
def test_a_run_resumes_from_a_safe_checkpoint(options) -> None:
    whole, parts = weights(dtype=torch.float32), weights(dtype=torch.float32)
    make = partial(SIRFShampoo, lr=0.1, batch_size=4, **options)
    once, first = make(whole), make(parts)
    feed(once, 4, seed=5)
    feed(once, 4, seed=6)
    feed(first, 4, seed=5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = make(parts)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.state[parts[0]]["factor_0"].dtype == (
        torch.bfloat16 if "factor_dtype" in options else torch.float32
    )
    feed(second, 4, seed=6)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_narrow_factors_round_small_changes_away() -> None:
    """At 32 entries an axis nothing is left of the default step, enough of ten."""
    for rate, moves in ((0.01, False), (0.1, True)):
        (p,) = weights([(32, 32)], torch.float32)
        told = nullcontext() if moves else pytest.warns(match="above 0.0221, got 0.01")
        with told:
            optimizer = SIRFShampoo(
                [p], 0.0, rate, factor_dtype="bfloat16", batch_size=1
            )
        for _ in range(3):
            p.grad = torch.full((32, 32), 1e-20)
            optimizer.step()
        factor = optimizer.state[p]["factor_0"].reshape(32, 32)
        assert torch.equal(factor, torch.eye(32).bfloat16()) is not moves


def test_only_double_precision_is_lost_with_narrow_factors() -> None:
    make = partial(SIRFShampoo, batch_size=8, factor_dtype="bfloat16")
    assert set(contract(make).failed) == {"float64 parameter"}


def test_the_contract_where_flags_cannot_be_read(monkeypatch) -> None:
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    """Beside its defaults, which tests/contract tries."""
    for options in (
        {"refresh": 2, "structures": "upper-toeplitz"},
        {"capturable": True},
    ):
        make = partial(SIRFShampoo, batch_size=8, **options)
        contract(make, "SIRFShampoo").raise_if_failed()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("refresh", [1, 2])
def test_factors_do_not_overflow_and_come_back(dtype: str, refresh: int) -> None:
    """Without damping, factors grow while gradients vanish, up to a bound."""
    (p,) = weights([(3, 2)], torch.float32)
    options = {"damping": 0.0, "refresh": refresh, "factor_dtype": dtype}
    optimizer = SIRFShampoo([p], 1e-3, 0.5, momentum=0.0, batch_size=2, **options)
    for _ in range(600):
        p.grad = torch.full((3, 2), 1e-30)
        optimizer.step()

    def gain() -> float:
        state = optimizer.state[p]
        return math.prod(state[f"factor_{n}"].float().norm().item() for n in (0, 1))

    assert 1e8 < gain() < 1e10
    for _ in range(600):
        p.grad = torch.randn(3, 2)
        optimizer.step()
        assert all(x.isfinite().all() for x in (p, *optimizer.state[p].values()))
    assert gain() < 1e3


def test_complex_scalars_with_narrow_factors() -> None:
    p = torch.tensor(1 + 2j, requires_grad=True)
    optimizer = SIRFShampoo([p], 0.1, factor_dtype="bfloat16", batch_size=2)
    p.grad = torch.tensor(1 - 1j)
    optimizer.step()
    assert p.isfinite()
    assert p != 1 + 2j
    assert optimizer.state[p]["factor_0"].dtype == torch.bfloat16


def test_autograd_follows_the_step() -> None:
    """d/dlr of the parameter after two steps is minus the sum of the moves."""
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def after(lr: Tensor) -> Tensor:
        start = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        p = start.clone()
        optimizer = SIRFShampoo(
            [p], lr, 0.3, batch_size=2, differentiable=True, refresh=2
        )
        for scale in (1.0, 0.5):
            p.grad = scale * torch.arange(6.0, dtype=torch.float64).reshape(3, 2) * p
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(after, [lr])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor_lr": 1.0}, "factor_lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"factor_momentum": -0.1}, "factor_momentum"),
        ({"damping": math.nan}, "damping"),
        ({"refresh": 0}, "a positive integer"),
        ({"refresh": 1.5}, "a positive integer"),
        ({"refresh": 2, "capturable": True}, "a graph cannot choose"),
        ({"factor_dtype": "float16"}, "'bfloat16' or 'float32' or 'float64'"),
        ({"batch_size": 0}, "number of terms"),
        ({"structures": "circulant"}, "'circulant'; it must be 'dense' or"),
        ({"structures": {2: ("dense",)}}, "1 names for 2 axes"),
        ({"structures": {"2": "dense"}}, "'2' is no number of axes"),
        ({"structures": ("dense", "low")}, "'low'"),
        ({"structures": 3}, "3; it must be a name"),
    ],
)
def test_wrong_arguments(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        SIRFShampoo([torch.ones(2, 2)], **{"batch_size": 2, **options})
    optimizer = SIRFShampoo([torch.ones(2, 2)], batch_size=2)
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [torch.ones(2)], **options})
    assert len(optimizer.param_groups) == 1
