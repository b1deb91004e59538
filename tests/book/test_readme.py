"""What the README shows is true: its example trains, its commands exist."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from anthology import lab
from tools import address, cover

README = (address.ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_example_trains_a_model(tmp_path: Path) -> None:
    (source,) = blocks("python")
    assert len(source.splitlines()) <= 12
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(address.ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (right,) = re.findall(r"right answers: (\d+)%", done.stdout)
    promised = int(re.search(r"(\d+) % of handwritten digits", README)[1])
    assert abs(int(right) - promised) <= 2
    assert "role" in done.stdout, "the table of layers is printed"


def test_its_two_commands_exist() -> None:
    targets = re.findall(r"^make (\w+)", "\n".join(blocks("console")), re.MULTILINE)
    assert targets == ["book", "test"]
    for target in targets:
        done = subprocess.run(
            ["make", "--dry-run", target, f"PY={sys.executable}"],
            cwd=address.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "tools/" in done.stdout


def test_the_long_example_leaves_nothing_for_git(tmp_path: Path) -> None:
    """Run where the README says, from the root, into its own default folder."""
    (script,) = set(re.findall(r"examples/\w+\.py", "\n".join(blocks("console"))))
    told = subprocess.run(
        [sys.executable, str(address.ROOT / script), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(address.ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    (folder,) = re.findall(r"--folder .*\(default: (\S+)\)", told.stdout)
    assert folder == "gpt"
    shutil.copy(address.ROOT / ".gitignore", tmp_path)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "lock").touch()
    (tmp_path / "lock").touch()
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    found = subprocess.run(
        [*git, "status", "--short", "--untracked-files=all"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["??", ".gitignore", "??", "lock"]


def test_files_it_names_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    folders = re.findall(r"^\| `([\w/]+)` \|", README, re.MULTILINE)
    assert links and folders
    for name in links + folders:
        assert (address.ROOT / name).exists(), name


def test_the_picture_is_small_and_true() -> None:
    """Three rulers, three minima: what the cover shows, from what it draws."""
    assert cover.TARGET.stat().st_size < 100_000
    ends = [cover.descend(norm)[-1] for _, norm in cover.NORMS.values()]
    for end in ends:
        assert lab.problems.two_weights(end) < 1e-6
    gaps = torch.pdist(torch.stack(ends))
    assert gaps.min() > 0.02
    for _, norm in cover.NORMS.values():
        step = cover.ball(norm) - cover.f.start()
        assert torch.allclose(
            norm.norm(step), torch.full((721,), cover.RADIUS).double()
        )
    assert cover.png().startswith(b"\x89PNG")


def test_the_mark_is_drawn_in_the_colours_of_the_palette() -> None:
    """What is committed is what the tool draws; the ruler of a ball is its colour."""
    for name, content in cover.pictures().items():
        if name.endswith(".svg"):
            assert (cover.TARGET.parent / name).read_bytes() == content, name
    for ruler in ("l1", "l2", "linf"):
        style = lab.palette.STYLES[ruler]
        assert style.color in cover.logo("light") and style.dark in cover.logo("dark")
