"""What the page of conventions says of complex parameters, class by class."""

import re
from pathlib import Path

import pytest
import torch

from anthology.norms import LInf
from anthology.optim import Muon, Signum, SteepestDescent
from tests.unit.test_optim_names import KINDS

PAGE = Path(__file__).resolve().parents[2] / "chapters/reference/conventions.md"
SHAPES = [(4, 3), (5,), (), (2, 3, 4)]


def lists():
    """The classes that the page names as measuring complex numbers, and as pairs."""
    text = PAGE.read_text(encoding="utf-8")
    first = re.search(r"^- Methods with a norm,(.*?) measure", text, re.MULTILINE)[1]
    second = re.search(r"^- All others(.*?) take the step", text, re.MULTILINE)[1]
    return [set(re.findall(r"`(\w+)`", part)) for part in (first, second)]


def trained(kind, start, gradients, seen=lambda x: x):
    p = seen(start).clone().requires_grad_()
    optimizer = kind([p])
    for g in gradients:
        p.grad = seen(g).clone()
        optimizer.step()
    return p.detach()


def drawn(shape):
    torch.manual_seed(2)
    start, *gradients = torch.randn(13, *shape, dtype=torch.complex128).unbind()
    return start, gradients


def test_the_page_places_every_class():
    whole, pairs = lists()
    assert whole | pairs == set(KINDS)
    assert whole & pairs == {"Muon"}, "its two rules"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(lists()[1]))
def test_these_take_the_step_of_a_real_parameter_with_an_axis_more(name, shape):
    kind = KINDS[name]
    if name == "Muon":
        kind = lambda p: Muon([{"params": p, "rule": "adamw"}])
    start, gradients = drawn(shape)
    ours = trained(kind, start, gradients)
    other = trained(kind, start, gradients, torch.view_as_real)
    assert torch.equal(torch.view_as_real(ours), other)
    assert not torch.equal(ours, start)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(lists()[0]))
def test_the_step_of_these_turns_with_the_gradient(name, shape):
    if name == "Muon" and len(shape) < 2:
        pytest.skip("no matrix: AdamW's")
    start, gradients = torch.zeros(shape, dtype=torch.complex128), drawn(shape)[1]
    turn = torch.polar(torch.ones((), dtype=torch.float64), torch.tensor(0.7).double())
    one = trained(KINDS[name], start, gradients)
    other = trained(KINDS[name], start, [g * turn for g in gradients])
    assert (one * turn - other).abs().max() < 1e-9 * (one - start).abs().max()
    pairs = trained(KINDS[name], start, gradients, torch.view_as_real)
    gap = (torch.view_as_real(one) - pairs).abs().max()
    assert gap > 1e-3 * (one - start).abs().max()


@pytest.mark.parametrize("kind", [Muon, SteepestDescent])
def test_a_matrix_moves_along_its_complex_polar_factor(kind):
    g = drawn((4, 3))[0]
    options = {"method": "svd", "adjust_lr_fn": "none"} if kind is Muon else {}
    options |= {"norm": "Spectral()"} if kind is SteepestDescent else {}
    options |= {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    step = trained(lambda p: kind(p, 1.0, **options), torch.zeros_like(g), [g])
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    assert (step + u @ vh).abs().max() < 1e-12


def test_the_max_norm_of_complex_numbers_is_not_that_of_pairs():
    g = drawn((5,))[0]
    sign = trained(lambda p: Signum(p, 0.5), torch.zeros_like(g), [g])
    real = torch.view_as_real(g).sign()
    assert torch.equal(torch.view_as_real(sign), -0.5 * real)
    steepest = trained(
        lambda p: SteepestDescent(p, 0.5, norm=LInf()), torch.zeros_like(g), [g]
    )
    assert (steepest + 0.5 * g / g.abs()).abs().max() < 1e-12
