"""A step passes few files: who follows a gradient has few of them to open."""

from typing import Any, cast

import pytest

from tests.examples import OURS
from tools.hops import hops

MOST = {"SGD": 6, "Lion": 6, "AdamW": 6, "Muon": 10}


@pytest.mark.parametrize("name", MOST)
def test_a_step_passes_few_files(name: str) -> None:
    files, _ = hops(cast(Any, OURS[name]))
    assert len(files) <= MOST[name], files
