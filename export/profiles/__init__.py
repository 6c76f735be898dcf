"""Graphs in the shape that other programs want, each with what lies beside it there and a proof of its own.

One file for each host; its name with ``-`` is the name of ``--profile``.
"""

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from detheads.foundation.errors import UserError, suggest

if TYPE_CHECKING:
    from detheads.export.profiles.profile import Profile

NAMES: Final = ("triton", "frigate", "deepstream", "head-only", "raw")


def require_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of profiles, each once.

    Raises:
        UserError: for one that there is not.
    """
    asked = tuple(dict.fromkeys(names))
    for name in asked:
        if name not in NAMES:
            hint = suggest(name, NAMES)
            raise UserError(f"there is no profile {name!r}; there are {', '.join(NAMES)}.{hint}")
    return asked


def load_profile(name: str) -> "Profile":
    """The profile of that name.

    Raises:
        UserError: when there is none.
    """
    require_names([name])
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    profile: Profile = module.PROFILE
    return profile
