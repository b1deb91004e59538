"""The questions about surfaces notice what they ask for, and nothing else.

``test_browser.py`` asks them of every page; here of pages made ill.
"""

import pytest

from tests.book import surfaces


def faults(page) -> dict[str, list[str]]:
    found = {name: page.evaluate(script) for name, script in surfaces.ALL.items()}
    return {name: what for name, what in found.items() if what}


ILL = {
    "a formula wider than its box": (
        '<div class="math" style="width:90px;overflow:hidden"><mjx-container display>'
        '<mjx-math style="display:inline-block;width:300px">xxx</mjx-math>'
        "</mjx-container></div>"
    ),
    "a table with hidden columns and no cue": (
        '<div style="width:90px;overflow-x:auto"><table><tr>'
        '<td style="min-width:300px">wide</td></tr></table></div>'
    ),
    "a cover in another colour than its box": (
        '<div style="background:rgb(9, 9, 9)"><div class="math" style="background:'
        'linear-gradient(to right, rgb(1, 2, 3), transparent)">x</div></div>'
    ),
    "punctuation torn from its formula": (
        '<p style="width:60px"><mjx-container style="display:inline-block;width:58px">'
        "x</mjx-container>, and</p>"
    ),
    "a formula that the tab key visits": (
        '<p><mjx-container tabindex="0">x</mjx-container></p>'
    ),
    "signs of TeX in a caption": "<figure><figcaption>size of η^k F_k</figcaption></figure>",
    "a label out of its figure or on another": (
        '<svg width="200" height="60" viewBox="0 0 200 60"><text x="180" y="30">b on b'
        "</text></svg>"
    ),
}
SOUND = (
    '<div class="math" style="width:90px;overflow-x:auto;background:'
    'linear-gradient(red,blue)" tabindex="0"><mjx-container display>'
    '<mjx-math style="display:inline-block;width:300px">x</mjx-math></mjx-container>'
    "</div><p><mjx-container>x</mjx-container>, and</p>"
    "<figure><figcaption>size of <code>a_b</code></figcaption></figure>"
    '<svg width="200" height="60" viewBox="0 0 200 60"><text x="10" y="20">one</text>'
    '<text x="10" y="40">two</text><text x="300" y="20">cut away</text></svg>'
)


def shown(browser, body: str) -> dict[str, list[str]]:
    page = browser.new_page()
    page.set_content(f"<!doctype html><article>{body}</article>")
    try:
        return faults(page)
    finally:
        page.close()


@pytest.mark.parametrize("fault", ILL)
def test_each_question_notices_its_fault_alone(browser, fault: str) -> None:
    assert list(shown(browser, ILL[fault])) == [fault]
    assert shown(browser, SOUND) == {}


def test_two_labels_on_each_other_are_noticed(browser) -> None:
    body = (
        '<svg width="200" height="60" viewBox="0 0 200 60"><text x="10" y="20">one</text>'
        '<text x="14" y="24">two</text></svg>'
    )
    assert shown(browser, body) == {
        "a label out of its figure or on another": ["on each other: one | two"]
    }
