"""The head library: one file a head, and nothing else. What a head is lies in ``detheads.headkit``."""

from detheads.headkit.contract import Head, HeadOutput

__all__ = ["Head", "HeadOutput"]
