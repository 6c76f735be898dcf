"""What is going on in a server, by number."""

from dataclasses import dataclass


@dataclass
class Traffic:
    """Requests that bring a body, from the moment they are accepted on.

    Attributes:
        accepted: how many were let in.
        answered: how many of them got an answer, whatever it says.
        gone: how many of them lost their client before it.
        lost: how many of them the server gave up, because its time to end was over.
        draining: the server was asked to end: it answers what comes, and says that it is not ready.
    """

    accepted: int = 0
    answered: int = 0
    gone: int = 0
    lost: int = 0
    draining: bool = False

    @property
    def in_progress(self) -> int:
        """How many are accepted and not over."""
        return self.accepted - self.answered - self.gone - self.lost
