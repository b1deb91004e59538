"""The public address is written once, and one command changes it everywhere."""

import re
import shutil
from pathlib import Path

import pytest

from tools import address, move

NEW = "https://github.com/Some-One/her-book"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What repeats the address, in a repository of its own."""
    for relative in (*address.REPEATED_IN, "anthology/__init__.py"):
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(address.ROOT / relative, tmp_path / relative)
    for path in address.notebooks():
        target = tmp_path / path.relative_to(address.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path


def test_everything_agrees() -> None:
    assert move.disagreements() == []


def test_one_command_changes_it_everywhere(copy: Path) -> None:
    old = address.repository(copy)
    changed = move.change(NEW, copy)
    assert set(changed) >= set(address.REPEATED_IN)
    assert len(changed) == len(address.REPEATED_IN) + len(address.notebooks())
    assert address.repository(copy) == NEW
    assert move.disagreements(copy) == []
    for path in copy.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert old not in text and address.site(old) not in text, path
    assert move.change(NEW + ".git", copy) == []
    move.change(old, copy)
    for relative in changed:
        assert (copy / relative).read_bytes() == (address.ROOT / relative).read_bytes()


def test_a_place_that_was_forgotten_is_found(copy: Path) -> None:
    readme = copy / "README.md"
    old = address.repository(copy)
    owner, name = address.parse(old)
    other = f"https://github.com/not-{owner.strip('-')}/{name}"
    readme.write_text(readme.read_text().replace(old, other))
    assert any("README.md" in found for found in move.disagreements(copy))


def test_no_other_file_holds_the_address() -> None:
    """Other files derive it; only the listed ones and the chapters repeat it."""
    url = address.repository()
    allowed = {address.ROOT / relative for relative in address.REPEATED_IN}
    folders = ("_ext", "anthology", "chapters", "experiments", "tests", ".github")
    holding = [
        path
        for folder in folders
        for path in (address.ROOT / folder).rglob("*")
        if path.suffix in {".py", ".md", ".yml", ".json", ".html"}
        and url in path.read_text(encoding="utf-8")
    ]
    assert not set(holding) - allowed


def test_the_version_is_written_once() -> None:
    version = address.version()
    assert f'"{version}"' not in (address.ROOT / "pyproject.toml").read_text()
    readme = (address.ROOT / "README.md").read_text()
    assert set(re.findall(r"@v([\d.]+)", readme)) == {version}
    citation = (address.ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in citation


@pytest.mark.parametrize(
    "url",
    [
        "optimizer-anthology",
        "https://gitlab.com/a/b",
        "https://github.com/-bad/name",
        "https://github.com/a/b/c",
        "https://github.com/a",
        "https://github.com/a/b c",
    ],
)
def test_no_address_of_a_repository_is_refused(url: str, copy: Path) -> None:
    before = (copy / "_config.yml").read_bytes()
    with pytest.raises(ValueError, match="https://github.com/owner/name"):
        move.change(url, copy)
    assert (copy / "_config.yml").read_bytes() == before


def test_sites_of_projects_and_of_owners() -> None:
    assert address.site(NEW) == "https://some-one.github.io/her-book/"
    owners = "https://github.com/Some-One/some-one.github.io"
    assert address.site(owners) == "https://some-one.github.io/"
