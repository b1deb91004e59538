"""Certificates of steps: what they measure, on which optimizers, at what price."""

import copy
import math

import pytest
import torch
from torch import nn

from anthology import optim
from anthology.norms import L2, LInf, RMSToRMS, Spectral, metrize
from anthology.optim import certificates


def matrix(*shape, dtype=torch.float64):
    return torch.randn(shape or (6, 4), dtype=dtype).requires_grad_()


def feed(optimizer, *params):
    for p in params:
        p.grad = torch.randn(p.shape, dtype=p.dtype)
    optimizer.step()


def test_the_figures_are_their_definitions():
    p = matrix()
    optimizer = torch.optim.AdamW([("w", p)], lr=0.1, weight_decay=0.2)
    steps = certificates(optimizer, RMSToRMS())
    for number in (1, 2, 3):
        before = p.detach().clone()
        feed(optimizer, p)
        move, m = p.detach() - before, optimizer.state[p]["exp_avg"]
        norm, record = RMSToRMS(), steps.records[-1]
        assert record[:3] == (number, "w", "RMSToRMS()")
        assert math.isclose(record.size, norm.norm(move))
        assert math.isclose(record.ratio, norm.norm(move) / norm.norm(before))
        assert math.isclose(record.dual, norm.dual(p.grad))
        best = norm.dual(p.grad) * norm.norm(move)
        assert math.isclose(record.efficiency, -(p.grad * move).sum() / best)
        best = norm.dual(m) * norm.norm(move)
        assert math.isclose(record.average_efficiency, -(m * move).sum() / best)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_an_average_kept_in_a_basis_is_turned_back(dtype):
    found = []
    for refresh in (2, 10):  # kept as it is, and in the basis
        torch.manual_seed(0)
        p = torch.randn(6, 4, dtype=dtype, requires_grad=True)
        optimizer = optim.SOAP([p], refresh=refresh, skip_first=False)
        steps = certificates(optimizer, "LInf()")
        for _ in range(2):  # the second only is in another basis
            feed(optimizer, p)
        found.append([record.average_efficiency for record in steps.records])
    # in null directions Adam divides rounding, near 1e-16, by its ε of 1e-8
    assert math.isclose(found[0][0], found[1][0], rel_tol=1e-7)
    assert 0 < found[1][1] <= 1


@pytest.mark.claim("certificates", tol=1e-10, trials=20)
@pytest.mark.parametrize("norm", ["LInf()", "RMSToRMS()", "MaxAbs()", "Frobenius()"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_the_dual_gap_of_steepest_descent_is_closed(claim, norm, nesterov):
    p, q = matrix(), matrix(3, 5)
    optimizer = optim.SteepestDescent([p, q], 0.25, 0.9, nesterov, norm=norm)
    steps = certificates(optimizer)
    assert steps.records == []
    steps.remove()
    steps = certificates(optimizer, norm)
    for _ in range(claim.trials):
        feed(optimizer, p, q)
    assert len(steps.records) == 2 * claim.trials
    for record in steps.records:
        assert abs(record.size - 0.25) < claim.tol
        assert abs(record.average_efficiency - 1) < claim.tol
        assert record.efficiency < 1 + claim.tol


@pytest.mark.claim("certificates", tol=1e-10, trials=20)
def test_exact_muon_saturates_its_norm_and_five_steps_do_not(claim):
    p = matrix()
    exact = optim.Muon([p], 0.1, 0.0, method="svd", adjust_lr_fn="rms_to_rms")
    with certificates(exact, RMSToRMS()) as steps:
        for _ in range(claim.trials):
            feed(exact, p)
    for record in steps.records:
        assert abs(record.size - 0.1) < claim.tol
        assert abs(record.average_efficiency - 1) < claim.tol
    fast = optim.Muon([p], 0.1, 0.0, adjust_lr_fn="rms_to_rms")
    with certificates(fast, RMSToRMS()) as steps:
        feed(fast, p)
    assert 0.7 < steps.records[0].average_efficiency < 0.999


def test_adam_without_averages_is_certified_as_sign_descent():
    p = matrix()
    optimizer = torch.optim.Adam([p], lr=0.5, betas=(0.0, 0.0), eps=1e-30)
    with certificates(optimizer, LInf()) as steps:
        feed(optimizer, p)
    (record,) = steps.records
    assert math.isclose(record.size, 0.5) and math.isclose(record.efficiency, 1)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("maximize", [True, False])
def test_the_sum_that_sgd_keeps_is_understood(nesterov, maximize):
    p = matrix()
    options = {"momentum": 0.9, "nesterov": nesterov, "maximize": maximize}
    optimizer = torch.optim.SGD([p], 0.1, **options)
    with certificates(optimizer, L2()) as steps:
        for _ in range(5):
            feed(optimizer, p)
    for record in steps.records:
        assert math.isclose(record.average_efficiency, 1)
    assert math.isclose(steps.records[0].efficiency, 1)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, optim.Muon, optim.AdamW])
def test_a_metrized_model_brings_its_norms(kind):
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    groups = metrize(model)
    norms = {row.name: repr(row.norm) for row in groups.rows}
    optimizer = kind(groups)
    with certificates(optimizer) as steps:
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    assert {r.name: r.norm for r in steps.records} == norms
    assert len(str(steps).splitlines()) == 1 + len(norms)
    assert all(0 < r.efficiency <= 1 + 1e-5 for r in steps.records)


def test_measured_steps_are_the_same_steps_and_the_handle_comes_off():
    p = matrix()
    q = p.detach().clone().requires_grad_()
    watched, plain = torch.optim.AdamW([p]), torch.optim.AdamW([q])
    steps = certificates(watched)
    for number in range(6):
        if number == 4:
            steps.remove()
        p.grad = torch.randn_like(p)
        q.grad = p.grad.clone()
        watched.step()
        plain.step()
        assert torch.equal(p.grad, q.grad) and torch.equal(p, q)
    assert len(steps.records) == 4
    steps.clear()
    assert steps.records == [] and str(steps).startswith("name")
    assert not watched._optimizer_step_pre_hooks
    assert not watched._optimizer_step_post_hooks
    copy.deepcopy(watched)


def test_every_so_many_steps():
    p = matrix()
    optimizer = torch.optim.AdamW([p])
    steps = certificates(optimizer, every=3)
    for _ in range(8):
        feed(optimizer, p)
    assert [r.step for r in steps.records] == [1, 4, 7]


def test_a_closure_counts_with_the_gradient_it_computed():
    p = matrix()
    optimizer = torch.optim.SGD([p], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with certificates(optimizer, L2()) as steps:
        optimizer.step(closure)
        optimizer.step(closure=closure)
    assert [math.isclose(r.efficiency, 1) for r in steps.records] == [True, True]


def test_the_gradient_is_the_one_from_before_the_step():
    class Rude(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for p in self.param_groups[0]["params"]:
                p.grad.mul_(-1)

    p = matrix()
    optimizer = Rude([p], 0.1)
    with certificates(optimizer, L2()) as steps:
        feed(optimizer, p)
    assert math.isclose(steps.records[0].efficiency, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.complex64])
def test_other_number_types_and_what_has_nothing_to_measure(dtype):
    p, idle, empty, still = (matrix(dtype=dtype) for _ in range(4))
    empty = torch.zeros(0, 3, dtype=dtype).requires_grad_()
    optimizer = optim.AdamW([p, idle, empty, still], lr=0.1, weight_decay=0.0)
    still.grad, empty.grad = torch.zeros_like(still), torch.zeros_like(empty)
    with certificates(optimizer) as steps:
        feed(optimizer, p)
    moved, zero = steps.records
    assert 0 < moved.efficiency <= 1 and moved.size > 0
    assert (zero.size, zero.dual) == (0, 0) and math.isnan(zero.efficiency)


def test_a_gradient_that_is_not_finite_and_a_sparse_one():
    p = matrix()
    optimizer = optim.AdamW([p])
    with certificates(optimizer) as steps:
        p.grad = torch.full_like(p, math.nan)
        optimizer.step()
    assert steps.records[0].size == 0 and math.isnan(steps.records[0].dual)
    p.grad = torch.eye(6, 4, dtype=p.dtype).to_sparse()
    optimizer = torch.optim.SGD([p], 0.1)
    with certificates(optimizer, Spectral()) as steps:
        optimizer.step()
    assert math.isclose(steps.records[0].efficiency, 1)


def test_a_norm_by_name_and_what_is_refused():
    p, b = matrix(), torch.randn(3).requires_grad_()
    optimizer = torch.optim.SGD([("w", p), ("b", b)], 0.1)
    with certificates(optimizer, {"w": "MaxAbs()"}) as steps:
        feed(optimizer, p, b)
    assert [r.norm for r in steps.records] == ["MaxAbs()", "RMS()"]
    refused = [
        ({"v": L2()}, "'v'"),
        ("Nothing()", "Nothing"),
        ("Split(RMSToRMS(), 4)", "4 equal parts"),
    ]
    for norms, text in refused:
        with pytest.raises(ValueError, match=text):
            certificates(optimizer, norms)
    with pytest.raises(TypeError, match="norm"):
        certificates(optimizer, 3)
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match="every"):
            certificates(optimizer, every=every)
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
def test_torch_muon_is_measured_like_ours():
    records = []
    for kind in (torch.optim.Muon, optim.Muon):
        torch.manual_seed(0)
        p = matrix(12, 20, dtype=torch.float32)
        optimizer = kind([p], lr=0.1)
        with certificates(optimizer) as steps:
            for _ in range(3):
                feed(optimizer, p)
        records.append(steps.records[-1])
    theirs, ours = records
    assert abs(theirs.size - ours.size) < 0.02 * ours.size
    assert abs(theirs.average_efficiency - ours.average_efficiency) < 0.02
