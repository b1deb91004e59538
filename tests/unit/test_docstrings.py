"""The examples of all docstrings run, and every optimizer has one."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import anthology
from tests.examples import public

MODULES = [
    module.name
    for module in pkgutil.walk_packages(anthology.__path__, "anthology.")
    if not module.name.endswith("__main__")
]
WITH_EXAMPLES = [
    name
    for name in MODULES
    if ">>>" in inspect.getsource(importlib.import_module(name))
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("name", public())
def test_every_optimizer_has_an_example(name):
    own = public()[name].__doc__
    assert own is not None and ">>>" in own, f"{name} has no runnable example"
