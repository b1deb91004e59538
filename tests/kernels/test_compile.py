"""The kernels compile for CUDA, which the interpreter does not show."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


@pytest.mark.skipif(not find_spec("triton"), reason="needs triton")
def test_every_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    surroundings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    surroundings |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": str(HERE.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "compile_for_cuda.py")],
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    names = [name for name, *_ in lines]
    assert names.count("product") == 4 and len(names) == 2 * (7 + 1 + 1 + 2 + 2) + 4
    for name, low, made, *words in lines:
        assert made == "True"
        if name == "product":  # tensor cores, and no single precision in ten bits
            assert ("wgmma" in words) == (low == "bf16")
            assert "tf32" not in words
            assert "st.global.v4" in words  # the mirrored tile too is written in lines
            continue
        # 16 bytes at a time, but where addresses do not allow it, and all in registers
        assert ("ld.global.v4" in words) == (name != "odd") == ("st.global.v4" in words)
        assert "spills" not in words
        if "adamw" in name or name in ("move", "many-nearest"):
            assert "sqrt.rn" in words and "sqrt.approx" not in words
