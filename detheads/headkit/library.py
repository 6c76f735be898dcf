"""Names of the installed heads, known without importing one of them (or torch).

Where to look is said by entry points of the group ``detheads.heads`` (``pyproject.toml``): a module with a head, or a
package of them. So another distribution can bring heads of its own.
"""

import difflib
import importlib.util
import pkgutil
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from detheads.foundation.errors import UserError

ENTRY_POINTS = "detheads.heads"


@cache
def head_modules() -> dict[str, str]:
    """The dotted module of each installed head by the head's name, which is its file's."""
    found = {}
    for entry_point in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry_point.value)
        if spec is None:
            continue
        if spec.submodule_search_locations is None:
            found[entry_point.value.rpartition(".")[2]] = entry_point.value
        for module in pkgutil.iter_modules(spec.submodule_search_locations or ()):
            found[module.name] = f"{entry_point.value}.{module.name}"
    return found


def require_head(name: str, known: Iterable[str]) -> None:
    """Refuse an unknown name, with the closest ones.

    Raises:
        UserError: when ``name`` is not among ``known``.
    """
    names = sorted(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise UserError(
            f"unknown head {name!r}; did you mean {', '.join(close)}? A head of your own needs its file: --head-file."
        )
