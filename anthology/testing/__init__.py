"""A contract that any `torch.optim.Optimizer` can be checked against."""

from .check import Check
from .contract import CHECKS, contract
from .report import ContractError, Report, Result

__all__ = ["CHECKS", "Check", "ContractError", "Report", "Result", "contract"]
