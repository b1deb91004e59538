"""The hero of the front page, in a browser, against the package."""

import pytest
import torch

from anthology import norms, optim
from anthology.lab.palette import css
from anthology.linalg import inverse_root, polar
from tools import hero

NAMES = list(hero.NAMES)
STARTS = [hero.START, (0.62, 0.25), (1.25, 0.6), (1.25, 0.25), (0.62, 0.6), (0.9, 0.3)]
NORMS = {
    "l2": norms.Frobenius(),
    "linf": norms.MaxAbs(),
    "spectral": norms.Spectral(),
}
RATES = {"Adam": 0.02, "Lion": 0.012, "Shampoo": 0.08, "Muon": 0.015}
MEMORY = {
    "Adam": optim.Adam,
    "Lion": optim.Lion,
    "Shampoo": lambda p, lr: optim.Shampoo(p, lr=lr, eps=0.0),
    "Muon": lambda p, lr: optim.Muon(p, lr=lr, weight_decay=0.0),
}
SIZES = [(1280, 720), (390, 844)]
PAGE = (
    '<!doctype html><html lang="en" data-theme="{scheme}"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><title>t'
    "</title><style>html{{{day}}}html[data-theme=dark]{{{night}background:#14171c;"
    "color:#dcdfe4;--pst-color-background:#14171c}}body{{margin:0 18px}}</style>"
    "<main>{body}</main>"
)


@pytest.fixture(scope="module")
def figure() -> str:
    return hero.figure()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens HTML in a new page; at the end no error and no request of its own."""
    pages, wrong = [], []

    def do(body, *, size=SIZES[0], scheme="light", scripts=True, motion="reduce"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            reduced_motion=motion,
            java_script_enabled=scripts,
        )
        page = context.new_page()
        file = tmp_path / f"{len(pages)}.html"
        page.on("console", lambda m: wrong.append(m.text))
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: r.url == file.as_uri() or wrong.append(r.url))
        text = PAGE.format(
            scheme=scheme, body=body, day=css("light"), night=css("dark")
        )
        file.write_text(text, encoding="utf-8")
        page.goto(file.as_uri())
        pages.append(context)
        return page

    yield do
    for context in pages:
        context.close()
    assert wrong == []


@pytest.fixture
def page(opened, figure):
    return opened(figure)


def state(page, name, w):
    return page.evaluate(
        "([n, w]) => { const h = document.querySelector('.an-hero').hero;"
        "h.set(n, w); return h.get(); }",
        [name, list(w)],
    )


def close(got, wanted):
    got = torch.tensor(got, dtype=torch.float64)
    torch.testing.assert_close(got, torch.as_tensor(wanted), rtol=0, atol=1e-6)


def gradient(w):
    W = hero.weights(*w).requires_grad_()
    (G,) = torch.autograd.grad(hero.loss(W), W)
    return G


def way(make, start, steps, rate=lambda k: 1.0):
    """The first row of W along the way, and the estimates of Prodigy."""
    W = hero.weights(*start).requires_grad_()
    optimizer = make([W])
    lr, rows, lengths = optimizer.param_groups[0]["lr"], [W.detach()[0].clone()], []
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * rate(k)
        lengths.append(float(getattr(optimizer, "d", 0.0)))
        optimizer.zero_grad()
        hero.loss(W).backward()
        optimizer.step()
        torch.testing.assert_close(W.detach()[1].flip(0), W.detach()[0])
        rows.append(W.detach()[0].clone())
    return torch.stack(rows), lengths


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_package(page, name):
    for w in STARTS:
        got, G = state(page, name, w), gradient(w)
        norm = NORMS[hero.NAMES[name].group]
        close(got["gradient"], G[0])
        close(got["dual"], norm.dual(G))
        close(got["unit"], norm.dualize(G)[0])
        close(got["size"], norm.norm(G))
        close(got["path"], hero.descend(norm, w))
        close(got["polar"], polar(G)[0])
        close(got["products"], polar(G, method="muon")[0])


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_that_of_the_package(page, name):
    for w in STARTS:
        wanted, _ = way(
            lambda p: MEMORY[name](p, lr=RATES[name]), w, 60, lambda k: 1 - k / 60
        )
        close(state(page, name, w)["memory"]["path"], wanted)


def test_prodigy_is_that_of_the_package(page):
    for w in STARTS:
        wanted, lengths = way(
            lambda p: optim.Prodigy(p, betas=(0.0, 0.0), eps=0.0, d0=0.007),
            w,
            28,
            lambda k: min(1, 2 - k / 14),
        )
        got = state(page, "Prodigy", w)["prodigy"]
        close(got["path"], wanted)
        close(got["steps"], torch.tensor(lengths, dtype=torch.float64))


def test_what_the_sentences_say(page):
    """Three rulers, three minima; Adam ±1 first, Lion always, Prodigy Fibonacci."""
    told = {name: state(page, name, hero.START) for name in NAMES}
    ends = torch.tensor([told[n]["path"][-1] for n in ("SGD", "Adam", "Muon")])
    assert torch.pdist(ends).min() > 0.1
    for x, y in ends.tolist():
        assert x * x - y * y == pytest.approx(1, abs=1e-6)
    adam = torch.tensor(told["Adam"]["memory"]["steps"]).abs()
    assert adam[0].min() > 1 - 1e-6 and adam[-1].max() < 0.2
    lion = torch.tensor(told["Lion"]["memory"]["steps"]).abs()
    assert (lion == 1).all()
    lengths = torch.tensor(told["Prodigy"]["prodigy"]["steps"][:7]) / 0.007
    torch.testing.assert_close(lengths, torch.tensor([1.0, 1, 1, 2, 3, 5, 8]))
    last = [torch.tensor(told[n]["memory"]["path"][-1]) for n in ("Shampoo", "Muon")]
    assert (last[0] - last[1]).norm() > 0.02
    assert told["Shampoo"]["polar"] == told["Muon"]["polar"]
    assert abs(told["Muon"]["products"][0] - told["Muon"]["polar"][0]) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_lines_are_the_optimizer(page, name):
    """The three lines, run twice with a memory, end where the package does."""
    page.check(f"input[value={name}]", force=True)
    code = "\n".join(page.locator("pre code").all_inner_texts())
    torch.manual_seed(0)
    w = torch.randn(3, 3, dtype=torch.float64)
    p = w.clone().requires_grad_()
    optimizer = {
        "SGD": lambda p: optim.SGD(p, lr=0.1),
        "Adam": lambda p: optim.Adam(p, lr=0.1, eps=0.0),
        "Lion": lambda p: optim.Lion(p, lr=0.1),
        "Prodigy": lambda p: optim.Prodigy(p, betas=(0.0, 0.0), eps=0.0, d0=0.1),
        "Shampoo": lambda p: optim.Shampoo(p, lr=0.1, betas=(0.0, 1.0), eps=0.0),
        "Muon": lambda p: optim.Muon(
            p, 0.1, 0.0, momentum=0.9, nesterov=False, method="svd"
        ),
    }[name]([p])
    b1, b2 = (0.9, 0.99) if name == "Lion" else (0.9, 0.999)
    world = {x: torch.zeros_like(w) for x in ("m", "v")} | {"L": 0, "R": 0, "d": 0.1}
    world |= {"w": w.clone(), "w0": w.clone(), "lr": 0.1, "b1": b1, "b2": b2}
    world |= {"beta": 0.9, "svd": torch.linalg.svd, "inverse_root": inverse_root}
    for t, g in enumerate(torch.randn(2, 3, 3, dtype=torch.float64), 1):
        p.grad = g.clone()
        optimizer.step()
        world |= {"g": g.clone(), "c1": 1 - b1**t, "c2": 1 - b2**t}
        exec(code, world)  # noqa: S102 - the lines that the page prints
    torch.testing.assert_close(world["w"], p.detach(), rtol=0, atol=1e-6)
