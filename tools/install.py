"""Install into the environment of this Python, by uv or else by pip.

``python tools/install.py -r requirements.txt`` takes what pip's ``install`` takes. uv
does it in a fifth of the time, but reads no settings of pip: those that say where
packages are and which are allowed are handed on. Where uv is not to be had, or does
not succeed, pip does it.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip")
UV = (sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable)
# pip's settings, uv's for the same, and what stands between several values.
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "cert": ("SSL_CERT_FILE", " "),
}

# Where pip's settings stand; the last counts most.
SECTIONS = ("global", "install", ":env:")


def settings(listed: str) -> dict[str, str]:
    """uv's settings for those of pip.

    Parameters
    ----------
    listed : str
        What ``pip config list`` says: ``global.find-links='/some/folder'`` and
        the like, one a line.

    Returns
    -------
    dict of str
        Variables of the environment.
    """
    # as with pip, the best version counts, not the first index that has any
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    lines = [line.partition("=")[::2] for line in listed.splitlines()]
    for section in SECTIONS:
        for key, value in lines:
            where, _, what = key.rpartition(".")
            if where == section and what in SETTINGS:
                name, between = SETTINGS[what]
                found[name] = between.join(ast.literal_eval(value).split())
    return {name: value for name, value in found.items() if value}


def run(*command: str, **environment: str) -> bool:
    done = subprocess.run(command, env=os.environ | environment, check=False)
    return done.returncode == 0


def by_uv(arguments: list[str]) -> bool:
    """Whether uv has done it."""
    pinned = ("-c", str(ROOT / "constraints.txt"))
    listed = subprocess.run(
        [*PIP, "config", "list"], capture_output=True, text=True, check=False
    )
    return (
        run(*PIP, "install", "--quiet", *pinned, "uv")
        and listed.returncode == 0
        and run(*UV, *arguments, **settings(listed.stdout))
    )


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if by_uv(arguments):
        return 0
    print("uv did not do it: pip does.", flush=True)
    return not run(*PIP, "install", *arguments)


if __name__ == "__main__":
    raise SystemExit(main())
