"""What the stored runs of the transformer under the probe say.

The chapter and the claims page repeat these figures.
"""

import json
import runpy
from pathlib import Path

import pytest
import torch

if not hasattr(torch.optim, "Muon"):
    pytest.skip("PyTorch 2.9 brought its Muon", allow_module_level=True)

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "probe_transformer.py"
EXPERIMENT = runpy.run_path(str(SCRIPT))
CONTENT = json.loads(EXPERIMENT["RESULTS"].read_text())

# by the norm of the head: sees all outputs alike, or one output at a time
ROTATING = {"gradient descent", "SGD", "torch SGD", "KrADagrad", "Muon", "SIRFShampoo"}
ENTRYWISE = {"sign descent", "Signum", "Lion", "Adam", "AdamW", "torch AdamW"}
ENTRYWISE |= {"Prodigy", "spectral descent", "SteepestDescent", "Scion"}
WITHOUT_MEMORY = ("gradient descent", "sign descent", "spectral descent")


def of(shares: dict[str, list[float]], rules) -> list[float]:
    return [x for name, v in shares.items() if name.split(",")[0] in rules for x in v]


def test_every_run_is_there_once():
    found = [(r["rule"], r["lr"], r["seed"]) for r in CONTENT["runs"]]
    rules = EXPERIMENT["RULES"].items()
    wanted = {(n, lr, s) for s in (0, 1, 2) for n, (_, lrs) in rules for lr in lrs}
    assert len(found) == len(wanted) and set(found) == wanted


@pytest.mark.claim("blind-directions", tol=1e-3, trials=3)
def test_most_of_the_way_of_the_head_under_adam_is_blind(claim):
    shares = EXPERIMENT["blind"](CONTENT, "head.weight")
    assert all(len(values) == claim.trials for values in shares.values())
    kept = of(shares, ROTATING)
    assert len(kept) == (len(ROTATING) + 2) * claim.trials and max(kept) < claim.tol
    gone = of(shares, ENTRYWISE)
    assert len(gone) == (len(ENTRYWISE) + 4) * claim.trials
    assert 0.65 < min(gone) and max(gone) < 0.9
    assert max(of(shares, {"Shampoo", "SOAP", "RootFreeRMSProp"})) < 0.1


@pytest.mark.claim("promise-kept", trials=27)
def test_steps_without_memory_keep_a_third_of_their_promise_at_most(claim):
    shares = of(EXPERIMENT["kept"](CONTENT, "middle"), WITHOUT_MEMORY)
    assert len(shares) == claim.trials and max(shares) < 0.37
    assert sum(x < 0.25 for x in shares) >= 23
    assert min(of(EXPERIMENT["kept"](CONTENT, "middle"), {"Adam", "SOAP"})) > 0.45


def test_adam_is_far_outside_the_radius_and_far_inside_stability():
    for row in CONTENT["runs"]:
        if row["rule"] in ("Adam", "AdamW"):
            step, product, limit, stable = row["sharpness"][1]
            assert step == 61 and 50 * limit < product < stable / 3
