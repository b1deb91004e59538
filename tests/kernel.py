"""A kernel for tests of what only a notebook does, and cells that run in it."""

import os
from pathlib import Path
from queue import Empty

import pytest
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def kernel():
    """A client of a fresh kernel that finds the package."""
    manager, client = start_new_kernel(env={**os.environ, "PYTHONPATH": str(ROOT)})
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def cell(client, source):
    """Run a cell: its text, the bundles it showed, its error as (name, text)."""
    asked = client.execute(source)
    found = {"text": "", "data": [], "error": None}
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except Empty:
            raise AssertionError(f"no answer to {source!r}") from None
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            found["text"] += content["text"]
        elif kind in ("display_data", "execute_result"):
            found["data"].append(content["data"])
        elif kind == "error":
            found["error"] = (content["ename"], content["evalue"])
        elif kind == "status" and content["execution_state"] == "idle":
            return found
