"""Prints the dependencies of some extras, each at its lower bound exactly: requirements for ``make lower-bounds``.

Arguments are extras, and names of packages out of the extra ``dev``.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import requires

from packaging.requirements import Requirement


def requirements(extra: str) -> Iterator[Requirement]:
    """What an extra needs on this machine, with the extras that it includes; the package's own needs for ``""``."""
    for requirement in map(Requirement, requires("detheads") or []):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not wanted or (extra and not (requirement.marker and "extra" in str(requirement.marker))):
            continue
        if requirement.name == "detheads":
            for inner in requirement.extras:
                yield from requirements(inner)
        else:
            yield requirement


def at_lower_bound(requirement: Requirement) -> str:
    """The requirement with ``==`` in the place of ``>=``."""
    bounds = [bound for bound in requirement.specifier if bound.operator in {">=", "=="}]
    assert len(bounds) == 1, f"{requirement} has no single lower bound"
    return f"{requirement.name}=={bounds[0].version}"


if __name__ == "__main__":
    extras = {name for name in sys.argv[1:] if any(requirements(name))}
    chosen = [requirement for extra in ("", *sorted(extras)) for requirement in requirements(extra)]
    chosen += [requirement for requirement in requirements("dev") if requirement.name in sys.argv[1:]]
    print(*sorted(set(map(at_lower_bound, chosen))), sep="\n")
