"""Losses, the optimiser, the training loop, checkpoints."""
