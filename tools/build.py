"""Build the book under the strict settings, and say which file to open.

Every warning is an error, every reference must resolve, and every page is made
anew, so that nothing left from an earlier build can hide one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from jupyter_book.cli.main import main as jupyter_book

ROOT = Path(__file__).resolve().parent.parent
STRICT = ["build", str(ROOT), "--all", "--quiet", "-W", "-n", "--keep-going"]
PLAIN = """
The formulas of this copy are drawn by a script from another host, because Node.js
was not found. To make it stand alone, install Node.js and build again."""


def main() -> int:
    site = ROOT / "_build" / "html"
    for folder in (site, ROOT / "_build" / ".doctrees"):
        shutil.rmtree(folder, ignore_errors=True)
    jupyter_book(STRICT, standalone_mode=False)
    print(f"\nThe book is built. Open it in a browser:\n  {site / 'index.html'}")
    if not (site / "_static" / "mathjax").is_dir():
        print(PLAIN)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
