"""Files of class names, as most hosts read them."""

from collections.abc import Sequence

from detheads.foundation.text import visible


def label_file(classes: Sequence[str]) -> str:
    """A name a line, in the order of the labels."""
    return "".join(f"{visible(name)}\n" for name in classes)
