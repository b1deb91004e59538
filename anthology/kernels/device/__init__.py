"""The kernels themselves. Importing a file of this folder imports Triton."""
