"""What a step costs at least: bytes, operations, state and, on a device, seconds."""

from .limit import Limit, limit
from .rates import Rates, device_rates
from .work import Cost, Seen, Work

__all__ = ["Cost", "Limit", "Rates", "Seen", "Work", "device_rates", "limit"]
