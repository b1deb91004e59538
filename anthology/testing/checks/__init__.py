"""The checks, by what they are about."""

from .gradients import GRADIENTS
from .interface import INTERFACE
from .state import STATE
from .tensors import TENSORS

__all__ = ["GRADIENTS", "INTERFACE", "STATE", "TENSORS"]
