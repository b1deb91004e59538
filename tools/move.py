"""Move the book to another public address, or say what disagrees with its own.

``python tools/move.py https://github.com/you/optimizer-anthology`` writes the address
into ``_config.yml`` and brings everything that repeats it (links, Colab cells, the
citation file) in line; without an argument it prints the address; ``--check`` says
what disagrees.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import address, notebook


def change(new: str, root: Path = address.ROOT) -> list[str]:
    """Write a new address everywhere; the names of the files that changed."""
    owner, name = address.parse(new)
    old, new = address.repository(root), f"https://github.com/{owner}/{name}"
    changed = []
    for relative in address.REPEATED_IN:
        path = root / relative
        before = path.read_text()
        after = address.rewrite(before, old, new)
        if after != before:
            path.write_text(after)
            changed.append(relative)
    for path in address.notebooks(root):
        if notebook.fill_file(path, root):
            changed.append(path.relative_to(root).as_posix())
    return changed


def disagreements(root: Path = address.ROOT) -> list[str]:
    """Places that name another address than ``_config.yml`` does."""
    url = address.repository(root)
    owner, name = address.parse(url)
    found = []
    for relative in address.REPEATED_IN:
        for match in address.ADDRESS.finditer((root / relative).read_text()):
            if match["name"] == name and match["owner"] != owner:
                found.append(f"{relative}: {match[0]}")
        for host in re.findall(
            r"https://([\w.-]+\.github\.io\S*)", (root / relative).read_text()
        ):
            if not f"https://{host}".startswith(address.site(url).rstrip("/")):
                found.append(f"{relative}: https://{host}")
    for path in address.notebooks(root):
        if notebook.fill_file(path, root, write=False):
            found.append(path.relative_to(root).as_posix())
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", nargs="?", help="https://github.com/owner/name")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.check:
        wrong = disagreements()
        print("\n".join(wrong) if wrong else f"all agree with {address.repository()}")
        return 1 if wrong else 0
    if arguments.url is None:
        print(address.repository())
        return 0
    try:
        changed = change(arguments.url)
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(changed) if changed else "nothing to change")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
