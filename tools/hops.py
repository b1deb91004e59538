"""Through how many files of the package a gradient passes in one step.

    python tools/hops.py            a table of every optimizer
    python tools/hops.py AdamW      and which files, in the order in which they are met

Counted in the third step, when state is there: files whose functions are called, and
how often a call goes from one file to another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

PACKAGE = ROOT / "anthology"


def walked(act: Callable[[], Any]) -> tuple[list[str], int]:
    """The files that an act passes, and the number of calls between two of them."""
    files: dict[str, None] = {}
    changes = 0

    def seen(frame: FrameType, event: str, _: Any) -> None:
        nonlocal changes
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(str(PACKAGE)):
            return
        files[str(Path(name).relative_to(PACKAGE))] = None
        above = frame.f_back
        changes += above is not None and above.f_code.co_filename != name

    sys.setprofile(seen)
    try:
        act()
    finally:
        sys.setprofile(None)
    return list(files), changes


def hops(factory: Callable[..., Any]) -> tuple[list[str], int]:
    """Of a step of an optimizer on a small network."""
    torch.manual_seed(0)
    shapes = [(8, 4), (8,), (8, 8), (8,)]
    params = [torch.randn(s).requires_grad_() for s in shapes]
    optimizer = factory(params)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    optimizer.step()
    return walked(optimizer.step)


def main() -> None:
    """Print what is asked for."""
    from tests.examples import OURS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="examples; all without")
    names = parser.parse_args().names
    for name in names or OURS:
        files, changes = hops(cast(Any, OURS[name]))
        print(f"{name:32} {len(files):3} files {changes:4} changes")
        for file in files if names else ():
            print("   ", file)


if __name__ == "__main__":
    main()
