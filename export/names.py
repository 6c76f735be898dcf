"""Names inside a shipped graph: its input, its outputs, and the inner tensors that a proof reads."""

from detheads.foundation.manifest import ONLY_HEAD

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores", "labels")
DENSE_NAMES = ("dense_boxes", "dense_scores")
"""The tensors before suppression. They keep these names inside the graph, so that a proof can read them there."""


def prefix_of(head: str) -> str:
    """What the names of a head's tensors begin with: nothing in a graph with one head, else ``"NAME."``."""
    return "" if head == ONLY_HEAD else f"{head}."


def decision_names(number: int, prefix: str = "") -> tuple[str, str]:
    """Names inside the graph of what the head's decision of that number chose between, and of its choice."""
    return f"{prefix}decision{number}_values", f"{prefix}decision{number}_choice"
