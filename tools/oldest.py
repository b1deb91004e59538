"""Test the package with the oldest versions that it says it works with.

``python tools/oldest.py`` makes an environment in ``_build/oldest``, with PyTorch and
the packages of the laboratory at the lower bounds of ``pyproject.toml``, and runs the
tests of the package there. A bound that this Python cannot install is passed by, and
said so. Arguments go to pytest: ``python tools/oldest.py -k dispatch``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "_build" / "oldest"
PYTHON = HOME / ("Scripts" if os.name == "nt" else "bin") / "python"
EXTRAS = ("motion", "lab", "bench")
TESTS = ("tests/unit", "tests/identities", "tests/contract")
# what the tests need beside it, in any version
TOOLS = (
    *("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "expecttest"),
    *("setuptools", "nbformat", "pyyaml", "cvxpy"),
)


def bounds() -> list[str]:
    """The requirements of the package and its extras, as they stand."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *(x for e in EXTRAS for x in extras[e])})


def oldest(requirement: str) -> str:
    """A requirement with its lower bound as the only version.

    Parameters
    ----------
    requirement : str
        Such as ``torch>=2.6``; one without a bound stays as it is.

    Returns
    -------
    str
        Such as ``torch==2.6.*``.
    """
    found = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement)
    return f"{found[1]}=={found[2]}.*" if found else requirement


def installed(*arguments: str) -> bool:
    command = [str(PYTHON), "tools/install.py", "--quiet", *arguments]
    print("$ python", *command[1:], flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def install() -> None:
    """Make the environment, one package after another so that each can be refused."""
    venv.create(HOME, with_pip=True, clear=True)
    torch = next(x for x in bounds() if x.startswith("torch>"))
    if not installed(oldest(torch), *TOOLS):
        raise SystemExit(f"{oldest(torch)} is not there for {sys.version.split()[0]}")
    pinned = HOME / "torch.txt"  # what nothing else may change
    pinned.write_text(oldest(torch) + "\n", encoding="utf-8")
    for requirement in bounds():
        fixed = (oldest(requirement), "-c", str(pinned), "--only-binary", ":all:")
        if requirement != torch and not installed(*fixed):
            print(f"no wheel of {oldest(requirement)} here: taking {requirement}")
            installed(requirement, "-c", str(pinned))


def main() -> int:
    install()
    versions = [str(PYTHON), "-m", "pip", "list", "--format=freeze"]
    subprocess.run(versions, check=False)
    command = [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-n", "2", *TESTS, *sys.argv[1:]]
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | threads
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
