"""Every optimizer, set so that a step on a device waits for nothing."""

from tests.examples import EXAMPLES, gathered

SHAPES = [(12, 8), (8, 12), (8, 8), (8, 8), (7,), (4, 3, 3, 3), ()]
OURS = gathered(lambda x: {} if x.chooses else x.forms(x.device))
MATRICES_ONLY = {name for example in EXAMPLES.values() for name in example.matrices}
# What waits however it is set, as their docstrings say, because the host chooses.
CHOOSING = gathered(lambda x: x.forms(x.device) if x.chooses else {})
