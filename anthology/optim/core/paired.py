"""The kernels of a rule that takes two passes, handed on to the parts of rules."""

from anthology.kernels.prodigy import move, observe

__all__ = ["move", "observe"]
