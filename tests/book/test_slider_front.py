"""The sentences of the front page's figure, checked on the paths it draws."""

import re
import subprocess
import sys
from pathlib import Path

import torch

from anthology.norms import L1, L2, LInf
from tools import address, front, front_page
from tools.front import UNITS, f

ROOT = Path(__file__).resolve().parent.parent.parent


def test_three_rulers_end_at_three_different_minima():
    ends = torch.stack([front.descent(norm)[-1] for norm in (L1(), L2(), LInf())])
    assert f(ends).max() < 1e-12
    assert torch.pdist(ends).min() > 0.03


def test_the_one_ruler_of_the_plain_gradient_is_gradient_flow_nearly():
    assert (front.descent(L2())[-1] - f.flow_limit(f.start())).norm() < 0.01


def test_the_first_step_of_adam_is_a_sign_step_and_it_comes_to_rest():
    adam, sign = front.adam_steps(), front.sign_steps()
    assert (adam[1] - sign[1]).abs().max() < 1e-8
    assert f(adam[-1]) < 1e-6 and (adam[-1] - adam[-2]).norm() < 1e-4
    assert torch.allclose(sign[-1], sign[-3]) and f(sign[-2:]).max() > 1e-3


def test_units_matter_only_with_the_root():
    with_root = (front.rooted((1.0, 1.0)) - front.rooted(UNITS)).abs().max()
    without = (front.root_free((1.0, 1.0)) - front.root_free(UNITS)).abs().max()
    assert with_root > 0.05 and without < 1e-12


def test_the_equation_of_motion_passes_through_the_steps_and_the_flow_lags():
    steps = front.gradient_steps()
    exact = front.moved(front.equation_of_motion)
    smooth = front.moved(lambda w: -f.gradient(w))
    assert (exact - steps).abs().max() < 2e-3
    assert (smooth - steps)[1:3].norm(dim=-1).min() > 10 * 2e-3
    assert (f(smooth) > f(steps))[1:].all()


def test_the_figure_has_a_frame_for_each_part_of_the_book():
    shown = [frame.value for frame in front.frames()]
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    captions = [
        line.split(":", 1)[1].strip()
        for line in toc.splitlines()
        if line.strip().startswith("- caption:")
    ]
    assert shown == captions[: len(shown)]
    assert len(front.figure()._repr_html_()) < 40_000


def test_the_ten_lines_of_the_front_page_run():
    text = (ROOT / "intro.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert "RMSToInf" in done.stdout and "Conv" in done.stdout
    assert int(re.search(r"(\d+)% of the unseen digits", done.stdout)[1]) > 95


def test_the_front_page_says_how_to_install():
    command = front.install()
    assert address.repository() in command and f"v{address.version()}" in command
    text = (ROOT / "intro.md").read_text(encoding="utf-8")
    assert text.count("<!-- generated: front -->") == 1
    assert text.count("<!-- generated: doors -->") == 1
    assert command in front_page.doors()
