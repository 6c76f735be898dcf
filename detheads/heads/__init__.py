"""The head library: one file a head, and nothing else."""
