"""How long work tells how far it is, and what else there is to say."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a step's name, what is done of it and what there is to do (0: not known)."""


Remark = Callable[[str], None]
"""Called with a sentence, without its full stop, about what was left out or is unusual."""


def silent(step: str, done: int, total: int) -> None:
    """A :data:`Progress` that nobody watches."""


def unheard(sentence: str) -> None:
    """A :data:`Remark` that nobody reads."""


def under(step: str, on_progress: Progress) -> Progress:
    """Reports every step of some work as ``step`` of the whole."""
    return lambda _, done, total: on_progress(step, done, total)
