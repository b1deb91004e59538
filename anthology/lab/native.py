"""One style for every figure, and a figure as SVG that belongs to its page.

Ink and rulers become the page's own colours, which follow the reader from day to
night; elsewhere they are those of the day. The bytes depend on the figure alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from xml.etree import ElementTree

from .palette import INK, PAPER, STYLES, style
from .runtime import kernel, optional

Element = ElementTree.Element

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
FONTS = "var(--fig-font,'Source Sans 3',system-ui,sans-serif)"
WIDEST = 370.0  # points: the widest picture whose words a phone shows at 11 px
NUMBER = re.compile(r"-?\d+\.\d{2,}(?![\d%])")
DECLARED = re.compile(r"([\w-]+): *([^;]*[^; ])")
NAMED = re.compile(r"#([\w-]+)")
FONT = re.compile(r"(?:(italic|oblique) )?(?:(bold|\d{3}) )?([\d.]+)px .*")
SAVED = {"Creator": None, "Date": None, "Format": None, "Type": None}
PAGE = PAPER["page"]["light"]
SURFACES = [f"{part}.facecolor" for part in ("axes", "figure", "savefig")]
INKED = [f"{part}.color" for part in ("grid", "text", "xtick", "ytick")]
INKED += ["axes.edgecolor", "axes.labelcolor"]


def use_style() -> None:
    """Set the book's style for the figures that follow.

    Sets matplotlib's rcParams; in a notebook figures are shown as SVG that
    follows the page from day to night, in place of PNG. Keep a figure, or each of
    its columns, at most 5.1 inches wide: so its labels can be read on a phone.
    """
    mpl = optional("matplotlib", "matplotlib")
    # of ink, through which lines without a style of their own go
    shades = [style(i) for i in range(5)]
    cycle = {key: [shade[key] for shade in shades] for key in ("color", "linestyle")}
    look = files("anthology.lab").joinpath("book.mplstyle")
    mpl.rcParams.update(mpl.rc_params_from_file(look, use_default_template=False))
    mpl.rcParams.update(dict.fromkeys(SURFACES, PAGE) | dict.fromkeys(INKED, INK))
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(**cycle)
    if (shell := kernel()) is not None:
        _show_as_svg(shell)


def _show_as_svg(shell: Any) -> None:
    """Figures of this kernel by ``svg`` and by nothing else."""
    figure = optional("matplotlib.figure", "matplotlib")
    inline = optional("matplotlib_inline.config", "matplotlib-inline")
    inline.InlineBackend.instance(parent=shell).figure_formats = set()
    # the backend, which loads later, forgets what is known of Figure itself
    formatter = shell.display_formatter.formatters["image/svg+xml"]
    formatter.for_type(figure.FigureBase, svg)
    shell.display_formatter.formatters["image/png"].pop(figure.Figure, None)


def svg(figure: Any) -> str:
    """The figure as SVG text, native by day and by night."""
    mpl = optional("matplotlib", "matplotlib")
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "anthology"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=SAVED)
    root = ElementTree.fromstring(buffer.getvalue())
    for element in root.iter():
        _native(element)
    _number_ids(root)
    root[:] = list(_drawing(root))
    return _written(root, _gaps(figure))


def _native(element: Element) -> None:
    """Attributes in place of a style, in colours of the page; text stays text."""
    element.tag = element.tag.removeprefix(SVG)
    if HREF in element.attrib:
        element.set("href", element.attrib.pop(HREF))
    styles = dict(DECLARED.findall(element.attrib.pop("style", "")))
    for name, value in styles.items():
        if name == "font":
            _set_font(element, value)
        elif name in ("fill", "stroke", "stop-color") and value.startswith("#"):
            color, strength = _color(value)
            element.set(name, color)
            if strength < 1:
                given = float(styles.get(f"{name}-opacity", 1))
                element.set(f"{name}-opacity", f"{given * strength:.3g}")
        elif name != "font-family":  # which is of the page
            element.attrib.setdefault(name, value)
    for name, value in element.attrib.items():
        if not name.startswith("href"):
            short = NUMBER.sub(lambda m: f"{round(float(m[0]), 2) + 0.0:g}", value)
            element.set(name, " ".join(short.split()))
    if element.get("transform", "").startswith("rotate(-0 "):
        element.attrib.pop("transform")
    if element.tag not in ("text", "tspan"):
        element.text = None
    element.tail = None


def _color(value: str) -> tuple[str, float]:
    """A colour of the page and its opacity: greys are thinned ink."""
    if value in ("#ffffff", PAGE):
        return f"var(--fig-page,{PAGE})", 1.0
    if value == INK:
        return "currentColor", 1.0
    if value in STYLES.by_color:
        return STYLES.by_color[value].css, 1.0
    red, green, blue = (int(value[i : i + 2], 16) for i in (1, 3, 5))
    if red == green == blue:
        return "currentColor", 1 - red / 255
    return value, 1.0


def _set_font(element: Element, value: str) -> None:
    found = FONT.fullmatch(value)
    if found is None:
        raise ValueError(f"matplotlib wrote a font in an unknown form: {value!r}")
    slant, weight, size = found.groups()
    element.set("font-size", f"{float(size):g}px")
    if slant:
        element.set("font-style", slant)
    if weight and weight not in ("400", "normal"):
        element.set("font-weight", weight)


def _number_ids(root: Element) -> None:
    """Ids by their order; those that nothing names are dropped."""
    text = ElementTree.tostring(root, "unicode")
    used = set(re.findall(r'(?:url\(|href=")#([\w-]+)', text))
    new: dict[str, str] = {}
    for element in root.iter():
        if (name := element.attrib.pop("id", "")) in used:
            element.set("id", new.setdefault(name, str(len(new))))
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "href" or value.startswith("url(#"):
                element.set(key, NAMED.sub(lambda m: f"#{new[m[1]]}", value))


def _drawing(element: Element) -> Iterator[Element]:
    """The children that draw something, without groups that say nothing."""
    for child in element:
        child[:] = list(_drawing(child))
        hollow = child.tag in ("g", "defs") and not len(child)
        unseen = child.tag in ("metadata", "style")
        if child.tag == "path" and child.get("fill") == "none":
            unseen = "stroke" not in child.attrib
        if child.tag == "g" and not child.attrib:
            yield from child
        elif not (hollow or unseen):
            yield child


def _written(root: Element, cuts: list[float]) -> str:
    """The text, with ids that no other figure of a page has."""
    box = [float(x) for x in root.get("viewBox", "").split()]
    content = "\n".join(ElementTree.tostring(child, "unicode") for child in root)
    name = "f" + hashlib.sha256(content.encode()).hexdigest()[:8]
    content = re.sub(r'( id="|="#|url\(#)', rf"\g<1>{name}-", content)
    cut = f' data-cut="{" ".join(f"{x:g}" for x in cuts)}"' if cuts else ""
    return (
        f'<svg class="an-figure" xmlns="http://www.w3.org/2000/svg" '
        f'width="{box[2] * 4 / 3:.0f}" height="{box[3] * 4 / 3:.0f}" '
        f'viewBox="0 0 {box[2]:g} {box[3]:g}"{cut} color="{INK}" '
        f'fill="currentColor" stroke-linejoin="round" font-family="{FONTS}">'
        f'<rect width="100%" height="100%" fill="var(--fig-paper,{PAGE})"/>'
        f'<g id="{name}">{content}</g></svg>'
    )


def _gaps(figure: Any) -> list[float]:
    """Where the gaps between columns of panels are, in points from the left."""
    width = 72 * figure.get_figwidth()
    if width <= WIDEST or figure.legends or figure.get_suptitle():
        return []
    boxes = (axes.get_tightbbox() for axes in figure.axes if axes.get_visible())
    scale = 72 / figure.dpi
    spans = sorted((b.x0 * scale, b.x1 * scale) for b in boxes if b is not None)
    cuts, end = [], spans[0][1] if spans else 0.0
    for low, high in spans:
        if low > end:
            cuts.append(round((low + end) / 2, 1))
        end = max(end, high)
    return cuts if len(cuts) < 4 else []
