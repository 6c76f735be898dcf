"""Train a head on cached features: configuration, batches, the loop, checkpoints, plots."""
