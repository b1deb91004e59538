"""What every optimizer shares: the contract, its batches, its state, its limits."""
