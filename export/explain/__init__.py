"""Where an artefact departs from PyTorch, and why."""

from detheads.export.explain.explain import Seen, Suspect, explain
from detheads.export.explain.explanation import Cause, Departure, Explanation

__all__ = ["Cause", "Departure", "Explanation", "Seen", "Suspect", "explain"]
