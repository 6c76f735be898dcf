"""What a package may be made for, and what differs between targets."""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from detheads.foundation.errors import UserError, suggest

EXTRAS: Final = ("cpu", "frigate", "openvino", "serve", "sign", "video")
"""What a package can bring besides the runtime itself; the rest needs PyTorch, or is for the making of bundles."""


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: of ``--target``; that of the file in ``targets/``.
        machine: what such machines are, for a reader.
        arches: processors, as ``platform.machine()`` calls them; the first is meant where nobody says.
        systems: Python versions, the usual one first, and the system whose Python that is.
        extras: what every package for it brings.
        backend: what runs the bundle there.
        glibc: version of the oldest C library that these systems have; wheels that need a newer one are not taken.
        files: file of the package -> template in ``files/``.
        words: what stands for ``@KEY@`` in these templates.
        requirements: by Python version, what else it needs.
    """

    name: str
    machine: str
    arches: tuple[str, ...]
    systems: Mapping[str, str]
    extras: tuple[str, ...]
    backend: str
    glibc: tuple[int, int]
    files: Mapping[str, str]
    words: Mapping[str, str]
    requirements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def python_or_usual(self, python: str | None) -> str:
        """The Python version that is asked for, or the usual one.

        Raises:
            UserError: when such machines have not that one.
        """
        if python is None:
            return next(iter(self.systems))
        if python not in self.systems:
            known = ", ".join(f"{version} ({system})" for version, system in self.systems.items())
            raise UserError(f"--python for {self.name} is {known}, not {python!r}.")
        return python

    def arch_or_usual(self, arch: str | None) -> str:
        """The processor that is asked for, or the usual one.

        Raises:
            UserError: when there are no such machines with it.
        """
        if arch is None:
            return self.arches[0]
        if arch not in self.arches:
            raise UserError(f"--arch for {self.name} is {' or '.join(self.arches)}, not {arch!r}.")
        return arch

    def extras_with(self, asked: str) -> tuple[str, ...]:
        """Every package's extras and those in ``"frigate,video"``, each once, in order.

        Raises:
            UserError: when one cannot be packed.
        """
        names = [name.strip() for name in asked.split(",") if name.strip()]
        for name in names:
            if name not in EXTRAS:
                raise UserError(f"--with takes {', '.join(EXTRAS)}, not {name!r}.{suggest(name, EXTRAS)}")
        return tuple(sorted({*self.extras, *names}))


COMMON: Final = {name: name for name in ("check.py", "camera.py", "camera.sh", "README.md")}
NATIVE: Final = {**COMMON, **{name: name for name in ("install.sh", "doctor.sh", "prove.sh", "service.in")}}
"""Files of a package that is installed on a system itself."""


def known_targets() -> list[str]:
    """Names of ``--target``."""
    from detheads.deploy.packaging import targets

    return sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def find_target(name: str) -> Target:
    """The target of that name.

    Raises:
        UserError: when there is none.
    """
    known = known_targets()
    if name not in known:
        raise UserError(f"there is no target {name!r}, but {', '.join(known)}.{suggest(name, known)}")
    target: Target = importlib.import_module(f"detheads.deploy.packaging.targets.{name}").TARGET
    return target
