"""Triton kernels, each beside its eager twin. Triton is imported when one is called."""
