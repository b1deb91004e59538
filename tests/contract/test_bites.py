"""The suite bites: an optimizer broken on purpose fails the check meant for it."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch

from anthology.testing import CHECKS, contract
from anthology.testing.subject import Subject
from tests.contract.fault_classes import FAULTS, Sound


def test_the_sound_one_passes() -> None:
    contract(Sound).raise_if_failed()


def test_there_is_a_fault_for_every_check() -> None:
    assert set(FAULTS) == {check.name for check in CHECKS}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_its_check_and_no_other(name: str) -> None:
    report = contract(FAULTS[name], name)
    assert report.failed == [name], str(report)


def watching(param: Any, group: Any) -> Any:
    watched = torch.zeros((), device=param.device)
    return {**Sound.rule.new_state(param, group), "watched": watched}


def patient(kind: type[Sound], steps: int) -> type[Sound]:
    """The same optimizer, which only watches the first gradients of each tensor."""

    class Patient(kind):  # type: ignore[valid-type, misc]
        warmup_steps = steps

        rule = replace(Sound.rule, new_state=watching)

        def hide(self) -> list[Any]:
            hidden = []
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None or p.grad.is_sparse:
                        continue
                    watched = self.state_of(p, group)["watched"]
                    if watched < steps:
                        watched += 1
                        hidden.append((p, p.grad))
                        p.grad = None
            return hidden

        def step(self, closure: Any = None) -> Any:
            inner, hidden = inspect.unwrap(kind.step), []

            def evaluate() -> Any:
                loss = closure()
                hidden.extend(self.hide())
                return loss

            if closure is None:
                hidden.extend(self.hide())
            loss = inner(self, closure and evaluate)
            for p, g in hidden:
                p.grad = g
            return loss

    return Patient


def test_a_declared_warm_up_keeps_the_contract_and_is_named() -> None:
    for steps, said in ((1, "50/50 checks passed after 1 gradient watched"), (4, "4")):
        report = contract(patient(Sound, steps))
        report.raise_if_failed()
        assert said in str(report)
    assert "watched" not in str(contract(Sound))


def test_an_undeclared_one_fails() -> None:
    class Silent(patient(Sound, 1)):  # type: ignore[misc]
        warmup_steps = 0

    failed = set(contract(Silent).failed)
    demands = {"first move", "missing gradient", "late gradient", "closure"}
    assert demands | {"hooks", "named parameters", "added group"} <= failed


def test_one_that_is_too_short_fails() -> None:
    class Late(patient(Sound, 3)):  # type: ignore[misc]
        warmup_steps = 2

    assert {"first move", "missing gradient", "added group"} <= set(
        contract(Late).failed
    )


@pytest.mark.parametrize("steps", [11, 10**9, -1, 1.5, True, "1", None])
def test_one_that_could_hide_everything_fails_everything(steps: Any) -> None:
    class Hidden(Sound):
        warmup_steps = steps

    report = contract(Hidden)
    assert len(report.failed) > 30
    assert "a whole number from 0 to 10" in str(report)
    assert "watched" not in str(report)


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "first move"])
def test_no_fault_hides_behind_a_declared_warm_up(name: str) -> None:
    (check,) = (check for check in CHECKS if check.name == name)
    assert not check.run(Subject(patient(FAULTS[name], 1))).passed
