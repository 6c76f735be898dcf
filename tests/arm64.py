"""Fetches what the runtime and each extra of a package need on 64-bit ARM, for each Python, and prints a table of the
compiled wheels. Ends with code 1 where the package index has not all of them. ``make arm64`` calls it.
"""

import sys
import tempfile
from pathlib import Path

from detheads.deploy.packaging.target import EXTRAS
from detheads.deploy.packaging.targets.jetson import TARGET as JETSON
from detheads.deploy.packaging.wheel import own_wheel
from detheads.deploy.packaging.wheels import Place, fetch
from detheads.foundation.errors import UserError

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ROWS = (("", ()), *((extra, (extra,)) for extra in EXTRAS))


def fetched(own: Path, extras: tuple[str, ...], further: tuple[str, ...], python: str) -> dict[str, str]:
    """Versions of the wheels with machine code, by name; none where some wheel is not to be had."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            wheels = fetch(Path(folder), own, extras, further, Place(python, "aarch64", JETSON.glibc))
        except UserError as error:
            print(f"{', '.join([*extras, *further])}: {error}", file=sys.stderr)
            return {}
    return {wheel.name: wheel.version for wheel in wheels.values() if not wheel.path.name.endswith("-any.whl")}


def main() -> int:
    versions: dict[tuple[str, str], dict[str, str]] = {}  # (package, what brings it) -> Python -> version
    missing = []
    brought: set[str] = set()
    with tempfile.TemporaryDirectory() as place:
        own = own_wheel(Path(place), None)
        for name, extras in ROWS:
            for python in PYTHONS:
                found = fetched(own, extras, (), python)
                if not found:
                    missing.append(f"{name or 'runtime'} on Python {python}")
                for package, version in found.items():
                    if package not in brought:
                        versions.setdefault((package, name or "runtime"), {})[python] = version
            brought |= {package for package, _ in versions}
        for python, further in JETSON.requirements.items():
            found = fetched(own, (), further, python)
            if "cuda-bindings" not in found:
                missing.append(f"jetson on Python {python}")
            versions.setdefault(("cuda-bindings", "jetson"), {})[python] = found.get("cuda-bindings", "none")
    print(f"| package | for | {' | '.join(PYTHONS)} |")
    print("|---|---|" + "---|" * len(PYTHONS))
    for (package, name), by_python in versions.items():
        print(f"| {package} | {name} | {' | '.join(by_python.get(python, '-') for python in PYTHONS)} |")
    print(f"not to be had: {', '.join(missing) or 'nothing'}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
