"""Whether an engine fits this machine, known before it is loaded: from its manifest entry and its first bytes."""

import re
from pathlib import Path
from typing import Final

from detheads.deploy.engines.library import AHEAD_OF_TIME, AMPERE, Library
from detheads.deploy.engines.machine import Gpu, platform_name
from detheads.foundation.manifest import BundleManifest, EngineEntry
from detheads.foundation.reading import open_regular

TAGS: Final = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
"""First bytes of a serialised engine: the ones that trtexec looks for, and those of TensorRT-RTX 1.7."""
VERSION_AT: Final = 24
"""Place of the four bytes of the version in both, as trtexec reads it where the second word is 0."""


def header(path: Path) -> tuple[str, str] | None:
    """Library and version that an engine file says it was built with; None where its first bytes are not known.

    The version is of the serialised form, ``1.7.1.116``.
    """
    with open_regular(path) as stream:
        first = stream.read(VERSION_AT + 4)
    library = TAGS.get(first[:4])
    if library is None or len(first) < VERSION_AT + 4 or first[4:8] != bytes(4):
        return None
    return library, ".".join(str(byte) for byte in first[VERSION_AT:])


def stale(entry: EngineEntry, manifest: BundleManifest) -> str:
    """Why an engine is not of the bundle's graph: part of a sentence, empty where it is, as far as it is recorded."""
    if entry.onnx_sha256 in (None, manifest.onnx.sha256):
        return ""
    return f"it was built from another {manifest.onnx.file}"


def misfit(entry: EngineEntry, library: Library, gpu: Gpu | None, path: Path | None = None) -> str:
    """Why an engine cannot run here: part of a sentence, empty where nothing speaks against it.

    Args:
        gpu: that it is to run on; None: not asked.
        path: the engine's file, whose first bytes are read as well.
    """
    builder, _, version = entry.builder.partition(" ")
    if builder != library.name:
        return f"it was built with {builder}, and {library.name} runs engines of its own only"
    if not _same_release(entry, version, library):
        return f"it was built with {entry.builder}, and this is {library.version}"
    if library.name != AHEAD_OF_TIME and entry.platform not in (None, platform_name()):
        return f"it was built on {entry.platform}, and this is {platform_name()}"
    found = header(path) if path is not None else None
    if found and (found[0] != builder or _numbers(found[1])[:3] != _numbers(version)[:3]):
        return f"the manifest says {entry.builder}, and the file itself {' '.join(found)}"
    return _wrong_gpu(entry, gpu) if gpu is not None else ""


def _same_release(entry: EngineEntry, version: str, library: Library) -> bool:
    built, here = _numbers(version), _numbers(library.version)
    if entry.version_compatible:  # forward only, within a major version, as its documentation says
        return built[:1] == here[:1] and built <= here
    return built == here


def _wrong_gpu(entry: EngineEntry, gpu: Gpu) -> str:
    listed = [name for name in entry.compute_capabilities if re.fullmatch(r"SM\d+", name)]
    if not listed or gpu.capability in listed:
        return ""
    if entry.hardware_compatible and int(gpu.capability[2:]) >= AMPERE:
        return ""
    return f"it was built for {', '.join(listed)}, and this is {gpu}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))
