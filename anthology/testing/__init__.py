"""A contract that any `torch.optim.Optimizer` can be checked against."""

from .contract import CHECKS, Check, ContractError, Report, Result, contract

__all__ = ["CHECKS", "Check", "ContractError", "Report", "Result", "contract"]
