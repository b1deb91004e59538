"""The slider figure in a real browser: keys, colours, narrow screens, notebooks."""

import pytest

from anthology import lab

PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>t</title>'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    "<style>body{{background:#fff;color:#222;margin:8px}}"
    "@media(prefers-color-scheme:dark){{body{{background:#121212;color:#ddd}}}}"
    "</style><main>{}</main>"
)
# what JupyterLab does with the HTML of an output: set it, then revive scripts
REVIVE = """html => {
  const box = document.querySelector("main");
  box.innerHTML = html;
  for (const dead of box.querySelectorAll("script")) {
    const live = document.createElement("script");
    for (const a of dead.attributes) live.setAttribute(a.name, a.value);
    live.textContent = dead.textContent;
    dead.replaceWith(live);
  }
}"""


@pytest.fixture
def opened(browser, tmp_path):
    """Opens HTML in a new page; at the end no error and no foreign request."""
    pages, wrong = [], []

    def watch(request):
        if not request.url.startswith(("file:", "data:")):
            wrong.append(request.url)

    def do(body, *, width=800, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", watch)
        file = tmp_path / f"{len(pages)}.html"
        file.write_text(PAGE.format(body), encoding="utf-8")
        page.goto(file.as_uri())
        pages.append(context)
        return page

    yield do
    for context in pages:
        context.close()
    assert wrong == []


def figure(name="first", panels=2, count=5):
    panel = lab.Panel(lab.Axis("a", 0, 1), lab.Axis("b", 0, 1), title="Left")
    frames = [
        lab.Frame(
            f"{name} = {k}",
            f"The end of {name} <is> at {k}.",
            [[lab.Line([0, 1], [0, k / 10], name="line")]] * panels,
        )
        for k in range(count)
    ]
    return lab.slider_figure(name, [panel] * panels, frames, label="k")._repr_html_()


def drawn(page, index=0):
    return page.eval_on_selector_all(
        "figure svg[role=img] > svg > g:last-child",
        "(gs, i) => gs[i].innerHTML",
        index,
    )


def test_arrow_keys_move_everything_together(opened):
    page = opened(figure())
    slider, before = page.locator("input"), drawn(page)
    slider.focus()
    for key, value in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        said = f"first = {value} The end of first <is> at {value}."
        assert page.locator("output").inner_text() == said
        assert slider.get_attribute("aria-valuetext") == f"first = {value}"
    assert drawn(page, 0) != before and drawn(page, 1) == drawn(page, 0)
    assert (
        page.locator("desc").first.inner_html() == "The end of first &lt;is&gt; at 1."
    )
    page.keyboard.press("End")
    assert slider.input_value() == "4"
    page.keyboard.press("Home")
    assert drawn(page) == before


def test_two_figures_on_a_page_are_independent(opened):
    page = opened(figure("first") + figure("second"))
    page.locator("input").nth(1).focus()
    page.keyboard.press("End")
    values = page.locator("output b").all_inner_texts()
    assert values == ["first = 0", "second = 4"]


def test_it_wakes_up_in_a_notebook(opened):
    page = opened("")
    page.evaluate(REVIVE, figure("one") + figure("two"))
    for i, name in enumerate(("one", "two")):
        page.locator("input").nth(i).focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("output b").nth(i).inner_text() == f"{name} = 1"


def test_it_wakes_up_where_scripts_do_not_know_themselves(opened):
    page = opened("")
    hidden = 'Object.defineProperty(document,"currentScript",{value:null})'
    page.evaluate(hidden)
    page.evaluate(REVIVE, figure("one") + figure("two"))
    page.locator("input").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("output b").all_inner_texts() == ["one = 0", "two = 1"]


def test_without_scripts_it_is_a_picture(opened):
    page = opened(figure(), scripts=False)
    assert page.locator("noscript").inner_text().startswith("The picture shows one")
    assert page.locator("input").is_disabled()
    assert page.locator("svg[role=img] path").count() > 4


@pytest.mark.parametrize("width", [320, 360, 390, 800])
def test_it_fits_the_screen_with_legible_type(opened, width):
    page = opened(figure(), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.eval_on_selector_all(
        "svg[role=img] > text",
        """ts => ts.map(t => parseFloat(getComputedStyle(t).fontSize)
            * t.ownerSVGElement.getScreenCTM().a)""",
    )
    assert min(sizes) >= 10
    assert page.locator("input").bounding_box()["height"] >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_colour_of_the_page(opened, scheme):
    page = opened(figure(), scheme=scheme)
    colors = page.eval_on_selector_all(
        "svg[role=img] text, output",
        "ts => ts.map(t => getComputedStyle(t)[t.tagName == 'text' ? 'fill' : 'color'])",
    )
    ink = {"light": "rgb(34, 34, 34)", "dark": "rgb(221, 221, 221)"}[scheme]
    assert set(colors) == {ink}


def test_what_a_screen_reader_is_told(opened):
    page = opened(figure())
    assert page.get_by_role("slider", name="k").count() == 1
    assert page.get_by_role("img", name="first: Left").count() == 2
    assert page.get_by_role("status").inner_text().startswith("first = 0")


def test_one_frame_moves_nothing(opened):
    page = opened(figure(count=1))
    assert page.locator("input").count() == 0
    assert (
        page.locator("output").inner_text() == "first = 0 The end of first <is> at 0."
    )
