"""One pass over the memory: compiled code and Triton kernels."""
