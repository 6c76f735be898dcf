"""What heads are built from and known by: the contract, the registry, shared parts. The heads are in ``heads/``."""
