"""The package is a house whose stairs go one way, as its design draws it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Each room and what it may import from, besides itself.
ROOMS = {
    "kernels.device": set(),
    "kernels": {"kernels.device"},
    "linalg": {"kernels"},
    "norms": {"linalg"},
    "optim.core": {"kernels"},
    "optim.parts": {"optim.core", "norms", "linalg", "kernels"},
    "cost.work": set(),
    "cost.flops": {"norms", "linalg"},
    "optim": {
        "optim.parts",
        "optim.core",
        "norms",
        "linalg",
        "cost.work",
        "cost.flops",
    },
    "motion": {"norms", "linalg", "motion.probe"},
    "motion.probe": {"motion", "optim", "optim.parts", "optim.core", "norms"},
    "testing": set(),
    "cost": {"cost.work", "cost.flops", "optim"},
    "lab": {"cost", "optim", "norms", "linalg", "motion", "motion.probe", "testing"},
}


def room_of(module: str) -> str:
    """The longest name of a room that a module's name begins with."""
    inside = module.removeprefix("anthology.")
    fits = [r for r in ROOMS if inside == r or inside.startswith(r + ".")]
    return max(fits, key=len, default=inside)


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, absolute."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = ".".join(parts[: len(parts) - node.level + 1])
            base = ".".join(filter(None, [above if node.level else "", node.module]))
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("anthology.")}


FILES = sorted((ROOT / "anthology").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room = room_of(module.removesuffix(".__init__"))
    if room == "anthology":
        assert not imports(path)
        return
    for name in imports(path):
        other = room_of(name)
        assert other == room or other in ROOMS[room], f"{room} imports {name}"


def test_no_two_files_import_each_other_in_a_circle() -> None:
    def module(path: Path) -> str:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        return name.removesuffix(".__init__")

    known = {module(path) for path in FILES}
    # a package's face hands names on; who imports from it means the file behind
    faces = {module(p) for p in FILES if p.name == "__init__.py"}
    edges = {
        module(p): (imports(p) & known) - faces for p in FILES if module(p) not in faces
    }
    done: set[str] = set()
    while len(done) < len(edges):
        ready = {m for m in set(edges) - done if edges[m] <= done}
        assert ready, f"a circle among {sorted(set(edges) - done)}"
        done |= ready


def code_lines(path: Path) -> int:
    """Lines that are neither blank, nor comments, nor docstrings."""
    lines = path.read_text(encoding="utf-8").splitlines()
    told: set[int] = set()
    for node in ast.walk(ast.parse("\n".join(lines))):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            told |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    rest = [x.strip() for n, x in enumerate(lines, 1) if n not in told]
    return sum(bool(x) and not x.startswith("#") for x in rest)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_has_at_most_250_lines_of_code(path: Path) -> None:
    assert code_lines(path) <= 250
