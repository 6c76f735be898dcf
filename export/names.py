"""Names inside a shipped graph: its input, its outputs, and the inner tensors that a proof reads."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detheads.foundation.errors import UserError
from detheads.foundation.manifest import HEAD_NAME, ONLY_HEAD

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores", "labels")
DENSE_NAMES = ("dense_boxes", "dense_scores")
"""The tensors before suppression. They keep these names inside the graph, so that a proof can read them there."""

RESERVED = frozenset({ONLY_HEAD, "backbone", "graph", "suppression"})
"""What the names of other nodes of a graph begin with."""


def prefix_of(head: str) -> str:
    """What the names of a head's tensors begin with: nothing in a graph with one head, else ``"NAME."``."""
    return "" if head == ONLY_HEAD else f"{head}."


def feature_name(layer: str) -> str:
    """Name inside the graph of a feature map that the backbone gives to the heads."""
    return f"features.{layer}"


def decision_names(number: int, prefix: str = "") -> tuple[str, str]:
    """Names inside the graph of what the head's decision of that number chose between, and of its choice."""
    return f"{prefix}decision{number}_values", f"{prefix}decision{number}_choice"


def named_runs(runs: Sequence[Path], names: Sequence[str] = ()) -> dict[str, Path]:
    """The run of each head of a bundle by the head's name: given, else that of the run's folder.

    A single head needs no name and is called ``head``.

    Raises:
        UserError: when there are names but not one for each run, a name is not one, or two are the same.
    """
    if names and len(names) != len(runs):
        raise UserError(f"{len(names)} of --head-name for {len(runs)} runs; give one for each run, or none.")
    if len(runs) == 1:
        return {ONLY_HEAD: runs[0]}
    chosen = list(names) or [run.resolve().name for run in runs]
    for name, run in zip(chosen, runs, strict=True):
        if not re.fullmatch(HEAD_NAME, name) or name in RESERVED:
            raise UserError(
                f"{name!r} cannot be the name of a head ({run}): up to 64 letters, digits, _ and - make one, and "
                f"{', '.join(sorted(RESERVED))} are taken; give names with --head-name, one for each run."
            )
    twice = [name for name, count in Counter(chosen).items() if count > 1]
    if twice:
        raise UserError(f"two of the runs are called {twice[0]!r}; give names with --head-name, one for each.")
    return dict(zip(chosen, runs, strict=True))
