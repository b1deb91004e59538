"""A file of results that grows run by run, and a note on how they came about."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parent / "results"


class Store:
    """One JSON file, written anew after each run; holds what was done so far."""

    def __init__(self, path: Path, provenance: dict[str, Any]) -> None:
        self.path = path
        self.content = json.loads(path.read_text()) if path.exists() else {}
        self.content.setdefault("provenance", provenance)
        self.runs = self.content.setdefault("runs", {})

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """The stored result under this key, or else the one `work` returns."""
        if key not in self.runs:
            self.runs[key] = work()
            self.save()
            print(key, self.runs[key], flush=True)
        return self.runs[key]

    def save(self) -> None:
        """Replace the file in one go, so that a stop cannot leave half of it."""
        self.path.parent.mkdir(exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.content, indent=1) + "\n")
        draft.replace(self.path)


def provenance(script: str) -> dict[str, Any]:
    """When a script ran, on what, and with which versions."""
    return {
        "command": f"python experiments/{script}",
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPU cores, one thread used",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
