"""Every optimizer takes the steps that it took when they were stored.

``python -m tests.trajectories`` stores those of a new optimizer. After a change that is
meant to change numbers, take what moved out of the file first; the message of the
commit says which moved and why.
"""

import pytest
import torch

from tests.examples import OURS
from tests.trajectories import HERE, stored, trajectory


@pytest.mark.parametrize("name", OURS)
def test_the_steps_are_those_that_were_stored(name: str) -> None:
    known = stored()
    assert name in known["runs"], "store its steps: python -m tests.trajectories"
    then, now = known["runs"][name], trajectory(OURS[name])
    assert now.keys() == then.keys()
    for entry, values in then.items():
        old, new = torch.tensor(values).double(), torch.tensor(now[entry]).double()
        assert new.shape == old.shape, entry
        if known["machine"] == HERE:  # bit for bit
            assert torch.equal(new, old), entry
        else:
            torch.testing.assert_close(new, old, rtol=1e-8, atol=1e-10, msg=entry)
