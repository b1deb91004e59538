"""Kronecker factors: of blocks, with roots, in a basis, without inverses."""
