"""Steps of every optimizer in float64, stored, to be compared after a change."""

import json
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.examples import OURS

STORED = Path(__file__).parent / "trajectories.json"
SHAPES = [(4, 3), (3, 5), (3,), (2, 3, 2, 2), ()]
STEPS = 12


def machine() -> list[str]:
    """What decides the last bits: the processor, its vectors, PyTorch's version."""
    lines = Path("/proc/cpuinfo")
    text = lines.read_text().splitlines() if lines.exists() else []
    model = next((x.partition(":")[2].strip() for x in text if "model name" in x), "")
    vectors = torch.backends.cpu.get_cpu_capability()
    return [model or platform.processor(), vectors, torch.__version__]


HERE = machine()


def trajectory(factory: Callable[..., Any]) -> dict[str, Any]:
    """Weights and state after some steps down a bowl that shakes, flat, by name."""
    torch.manual_seed(0)
    params = [torch.randn(s, dtype=torch.float64).requires_grad_() for s in SHAPES]
    optimizer = factory(params)
    for _ in range(STEPS):
        for p in params:
            p.grad = p.detach() + 0.3 * torch.randn_like(p)
        optimizer.step()
    found = {}
    for i, p in enumerate(params):
        found[f"{i}"] = p.detach().flatten().tolist()
        for key, x in optimizer.state[p].items():
            if isinstance(x, Tensor):
                found[f"{i}.{key}"] = x.detach().to_dense().flatten().tolist()
    return found


@cache
def stored() -> dict[str, Any]:
    """What was stored, and on which machine."""
    known: dict[str, Any] = json.loads(STORED.read_text())
    return known


def main() -> None:
    """Store the steps of all that are not stored yet; what is stored stays."""
    torch.set_num_threads(1)
    known = stored()
    runs = dict(known["runs"])
    for name in sorted(OURS.keys() - runs.keys()):
        runs[name] = trajectory(OURS[name])
    lines = [f"{json.dumps(name)}: {json.dumps(run)}" for name, run in runs.items()]
    told = f'{{"machine": {json.dumps(known["machine"])},\n"runs": {{\n'
    STORED.write_text(told + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    main()
