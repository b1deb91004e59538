"""What pip would install: the package, its types, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import address


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text"):
        (source / name).write_bytes((address.ROOT / name).read_bytes())
    (source / "anthology").symlink_to(address.ROOT / "anthology")
    (source / "tests").symlink_to(address.ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
        + ["--quiet", "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile) -> str:
    (name,) = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    return wheel.read(name).decode()


def test_it_holds_every_module_and_only_those(wheel: zipfile.ZipFile) -> None:
    code = {n for n in wheel.namelist() if ".dist-info/" not in n}
    expected = {
        path.relative_to(address.ROOT).as_posix()
        for path in (address.ROOT / "anthology").rglob("*")
        if path.suffix in (".py", ".json", ".css", ".js", ".mplstyle")
        or path.name == "py.typed"
    }
    assert code == expected


def test_it_needs_torch_alone(wheel: zipfile.ZipFile) -> None:
    lines = metadata(wheel).splitlines()
    needs = [line for line in lines if line.startswith("Requires-Dist")]
    assert [n for n in needs if "extra ==" not in n] == ["Requires-Dist: torch>=2.6"]
    assert not [n for n in needs if "==" in n.partition(";")[0]], "lower bounds only"
    assert "Name: optimizer-anthology" in lines
    assert f"Version: {address.version()}" in lines


def test_importing_it_is_light() -> None:
    """No plotting, no numbers beyond torch's own, until the lab is opened."""
    heavy = ("matplotlib", "sklearn", "ipywidgets", "torchdiffeq", "scipy", "yaml")
    names = ["norms", "linalg", "optim", "motion", "testing"]
    code = (
        "import sys, anthology\n"
        "assert 'torch' not in sys.modules, 'import anthology loads torch'\n"
        + "".join(f"import anthology.{name}\n" for name in names)
        + f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=address.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_only_the_lab_imports_more_than_torch() -> None:
    allowed = {"torch", "anthology"} | set(sys.stdlib_module_names)
    package = address.ROOT / "anthology"
    wrong = [
        (path.relative_to(package).as_posix(), name)
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] != "lab"
        for name in imported(path) - allowed
        if (path.relative_to(package).parts[0], name) != ("kernels", "triton")
    ]
    # imported when they are used
    assert wrong == [("motion/flow.py", "torchdiffeq"), ("motion/radius.py", "scipy")]


def imported(path: Path) -> set[str]:
    """First words of every absolute import in a file, wherever it stands."""
    import ast

    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names
