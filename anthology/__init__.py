"""The Optimizer Anthology: optimizers derived from a norm, a root or a flow."""

__version__ = "0.1.0"
