"""A contract that any `torch.optim.Optimizer` can be checked against."""

from .check import Check, ContractError, Report, Result
from .contract import CHECKS, contract

__all__ = ["CHECKS", "Check", "ContractError", "Report", "Result", "contract"]
