"""The built site, read from its files: what its tests share."""

import os
from functools import cache
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup

from tools import address

ROOT = address.ROOT
SITE = Path(os.environ.get("ANTHOLOGY_SITE", ROOT / "_build" / "html"))
# Written by Sphinx about the code, not by us: links are checked, style is not.
LISTINGS = ("genindex.html", "py-modindex.html", "prf-prf.html", "search.html")


def in_contents() -> list[str]:
    """Names of the pages in the table of contents, in order."""
    found = []

    def walk(node: dict) -> None:
        for key in ("root", "file"):
            if key in node:
                found.append(node[key])
        for key in ("parts", "chapters", "sections"):
            for child in node.get(key, []):
                walk(child)

    walk(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    return found


PAGES = [f"{name}.html" for name in in_contents()]


@cache
def soup(name: str) -> BeautifulSoup:
    path = SITE / name
    assert path.exists(), f"{path} is missing: build the book first (make book)"
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def all_pages() -> list[str]:
    """Every page that was built, listings of code included."""
    return sorted(
        path.relative_to(SITE).as_posix()
        for path in SITE.rglob("*.html")
        if "_static" not in path.parts
    )


@cache
def anchors(name: str) -> frozenset[str]:
    page = soup(name)
    named = {tag["id"] for tag in page.find_all(id=True)}
    return frozenset(
        named | {a["name"] for a in page.find_all("a", attrs={"name": True})}
    )


def is_outside(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.netloc) or parts.scheme not in ("", "data")


def resolve(page: str, url: str) -> tuple[str, str]:
    """File inside the site and anchor that a link on a page leads to."""
    parts = urlsplit(urljoin(f"/{page}", url))
    return parts.path.lstrip("/") or "index.html", parts.fragment
