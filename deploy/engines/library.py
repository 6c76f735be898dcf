"""Which TensorRT is here: NVIDIA's ``tensorrt`` or ``tensorrt_rtx``, which share their API, and what it can do."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from detheads.foundation.errors import UserError

LIBRARIES: Final = ("tensorrt", "tensorrt_rtx")
"""The first one that can build on this machine is used."""
AHEAD_OF_TIME: Final = "tensorrt_rtx"
"""Compiles for listed GPU architectures, with or without a GPU; ``tensorrt`` compiles for the GPU it finds."""
AMPERE: Final = 80
"""Oldest GPU architecture built for by default (compute capability 8.0)."""
LONGEST: Final = 600
"""Letters of the library's own words in a sentence."""


@dataclass(frozen=True)
class Library:
    """A TensorRT library in use.

    Attributes:
        module: the imported package.
        remark: why an installed library was passed over; empty when none was.
    """

    module: Any
    name: str
    version: str
    remark: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def log(self) -> Any:
        """The library's log: one for the process, for a library keeps to the first one that it is given."""
        return _log_of(self.module)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """What the library says of errors inside the block."""
        with self.log.listening() as errors:
            yield errors

    @property
    def capabilities(self) -> dict[str, int]:
        """GPU architectures that it compiles for by name, like ``{"SM86": 86}``; empty: the GPU of this machine."""
        if self.name != AHEAD_OF_TIME:  # the enumeration may be there all the same, as part of the shared API
            return {}
        members = getattr(getattr(self.module, "ComputeCapability", None), "__members__", {})
        found = {name: int(name[2:]) for name in members if re.fullmatch(r"SM\d+", name)}
        return dict(sorted(found.items(), key=lambda item: item[1]))


def find_library(name: str | None = None) -> Library:
    """The library of that name, or the first of :data:`LIBRARIES` that can build here (``tensorrt`` needs a GPU).

    Raises:
        UserError: when none can be used, with the reason of each.
    """
    if name is not None and name not in LIBRARIES:
        raise UserError(f"--library is {' or '.join(LIBRARIES)}, not {name!r}.")
    missing: list[str] = []
    unusable: list[str] = []
    for candidate in LIBRARIES if name is None else (name,):
        try:
            module = importlib.import_module(candidate)
        except ImportError:
            missing.append(f"{candidate} is not installed")
            continue
        except OSError as error:  # the package is there, its shared libraries are not
            unusable.append(f"{candidate} cannot be loaded ({error})")
            continue
        library = Library(module, candidate, str(module.__version__), "; ".join(unusable))
        with library.listening() as errors:
            try:
                module.Builder(library.log)
            except (TypeError, RuntimeError) as error:  # pybind raises when the library's factory gives nothing
                unusable.append(f"{candidate} cannot build here ({next(iter(errors), str(error))})")
                continue
        return library
    raise UserError(
        f"no TensorRT engine can be built: {'; '.join([*unusable, *missing])}; install detheads[tensorrt-rtx], which "
        "needs no GPU for that, or detheads[tensorrt] on a GPU machine."
    )


def load_library(name: str) -> Library:
    """The library that executes engines of its own; whether a GPU is there is another question.

    Raises:
        UserError: when it is not installed or does not start.
    """
    try:
        module = importlib.import_module(name)
    except ImportError:
        extra = name.replace("_", "-")
        raise UserError(f"{name} is not installed; install it with: pip install 'detheads[{extra}]'.") from None
    except OSError as error:
        raise UserError(f"{name} cannot be loaded ({error}); install it anew.") from None
    return Library(module, name, str(module.__version__))


def default_capabilities(library: Library) -> list[str]:
    """Ampere and every newer GPU architecture the library can compile for, like ``["SM80", "SM86"]``.

    Empty for a library that compiles for the GPU it runs on.
    """
    return [name for name, number in library.capabilities.items() if number >= AMPERE]


def said(errors: list[str]) -> str:
    """The library's words of an error, each once, cut where they are long."""
    text = "; ".join(dict.fromkeys(errors)).rstrip(".") or "it gave no reason"
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


@cache
def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[name-defined,misc]  # the base class is known at run time only
        """Keeps errors instead of printing, so that they can be part of one sentence."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.listeners: list[list[str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                for heard in self.listeners:
                    heard.append(" ".join(message.split()))

        @contextmanager
        def listening(self) -> Iterator[list[str]]:
            heard: list[str] = []
            self.listeners.append(heard)
            try:
                yield heard
            finally:
                self.listeners = [each for each in self.listeners if each is not heard]

    return Log()
