"""Predictions along symmetries: numbers and tensors, small products, refusals."""

import math

import pytest
import torch

from anthology.motion import (
    effective_rate,
    equilibrium_angle,
    norm_equilibrium,
    norm_rate,
    norm_relaxation,
    norm_step,
    norm_velocity,
    translation_rate,
)

F64 = torch.float64


def test_numbers_and_tensors_alike():
    s, G = torch.tensor([1.0, 4.0], dtype=F64), torch.tensor([2.0, 3.0], dtype=F64)
    for law in (norm_step, norm_velocity):
        each = [law(float(a), float(b), 0.1, 0.2) for a, b in zip(s, G, strict=True)]
        assert law(s, G, 0.1, 0.2).tolist() == pytest.approx(each)
    times = torch.tensor([0.0, 2.0], dtype=F64)
    each = [norm_relaxation(1.0, 0.5, float(t), 0.1, 0.2) for t in times]
    assert norm_relaxation(1.0, 0.5, times, 0.1, 0.2).tolist() == pytest.approx(each)
    assert effective_rate(s, 0.1).tolist() == pytest.approx([0.1, 0.025])
    assert effective_rate(0.0, 0.1) == math.inf
    assert math.isnan(norm_step(math.nan, 1.0, 0.1))


def test_small_products_keep_their_digits():
    assert equilibrium_angle(1e-10, 1e-10) == pytest.approx(math.sqrt(2e-20))
    assert translation_rate(1e-10, 1e-10) == pytest.approx(1e-10, rel=1e-14)
    assert norm_rate(1e-10, 1e-10) == pytest.approx(4e-10, rel=1e-14)
    assert equilibrium_angle(0.05, 0.1) == pytest.approx(0.100042, abs=1e-6)
    assert equilibrium_angle(0.5, 0.5) == pytest.approx(0.722734, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: norm_step("1", 1.0, 0.1), TypeError, "square must be a number"),
        (lambda: norm_step(1.0, 1.0, -0.1), ValueError, "Invalid learning rate"),
        (lambda: norm_step(1.0, 1.0, 0.1, -1.0), ValueError, "decay"),
        (lambda: norm_velocity(1.0, 1.0, 0.1, order=3), ValueError, "needs bend"),
        (lambda: norm_velocity(1.0, 1.0, 0.1, order=4), ValueError, "at most 3"),
        (lambda: norm_equilibrium(1.0, 0.1, 0.0), ValueError, "must be positive"),
        (lambda: norm_equilibrium(1.0, 1.0, 2.0), ValueError, "below 2"),
        (lambda: norm_rate(1.0, 0.3), ValueError, "oscillates"),
        (lambda: norm_rate(1.0, 0.3, order=3), ValueError, "at most 2"),
        (lambda: norm_relaxation(1.0, 1.0, [1], 1.0, 0.3), TypeError, "time"),
        (lambda: equilibrium_angle(1.0, 2.0), ValueError, "below 2"),
        (lambda: equilibrium_angle(1.0, True), TypeError, "decay must be a float"),
        (lambda: translation_rate(1.0, 1.0), ValueError, "change of sign"),
        (lambda: translation_rate(1.0, 0.1, order=0), ValueError, "at least 1"),
    ],
)
def test_refused_numbers(call, error, text):
    with pytest.raises(error, match=text):
        call()
