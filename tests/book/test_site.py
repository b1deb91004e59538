"""The built site, by a plain parser: nothing broken, nothing from elsewhere."""

import re
from collections import Counter
from urllib.parse import unquote

import pytest

from tests.book.sitefiles import (
    LISTINGS,
    PAGES,
    SITE,
    all_pages,
    anchors,
    in_contents,
    is_outside,
    resolve,
    soup,
)
from tools import address, reference

BASE = address.site(address.repository())
MAX_PAGE_BYTES = 1_000_000
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
# Links that a browser loads when it shows the page; "canonical" is not one.
LOADED_LINKS = {
    "stylesheet",
    "preload",
    "icon",
    "modulepreload",
    "prefetch",
    "manifest",
}

each_page = pytest.mark.parametrize("page", PAGES)


def self_contained() -> bool:
    return (SITE / "_static/mathjax/tex-chtml.js").exists()


def loaded(page: str) -> list[str]:
    """Addresses of everything the page loads by itself."""
    document = soup(page)
    found = [
        tag[attribute]
        for name, attribute in LOADED.items()
        for tag in document.find_all(name)
        if tag.get(attribute)
    ]
    return found + [
        link["href"]
        for link in document.find_all("link")
        if LOADED_LINKS & set(link.get("rel", []))
    ]


def test_every_page_of_the_contents_was_built() -> None:
    assert len(in_contents()) > 10
    missing = [page for page in PAGES if not (SITE / page).exists()]
    assert not missing


def test_links_and_anchors_lead_somewhere() -> None:
    broken = []
    for page in all_pages():
        for tag in soup(page).find_all("a", href=True):
            if is_outside(tag["href"]) or tag["href"] in ("#", ""):
                continue
            target, fragment = resolve(page, tag["href"])
            path = SITE / unquote(target)
            if page == "404.html":  # asked for at any depth, so absolute
                path = SITE / unquote(target).removeprefix(BASE.split("/", 3)[3])
                path = path / "index.html" if path.is_dir() else path
            known = not fragment or path.suffix != ".html"
            if not path.is_file() or not (
                known or unquote(fragment) in anchors(target)
            ):
                broken.append(f"{page}: {tag['href']}")
    assert not broken


def test_files_a_page_loads_exist() -> None:
    missing = [
        f"{page}: {url}"
        for page in all_pages()
        for url in loaded(page)
        if not is_outside(url)
        and not url.startswith("data:")
        and not (SITE / unquote(resolve(page, url.partition("?")[0])[0])).is_file()
    ]
    assert not missing


def test_nothing_comes_from_another_host() -> None:
    if not self_contained():
        pytest.skip("MathJax was not installed when the book was built (no Node.js)")
    outside = [
        f"{page}: {url}"
        for page in all_pages()
        for url in loaded(page)
        if is_outside(url)
    ]
    assert not outside
    css = [
        f"{path.name}: {url}"
        for path in SITE.rglob("*.css")
        for url in re.findall(
            r"(?:url\(|@import\s+)['\"]?(https?:)?//", path.read_text(errors="replace")
        )
    ]
    assert not css


def test_scripts_that_do_harm_are_gone() -> None:
    for page in all_pages():
        text = (SITE / page).read_text(encoding="utf-8")
        for name in ("fontawesome.js", "require.min.js", "thebe"):
            assert name not in text, page
    assert not list(SITE.rglob("fontawesome.js*"))


@each_page
def test_ids_are_unique(page: str) -> None:
    counts = Counter(tag["id"] for tag in soup(page).find_all(id=True))
    assert not [name for name, count in counts.items() if count > 1]


@each_page
def test_pictures_say_what_they_show(page: str) -> None:
    for image in soup(page).find("article").find_all("img"):
        alt = image.get("alt", "")
        assert len(alt.split()) >= 3, f"{image.get('src')}: {alt!r}"
    for drawing in soup(page).find("article").find_all("svg"):
        if drawing.find_parent("svg"):
            continue
        hidden = drawing.get("aria-hidden") == "true"
        named = drawing.get("aria-label") or drawing.find("title")
        assert hidden or (drawing.get("role") == "img" and named), str(drawing)[:200]


@each_page
def test_head_says_what_the_page_is(page: str) -> None:
    head = soup(page).head
    assert soup(page).html["lang"] == "en"
    assert len(soup(page).find_all("h1")) >= 1
    assert head.title.string.strip()
    canonical = [link["href"] for link in head.find_all("link", rel="canonical")]
    assert canonical == [BASE + page]
    descriptions = head.find_all("meta", attrs={"name": "description"})
    assert len(descriptions) == 1 and len(descriptions[0]["content"]) > 20
    assert head.find("meta", property="og:title")
    assert head.find("meta", property="og:image")["content"] == (
        f"{BASE}_static/cover.png"
    )
    assert (SITE / "_static/cover.png").is_file()


def test_descriptions_differ() -> None:
    def description(page: str) -> str:
        return soup(page).head.find("meta", attrs={"name": "description"})["content"]

    assert len({description(page) for page in PAGES}) == len(PAGES)


@each_page
def test_weight(page: str) -> None:
    """The page and its own pictures; style sheets and MathJax are shared."""
    bytes_ = (SITE / page).stat().st_size
    for image in soup(page).find_all("img", src=True):
        if not is_outside(image["src"]) and not image["src"].startswith("data:"):
            bytes_ += (SITE / resolve(page, image["src"])[0]).stat().st_size
    assert bytes_ <= MAX_PAGE_BYTES


def test_root_files() -> None:
    assert (SITE / ".nojekyll").exists()
    assert f"Sitemap: {BASE}sitemap.xml" in (SITE / "robots.txt").read_text()
    sitemap = (SITE / "sitemap.xml").read_text()
    for page in PAGES:
        assert f"<loc>{BASE}{page}</loc>" in sitemap
    assert "{{" not in (SITE / "404.html").read_text()


def test_listings_exist() -> None:
    for name in LISTINGS:
        assert (SITE / name).is_file()


def test_reference_pages_are_filled() -> None:
    pages = [name for name in PAGES if name.startswith("chapters/reference/")]
    parts = [name for name in pages if "/claims/" in name]
    assert sum(len(soup(p).find("article").find_all("tr")) for p in parts) > 20
    optimizers = soup("chapters/reference/optimizers.html").find("article")
    assert len(optimizers.find_all("tr")) > 5
    for name in pages:
        assert "generated:" not in str(soup(name)), name


def test_each_optimizer_has_a_page_and_its_old_address() -> None:
    old = "chapters/reference/api-optim.html"
    for name in reference.optimizers():
        page = f"{reference.file_of(name)}.html"
        assert page in PAGES
        assert f"anthology.optim.{name}" in anchors(page)
        (link,) = soup(old).find(id=f"anthology.optim.{name}").parent.select("a")[:1]
        assert resolve(old, link["href"])[0] == page
