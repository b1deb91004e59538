"""Every optimizer of the package keeps the whole contract, on both paths."""

import pytest
import torch

from anthology.optim.core import batch
from anthology.testing import CHECKS, contract
from tests.examples import BLIND, OURS


@pytest.mark.parametrize("name", OURS)
def test_every_optimizer_keeps_the_contract(name: str) -> None:
    contract(OURS[name], name).raise_if_failed()


@pytest.mark.parametrize("name", BLIND)
def test_it_is_kept_where_flags_cannot_be_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path for devices, on which the host must not wait, run on the CPU."""
    monkeypatch.setattr(batch, "reads_flags_for_free", lambda device: False)
    contract(OURS[name], name).raise_if_failed()


def test_what_the_contract_demands_is_all_there() -> None:
    """The demands by name, so that none can be dropped unnoticed."""
    names = {check.name for check in CHECKS}
    shapes = {"scalar", "vector", "matrix", "empty", "non contiguous"}
    dtypes = {"bfloat16", "float64", "complex"}
    assert {f"{kind} parameter" for kind in shapes | dtypes} <= names
    assert {
        "gradient not mutated",
        "gradient kept",
        "missing gradient",
        "zero gradient",
        "first move",
        "nan gradient",
        "infinite gradient",
        "huge gradient",
        "tiny gradient",
        "three axes",
        "four axes",
        "sparse gradient",
        "closure",
        "maximize",
        "cautious decay",
        "corrected decay",
        "tensor learning rate",
        "negative learning rate refused",
        "nan learning rate refused",
        "checkpoint",
        "deep copy",
        "foreign checkpoint",
        "torn checkpoint",
        "bad group in a checkpoint",
        "entry of the user",
        "separate memory",
        "removed parameter",
        "hooks",
        "foreign group keys",
        "named parameters",
        "group with zero rate",
        "scheduler",
        "warm up from zero",
        "descends on a quadratic",
    } <= names
    assert len(names) == len(CHECKS) == 50
    assert all(len(check.harm) > 15 for check in CHECKS)


def test_peers_are_measured_by_the_same_suite() -> None:
    """torch.optim.AdamW keeps what its users rely on, and does not survive a NaN."""
    report = contract(torch.optim.AdamW)
    assert "nan gradient" in report.failed
    assert {"checkpoint", "complex parameter", "closure"} <= set(report.passed)
