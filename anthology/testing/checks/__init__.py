"""The checks, by what they are about."""

from .decay import DECAY
from .gradients import GRADIENTS
from .interface import INTERFACE
from .state import STATE
from .tensors import TENSORS

__all__ = ["DECAY", "GRADIENTS", "INTERFACE", "STATE", "TENSORS"]
