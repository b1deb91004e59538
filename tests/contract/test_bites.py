"""The suite bites: an optimizer broken on purpose fails the check meant for it."""

import pytest

from anthology.testing import CHECKS, contract
from tests.contract.fault_classes import FAULTS, Sound


def test_the_sound_one_passes() -> None:
    contract(Sound).raise_if_failed()


def test_there_is_a_fault_for_every_check() -> None:
    assert set(FAULTS) == {check.name for check in CHECKS}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_check_and_no_other(name: str) -> None:
    report = contract(FAULTS[name], name)
    assert report.failed == [name], str(report)
