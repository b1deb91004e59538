"""Makes the built book stand alone: addresses, formulas, and the files at its root.

- Canonical links, sitemap and previews follow ``repository.url`` in
  ``_config.yml``, the one place of the public address.
- MathJax is served from the site. It comes from ``node_modules`` (installed
  from the lock file); where that folder is missing the page asks another host
  for it, the build says so, and a build with ``ANTHOLOGY_SELF_CONTAINED=1``
  stops instead.
- The theme's ``fontawesome.js`` (1.4 MB, blocks a page's first paint, and stops
  the widgets' animations) is taken out; the style sheet draws the same icons.
- The style sheet gets its palette, and its fonts from ``node_modules``; without
  them a page is set in the fonts of the reader's system.
- ``robots.txt``, ``404.html`` and ``.nojekyll`` for the host.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.util import logging

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import address, contents, look

logger = logging.getLogger(__name__)

MATHJAX = Path("node_modules", "mathjax", "es5")
# The combined file, and what it loads by name when a page or a reader asks.
MATHJAX_PARTS = ("tex-chtml.js", "a11y", "input/tex", "output/chtml", "sre", "ui")
FONTAWESOME = re.compile(
    r"[^\n]*<!-- So that users can add custom icons -->\n|"
    r'[^\n]*<script src="[^"]*_static/scripts/fontawesome\.js[^"]*"></script>\n'
)
# What the theme and Sphinx write that a screen reader cannot read: a button
# without a name, and a list whose entries are not list items.
UNREADABLE = (
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="pages of this section"><span class="toctree-toggle"',
    ),
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
    (' role="doc-biblioentry"', ""),
)
# Punctuation after an inline formula, which may not begin the next line.
PUNCTUATED = re.compile(
    r'(<span class="math notranslate nohighlight">[^<]*</span>)([-’)\]]*[,.;:!?)’”]+)'
)
# A page opened from a folder may not fetch its neighbours: search without excerpts.
SEARCH_IN_A_FOLDER = """
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
"""
# Its links are absolute: it is shown in place of a page at any depth.
NOT_FOUND = (ROOT / "_ext" / "404.html").read_text(encoding="utf-8")


def mathjax_source(root: Path = ROOT) -> Path | None:
    """The installed MathJax, or None where it is not installed."""
    folder = root / MATHJAX
    return folder if (folder / MATHJAX_PARTS[0]).is_file() else None


def set_addresses(app: Sphinx, config: Config) -> None:
    base = address.site(address.repository())
    config.html_baseurl = base
    config.ogp_site_url = base
    config.ogp_image = f"{base}_static/cover.png"
    config.html_context["book_version"] = address.version()


def choose_mathjax(app: Sphinx, config: Config) -> None:
    if mathjax_source() is not None:
        config.mathjax_path = f"mathjax/{MATHJAX_PARTS[0]}"
        return
    missing = "MathJax is not installed here (npm ci was not run)"
    if os.environ.get("ANTHOLOGY_SELF_CONTAINED"):
        raise ConfigError(f"{missing}, and this build must stand alone")
    logger.info(f"{missing}: formulas will be drawn by a script from another host")


def copy_mathjax(outdir: Path) -> None:
    source = mathjax_source()
    if source is None:
        return
    target = outdir / "_static" / "mathjax"
    for part in MATHJAX_PARTS:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy2(source / part, target / part)


def mend(text: str) -> str:
    """A page without the script, with what a screen reader needs, well broken."""
    text = FONTAWESOME.sub("", text)
    for wrong, right in UNREADABLE:
        text = text.replace(wrong, right)
    return PUNCTUATED.sub(r'<span class="bound">\1\2</span>', text)


def name_chapters(outdir: Path) -> None:
    """Over the title of a chapter its number and its part: "2 · Optimizers"."""
    for chapter in contents.chapters():
        path = outdir / f"{chapter.path}.html"
        text = path.read_text(encoding="utf-8")
        number = '<h1><span class="section-number">{}</span>'
        old = number.format(f"{chapter.number}. ")
        new = number.format(f"{chapter.number} · {chapter.part}")
        path.write_text(text.replace(old, new), encoding="utf-8")


def mend_pages(outdir: Path) -> None:
    for path in outdir.rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = mend(before)
        if after != before:
            path.write_text(after, encoding="utf-8")
    for path in (outdir / "_static" / "scripts").glob("fontawesome.js*"):
        path.unlink()


def search_in_a_folder(outdir: Path) -> None:
    path = outdir / "_static" / "documentation_options.js"
    text = path.read_text(encoding="utf-8")
    if SEARCH_IN_A_FOLDER not in text:
        path.write_text(text + SEARCH_IN_A_FOLDER, encoding="utf-8")


def write_root_files(outdir: Path, base: str) -> None:
    (outdir / ".nojekyll").write_text("")
    (outdir / "robots.txt").write_text(
        f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n"
    )
    path = urlsplit(base).path
    (outdir / "404.html").write_text(NOT_FOUND.replace("{{ home }}", path))


def finish(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    outdir = Path(app.outdir)
    copy_mathjax(outdir)
    look.dress(outdir / "_static")
    mend_pages(outdir)
    name_chapters(outdir)
    search_in_a_folder(outdir)
    # the first page itself, where the theme would put a redirection to it
    shutil.copy2(outdir / f"{app.config.root_doc}.html", outdir / "index.html")
    write_root_files(outdir, app.config.html_baseurl)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", set_addresses, priority=100)
    app.connect("config-inited", choose_mathjax, priority=100)
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
