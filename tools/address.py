"""The book's public address: written once, derived everywhere else.

``repository.url`` in ``_config.yml`` is the one place; ``tools/move.py`` writes
another one there and brings everything that repeats it in line.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ADDRESS = re.compile(
    r"https://github\.com/(?P<owner>-OWNER-|[A-Za-z0-9][A-Za-z0-9-]*)"
    r"/(?P<name>[A-Za-z0-9._-]+)"
)
CONFIG_LINE = re.compile(r"^(  url: +)(\S+)", re.MULTILINE)
# Files whose text repeats the address, as `repository` or as `site`.
REPEATED_IN = ("_config.yml", "README.md", "CITATION.cff", "pyproject.toml")


def parse(url: str) -> tuple[str, str]:
    """Owner and name of a repository address.

    Raises
    ------
    ValueError
        When it is no plain ``https://github.com/owner/name``: Colab opens
        notebooks, and Pages serves sites, by these two words.
    """
    url = url.strip().rstrip("/").removesuffix(".git")
    match = ADDRESS.fullmatch(url)
    if match is None:
        raise ValueError(
            f"{url!r} is no address of a repository: "
            "give it as https://github.com/owner/name"
        )
    return match["owner"], match["name"]


def repository(root: Path = ROOT) -> str:
    """The address, as ``_config.yml`` has it."""
    block = (root / "_config.yml").read_text().partition("\nrepository:")[2]
    match = CONFIG_LINE.search(block)
    if match is None:
        raise ValueError("_config.yml has no line '  url: …' under 'repository:'")
    return match[2]


def site(url: str) -> str:
    """Where Pages serves the book of this repository."""
    owner, name = parse(url)
    host = f"{owner if owner == '-OWNER-' else owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def version(root: Path = ROOT) -> str:
    """The package's version, read without importing it."""
    text = (root / "anthology" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    if match is None:
        raise ValueError("anthology/__init__.py has no line __version__ = …")
    return match[1]


def colab_link(chapter: str, root: Path = ROOT) -> str:
    """Address that opens a chapter (path inside the repository) in Colab."""
    owner, name = parse(repository(root))
    return (
        "https://colab.research.google.com/github/"
        f"{owner}/{name}/blob/v{version(root)}/{chapter}"
    )


def colab_cell(chapter: str, root: Path = ROOT) -> str:
    """Source of the cell that makes a chapter run in Colab."""
    folder = Path(chapter).parent.as_posix()
    return f"""\
# Colab only: fetch this book at the version of this text, and install it.
import os
import sys

if "google.colab" in sys.modules:
    address = "{repository(root)}"
    if not os.path.exists("/content/book"):
        !git clone -q --depth 1 -b v{version(root)} {{address}} /content/book
        %pip install -q "/content/book[lab]"
    os.chdir("/content/book/{folder}")"""


def rewrite(text: str, old: str, new: str) -> str:
    """``text`` with one repository's address and site exchanged for another's."""
    old_site, new_site = site(old), site(new)
    for before, after in ((old_site, new_site), (old, new)):
        text = re.sub(
            re.escape(before.rstrip("/")) + r"(?![\w-])", after.rstrip("/"), text
        )
    return text


def notebooks(root: Path = ROOT) -> list[Path]:
    """Every chapter, in a fixed order."""
    return sorted(
        path
        for path in (root / "chapters").rglob("*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    )
