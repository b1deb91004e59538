"""Kernels run in Triton's interpreter where there is no CUDA device."""

import os
import sys
from importlib.util import find_spec

import pytest
import torch

# Triton looks at the variable when it is first imported, so it is set when tests are
# collected. On CUDA the same tests check what the device computes.
CUDA = torch.cuda.is_available()
TOO_LATE = "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1"
if not CUDA and not TOO_LATE:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> str:
    """Where the kernels run; the test is skipped, saying why, where they cannot."""
    if not find_spec("triton"):
        pytest.skip("needs triton, which `pip install triton` has for Linux")
    if not CUDA and TOO_LATE:
        pytest.skip("triton was imported before: run tests/kernels first, or alone")
    return "cuda" if CUDA else "cpu"
