"""The environment is filled by uv with pip's settings, or by pip."""

import subprocess
import sys

import pytest

from tools import install

LISTED = """\
:env:.disable-pip-version-check='1'
:env:.find-links='/own wheels/more'
:env:.index-url=''
global.cert='/etc/authorities.crt'
global.extra-index-url='https://one.example/simple https://two.example/simple'
global.find-links='/elsewhere'
install.constraint='/etc/limits.txt'
"""


def test_uv_is_told_what_pip_was() -> None:
    assert install.settings(LISTED) == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/own,wheels/more",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_CONSTRAINT": "/etc/limits.txt",
        "SSL_CERT_FILE": "/etc/authorities.crt",
    }


def test_pip_lists_its_settings_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/own")
    done = subprocess.run(
        [*install.PIP, "config", "list"], capture_output=True, text=True, check=True
    )
    assert install.settings(done.stdout)["UV_FIND_LINKS"] == "/own"


@pytest.mark.parametrize("broken", ["none", "uv", "both", "no uv"])
def test_where_uv_does_not_succeed_pip_does_it(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(*command: str, **environment: str) -> bool:
        ran.append(command[:3])
        if command[-1] == "uv":
            return broken != "no uv"
        return broken not in ("uv", "both") if command[2] == "uv" else broken != "both"

    monkeypatch.setattr(install, "run", run)
    assert install.main(["-r", "requirements.txt"]) == (broken == "both")
    uv, pip = (sys.executable, "-m", "uv"), install.PIP
    wanted = {"none": [pip, uv], "no uv": [pip, pip]}
    assert ran == wanted.get(broken, [pip, uv, pip])
