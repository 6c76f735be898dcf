"""All wheels that an installation on another machine takes, fetched here.

pip chooses wheels for another machine, but asks *this* one whether a requirement holds there
(``exceptiongroup; python_version < "3.11"``). So the requirements of every wheel are read once more with the markers of
the target: what it lacks is asked for, and what only this machine needs is left out.
"""

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detheads.deploy.packaging.wheel import run_pip
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

LARGEST_METADATA: Final = 1 << 22
MOST_ROUNDS: Final = 8
"""Of asking for what lacks; one is enough for the wheels that there are today."""
OWN: Final = "detheads"
OLDEST: Final = {"x86_64": 5, "aarch64": 17}
"""Of glibc 2.N, the first that has a tag of wheels, by processor."""


@dataclass(frozen=True)
class Place:
    """Where wheels are to be installed: a CPython ``"3.11"`` on Linux, on ``"aarch64"``, with a C library not older."""

    python: str
    arch: str
    glibc: tuple[int, int]

    def __str__(self) -> str:
        return f"Python {self.python} on {self.arch}"

    @property
    def platforms(self) -> list[str]:
        """The tags of wheels that run there, the newest first; pip takes what is named and nothing else."""
        oldest = OLDEST[self.arch]
        tags = [f"manylinux_2_{minor}_{self.arch}" for minor in range(self.glibc[1], oldest - 1, -1)]
        legacy = ("2014", "2010", "1") if self.arch == "x86_64" else ("2014",)
        return tags + [f"manylinux{name}_{self.arch}" for name in legacy]

    @property
    def markers(self) -> dict[str, str]:
        """What environment markers are there."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class Wheel:
    """A wheel, and what it says of itself."""

    path: Path
    name: str
    """Normalised."""
    version: str
    requires: tuple[str, ...]


def fetch(folder: Path, own: Path, extras: Sequence[str], further: Sequence[str], place: Place) -> dict[str, Wheel]:
    """Fetch the wheels that ``own`` with ``extras`` needs, and it; by name.

    Args:
        folder: an empty one, which takes the wheels.
        further: other requirements.

    Raises:
        UserError: when a wheel is not to be had, with pip's reason.
    """
    root = f"{OWN}[{','.join(extras)}]"
    wanted = [f"{root} @ {own.absolute().as_uri()}", *further]
    for _ in range(MOST_ROUNDS):
        with tempfile.TemporaryDirectory(dir=folder) as fetched:
            _download(Path(fetched), wanted, place)
            found = {wheel.name: wheel for wheel in map(read_wheel, Path(fetched).glob("*.whl"))}
            needed, lacking = closure(found, [root, *further], place)
            if not lacking:
                return {name: _moved(found[name], folder) for name in sorted(needed)}
        wanted += lacking
    raise UserError(f"the wheels for {place} do not fit together: {', '.join(lacking)} is not met.")


def closure(found: Mapping[str, Wheel], roots: Sequence[str], place: Place) -> tuple[set[str], list[str]]:
    """Which wheels are needed on the target for some requirements, and which requirements no wheel meets there."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    waiting = [Requirement(root) for root in roots]
    needed: set[str] = set()
    seen: set[tuple[str, str]] = set()
    lacking: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wheel = found.get(name)
        if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
            lacking.add(_without_marker(requirement))
            continue
        needed.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for each in map(Requirement, wheel.requires):
                if each.marker is None or each.marker.evaluate({**place.markers, "extra": extra}):
                    waiting.append(each)
    return needed, sorted(lacking)


def read_wheel(path: Path) -> Wheel:
    """A wheel's own words.

    Raises:
        UserError: when it is no wheel.
    """
    from packaging.utils import canonicalize_name

    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(info for info in archive.infolist() if info.filename.endswith(".dist-info/METADATA"))
            if entry.file_size > LARGEST_METADATA:
                raise ValueError
            message = HeaderParser().parsestr(archive.read(entry).decode("utf-8"))
        requires = tuple(message.get_all("Requires-Dist") or ())
        return Wheel(path, canonicalize_name(message["Name"]), message["Version"], requires)
    except (zipfile.BadZipFile, StopIteration, TypeError, ValueError):
        raise UserError(f"{path} is no wheel; fetch or build it again.") from None


def requirements_text(wheels: Mapping[str, Wheel]) -> str:
    """``requirements.txt``: each version and its digest."""
    rows = (
        f"{wheel.name}=={wheel.version} \\\n    --hash=sha256:{atomic.sha256_of(wheel.path)}\n"
        for _, wheel in sorted(wheels.items())
    )
    return "".join(rows)


def _download(folder: Path, wanted: Sequence[str], place: Place) -> None:
    options = [word for platform in place.platforms for word in ("--platform", platform)]
    try:
        run_pip(
            *("download", "--dest", str(folder), "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", place.python, *options, *wanted),
        )
    except UserError as error:
        raise UserError(
            f"the wheels for {place} could not be fetched ({error}); check the network, or set PIP_FIND_LINKS to a "
            "folder that has them."
        ) from None


def _moved(wheel: Wheel, folder: Path) -> Wheel:
    path = wheel.path.replace(folder / wheel.path.name)
    return Wheel(path, wheel.name, wheel.version, wheel.requires)


def _without_marker(requirement: "Requirement") -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"
