"""Training: one loop, its configuration, checkpoints, and the stages."""
