"""Shampoo: blocks, refreshes, grafting, limits, state."""

from typing import Any

import pytest
import torch
from torch import Tensor

from anthology.linalg import inverse_root
from anthology.optim import Shampoo
from anthology.optim.core import state
from anthology.optim.parts.kronecker import stacks as kronecker
from tests.norm_catalogue import draw


def run(optimizer: torch.optim.Optimizer, w: Tensor, gradients: list[Tensor]) -> Tensor:
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    return w.detach()


def test_blocks_cover_a_tensor_once() -> None:
    for shape, size, count in (
        ((5, 7), 3, 6),
        ((), 2, 1),
        ((4,), 4, 1),
        ((0, 3), 2, 0),
    ):
        blocks = kronecker.cut(shape, size)
        assert len(blocks) == count
        seen = torch.zeros(shape or (1,))
        for block in blocks:
            seen[block] += 1
        assert (seen == 1).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_matrix_along_an_axis(axis: int) -> None:
    x, matrix = draw((6, 3, 4, 5), 1), draw((3 + axis, 3 + axis), 2)
    flat = x.movedim(axis + 1, 1).flatten(2)
    assert torch.equal(kronecker.unfold(x, axis), flat)
    assert torch.equal(kronecker.fold(flat, x, axis), x)
    expected = torch.tensordot(x, matrix, ([axis + 1], [1])).movedim(-1, axis + 1)
    assert torch.allclose(kronecker.multiply(x, matrix, axis), expected)


@pytest.mark.parametrize("foreach", [False, True])
def test_blocks_are_tensors_of_their_own(foreach: bool) -> None:
    whole = draw((5, 3), 0).requires_grad_()
    gradients = [draw((5, 3), 1 + step) for step in range(10)]
    pieces = [whole.detach()[:2].clone(), whole.detach()[2:4].clone()]
    end = run(Shampoo([whole], max_dim=2, foreach=foreach), whole, gradients)
    for number, piece in enumerate(pieces):
        rows = slice(2 * number, 2 * number + 2)
        for columns in (slice(0, 2), slice(2, 3)):
            w = piece[:, columns].clone().requires_grad_()
            alone = run(Shampoo([w]), w, [g[rows, columns] for g in gradients])
            assert (end[rows, columns] - alone).abs().max() < 1e-12


def test_lists_and_loops_agree() -> None:
    shapes = [(4, 3), (4, 3), (3, 4), (5,), (), (2, 3, 4), (4, 3)]
    options = {"betas": (0.9, 0.9), "refresh": 3, "max_dim": 3, "grafting": "rms"}
    ends = []
    for foreach in (False, True):
        params = [draw(s, i).requires_grad_() for i, s in enumerate(shapes)]
        optimizer = Shampoo(params, foreach=foreach, **options)
        for step in range(8):
            for i, p in enumerate(params):
                late = i == 1 and step < 2  # its refreshes fall on other steps
                p.grad = None if late else draw(p.shape, 100 * step + i)
            optimizer.step()
        ends.append([p.detach() for p in params])
    for a, b in zip(*ends, strict=True):
        assert (a - b).abs().max() < 1e-9


@pytest.mark.parametrize("capturable", [False, True])
def test_roots_are_refreshed_at_the_steps_the_docstring_names(capturable) -> None:
    w = torch.zeros(3, 3, dtype=torch.float64).requires_grad_()
    optimizer = Shampoo([w], refresh=4, capturable=capturable)
    changes, last = [], torch.zeros(3, 3, dtype=torch.float64)
    for step in range(1, 11):
        run(optimizer, w, [draw((3, 3), step)])
        root = optimizer.state[w]["root_0_0"].clone()
        changes += [] if torch.equal(root, last) else [step]
        last = root
    assert changes == [1, 5, 9]


@pytest.mark.parametrize(("eps", "length"), [(1e-12, 1e6), (1e-4, 1e2)])
def test_stale_roots_multiply_a_new_direction(eps: float, length: float) -> None:
    """What the docstring warns of: T > 1 with a tiny ε."""
    w = torch.zeros(2, 2, dtype=torch.float64).requires_grad_()
    optimizer = Shampoo([w], 1.0, (0.0, 1.0), eps=eps, refresh=2)
    first, new = torch.zeros(2, 2, 2, dtype=torch.float64).unbind()
    first[0, 0] = new[1, 1] = 1.0
    run(optimizer, w, [first, new])
    assert abs(w[1, 1].item() / length + 1) < 1e-6
    assert abs(w[0, 0].item() + 1) < 1e-3


def test_a_failing_decomposition_does_not_stop_a_run(monkeypatch) -> None:
    true = torch.linalg.eigh

    def eigh(A: Tensor) -> object:
        if A.dtype == torch.float32:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return true(A)

    ends = []
    for broken in (False, True):
        w = torch.ones(4, 3).requires_grad_()
        if broken:
            monkeypatch.setattr(torch.linalg, "eigh", eigh)
        ends.append(run(Shampoo([w]), w, [draw((4, 3), s).float() for s in range(5)]))
    assert (ends[0] - ends[1]).abs().max() < 1e-3


@pytest.mark.parametrize("grafting", ["sgd", "rms"])
def test_a_grafted_step_has_the_length_it_borrows(grafting: str) -> None:
    w = torch.zeros(4, 6, dtype=torch.float64).requires_grad_()
    gradients = [draw((4, 6), step) for step in range(3)]
    run(Shampoo([w], 1.0, (0.0, 1.0), grafting=grafting, max_dim=3), w, gradients[:1])
    expected = gradients[0].norm() if grafting == "sgd" else 24**0.5
    assert abs(w.detach().norm() - expected) < 1e-5
    v = torch.zeros(4, 6, dtype=torch.float64).requires_grad_()
    run(Shampoo([v], 1.0, grafting=grafting, grafting_eps=0.0), v, [0 * gradients[0]])
    assert torch.equal(v.detach(), torch.zeros_like(v))


def test_vectors_can_have_diagonal_factors() -> None:
    w = torch.ones(6).requires_grad_()
    optimizer = Shampoo([w], vectors="diagonal", max_dim=4)
    run(optimizer, w, [draw((6,), 1).float()])
    shapes = {k: tuple(v.shape) for k, v in optimizer.state[w].items() if "_0" in k}
    assert shapes["factor_0_0"] == (4,) and shapes["factor_1_0"] == (2,)
    assert torch.isfinite(w).all()


def test_an_average_can_be_switched_on_later() -> None:
    w = torch.ones(3, 3).requires_grad_()
    optimizer = Shampoo([w], betas=(0.0, 1.0))
    run(optimizer, w, [draw((3, 3), 1).float()])
    optimizer.param_groups[0].update(betas=(0.9, 1.0), momentum=0.5, grafting="rms")
    run(optimizer, w, [draw((3, 3), 2).float()])
    assert {"exp_avg", "momentum_buffer", "exp_avg_sq"} <= set(optimizer.state[w])
    assert torch.isfinite(w).all()


def test_the_step_can_be_differentiated() -> None:
    def end(start: Tensor) -> Tensor:
        w = start.clone()
        optimizer = Shampoo(
            [w], 0.1, (0.5, 0.9), eps=0.1, momentum=0.5, differentiable=True
        )
        for step in range(3):
            w.grad = draw((3, 2), step) * start
            optimizer.step()
        return w

    start = draw((3, 2), 9).requires_grad_()
    assert torch.autograd.gradcheck(end, start)


@pytest.mark.parametrize(
    "wrong",
    [
        {"betas": (1.0, 1.0)},
        {"betas": (0.9, 1.1)},
        {"betas": (0.9, float("nan"))},
        {"betas": (0.9,)},
        {"betas": (0.9, torch.tensor(1.0))},
        {"eps": -1.0},
        {"momentum": 1.0},
        {"nesterov": True},
        {"max_dim": 0},
        {"refresh": 1.5},
        {"power": 0},
        {"root": "svd"},
        {"vectors": "none"},
        {"grafting": "adam"},
        {"grafting_beta": 1.0},
        {"grafting_eps": float("inf")},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_hyper_parameters_are_refused(wrong: dict) -> None:
    w = torch.ones(2, 2).requires_grad_()
    with pytest.raises(ValueError):
        Shampoo([w], **wrong)
    with pytest.raises(ValueError):
        Shampoo([{"params": [w], **wrong}])


def test_it_trains_where_steps_are_needed() -> None:
    """An ill-conditioned regression, at one learning rate, in few steps."""
    x = draw((50, 6), 1) * torch.logspace(0, -2, 6, dtype=torch.float64)
    target = draw((4, 6), 2)
    w = torch.zeros(4, 6, dtype=torch.float64).requires_grad_()
    optimizer = Shampoo([w], lr=0.3)
    first = None
    for _ in range(300):
        optimizer.zero_grad()
        loss = (x @ (w - target).mT).square().mean()
        first = loss.item() if first is None else first
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3 * first


def _trained(steps: int, refresh: int, **more: Any) -> tuple[Tensor, Shampoo]:
    """A matrix after some steps, and its optimizer."""
    torch.manual_seed(0)
    w = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    optimizer = Shampoo([w], lr=0.1, betas=(0.9, 0.9), refresh=refresh, **more)
    _advance(w, optimizer, steps)
    return w, optimizer


def _advance(w: Tensor, optimizer: Shampoo, steps: int) -> None:
    for _ in range(steps):
        w.grad = torch.randn_like(w)
        optimizer.step()


def test_roots_are_state_only_where_they_are_used_again() -> None:
    _, every = _trained(2, 1)
    _, seldom = _trained(2, 2)
    names = {"root_0_0", "root_0_1"}
    assert not names & set(every.state[every.param_groups[0]["params"][0]])
    assert names <= set(seldom.state[seldom.param_groups[0]["params"][0]])


def test_a_checkpoint_with_roots_that_are_no_longer_kept_is_resumed() -> None:
    w, optimizer = _trained(3, 1)
    saved = optimizer.state_dict()
    for axis in (0, 1):  # as versions before wrote it
        saved["state"][0][f"root_0_{axis}"] = torch.full((4 - axis,) * 2, torch.nan)
    v = w.detach().clone().requires_grad_()
    resumed = Shampoo([v], lr=0.1, betas=(0.9, 0.9))
    resumed.load_state_dict(saved)
    for one, other in ((w, optimizer), (v, resumed)):
        torch.manual_seed(1)
        _advance(one, other, 3)
    assert torch.equal(w, v)
    assert not any(name.startswith("root") for name in resumed.state[v])


@pytest.mark.parametrize("shape", [(4, 3), (2,), ()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_refresh_may_change_between_steps(shape, dtype) -> None:
    """From 1 to 7 after five steps: the sixth is not due, and takes the last root."""
    torch.manual_seed(0)
    w = torch.zeros(shape, dtype=dtype, requires_grad=True)
    optimizer = Shampoo([w], 0.1, (0.0, 0.9), eps=1e-12, relative_eps=False)
    _advance(w, optimizer, 5)
    last = state.real(optimizer.state[w]["factor_0_0"]) / (1 - 0.9**5)
    optimizer.param_groups[0]["refresh"] = 7
    _advance(w, optimizer, 1)
    power = 2 * max(len(shape) + dtype.is_complex, 1)
    expected = inverse_root(last, power, epsilon=1e-12)
    found = state.real(optimizer.state[w]["root_0_0"])
    assert (found - expected).norm() < 1e-12 * expected.norm()
