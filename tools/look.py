"""What the style sheet gets from elsewhere when the site is built.

The palette, so that a colour means a ruler on the page too, and the fonts, from
the packages of the lock file. Both are written before the rules of ``book.css``
in the built site; nothing of it is committed.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from anthology.lab.palette import STYLES, css

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = Path("node_modules", "@fontsource-variable")
RANGES = {
    "latin": "U+0000-00FF,U+0131,U+0152-0153,U+02C6,U+02DA,U+02DC,U+2000-206F,"
    "U+20AC,U+2122,U+2191,U+2193,U+2212",
    "greek": "U+0370-03FF",
}


@dataclass(frozen=True)
class Family:
    """A family of type: its name in the style sheet, its package and its cuts."""

    name: str
    package: str
    cuts: tuple[str, ...] = ("normal",)

    def files(self) -> list[tuple[str, str, str]]:
        """Subset, cut and file name of each part."""
        return [
            (subset, cut, f"{self.package}-{subset}-wght-{cut}.woff2")
            for subset in RANGES
            for cut in self.cuts
        ]


FAMILIES = (
    Family("Anthology Serif", "source-serif-4", ("normal", "italic")),
    Family("Anthology Sans", "source-sans-3"),
    Family("Anthology Mono", "source-code-pro"),
)
# The three unit balls over the title of a chapter.
ORNAMENT = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 84 24" fill="none" '
    'stroke-width="2.4"><path d="M12 2 22 12 12 22 2 12Z" stroke="{l1}"/>'
    '<circle cx="42" cy="12" r="9.4" stroke="{l2}"/>'
    '<path d="M63.5 3.5h17v17h-17z" stroke="{linf}"/></svg>'
)


def fonts_installed(root: Path = ROOT) -> bool:
    """Whether every file of every family is in ``node_modules``."""
    return all(
        (root / PACKAGES / family.package / "files" / name).is_file()
        for family in FAMILIES
        for _, _, name in family.files()
    )


def faces() -> str:
    """The rules that name the fonts."""
    return "".join(
        f'@font-face{{font-family:"{family.name}";font-weight:200 900;'
        f"font-style:{cut};font-display:swap;"
        f'src:url("fonts/{name}") format("woff2");unicode-range:{RANGES[subset]}}}\n'
        for family in FAMILIES
        for subset, cut, name in family.files()
    )


def colours(scheme: str) -> str:
    """The palette of a scheme and the ornament drawn in it."""
    drawn = ORNAMENT.format(
        **{
            ruler: STYLES[ruler].color if scheme == "light" else STYLES[ruler].dark
            for ruler in ("l1", "l2", "linf")
        }
    )
    return f'{css(scheme)}--ornament:url("data:image/svg+xml,{quote(drawn)}");'


def palette() -> str:
    """The palette for both schemes; without a scheme and on paper, light."""
    return (
        f"html{{{colours('light')}}}\n"
        f'@media screen{{html[data-theme="dark"]{{{colours("dark")}}}}}\n'
    )


def copy_fonts(static: Path, root: Path = ROOT) -> None:
    """The files of the fonts, each family with its licence."""
    target = static / "fonts"
    target.mkdir(exist_ok=True)
    for family in FAMILIES:
        package = root / PACKAGES / family.package
        for _, _, name in family.files():
            shutil.copy2(package / "files" / name, target / name)
        shutil.copy2(package / "LICENSE", target / f"{family.package}-LICENSE.txt")


def dress(static: Path, root: Path = ROOT) -> None:
    """Complete the style sheet in the folder ``_static`` of a built site."""
    before = palette()
    if fonts_installed(root):
        copy_fonts(static, root)
        before = faces() + before
    path = static / "book.css"
    rules = (root / "_static" / "book.css").read_text(encoding="utf-8")
    path.write_text(before + rules, encoding="utf-8")
