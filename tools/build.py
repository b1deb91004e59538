"""Build the book under the strict settings, and say which file to open.

Every warning is an error, every reference must resolve, and every page is made
anew, so that nothing left from an earlier build can hide one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jupyter_book.sphinx import build_sphinx

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_build" / "html"
# Pages are read and written by so many processes, each of half a gigabyte.
JOBS = min(os.cpu_count() or 1, 4)
PLAIN = """
The formulas of this copy are drawn by a script from another host, because Node.js
was not found. To make it stand alone, install Node.js and build again."""


def build() -> object:
    """What ``jupyter-book build --all -W -n --keep-going`` does, in several processes.

    Returns
    -------
    object
        0 if all is well; else a status or the exception that ended it.
    """
    for folder in (SITE, SITE.with_name(".doctrees")):
        shutil.rmtree(folder, ignore_errors=True)
    overrides = {"external_toc_path": str(ROOT / "_toc.yml"), "nitpicky": True}
    return build_sphinx(
        ROOT,
        SITE,
        noconfig=True,
        path_config=ROOT / "_config.yml",
        confoverrides=overrides | {"latex_individualpages": False},
        freshenv=True,
        warningiserror=True,
        keep_going=True,
        quiet=True,
        jobs=JOBS,
    )


def main() -> int:
    if build() != 0:
        print("\nThe book was not built: the lines above say why.")
        return 1
    print(f"\nThe book is built. Open it in a browser:\n  {SITE / 'index.html'}")
    if not (SITE / "_static" / "mathjax").is_dir():
        print(PLAIN)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
