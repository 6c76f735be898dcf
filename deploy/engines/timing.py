"""A file with the timings of earlier builds: of one library version on one GPU, and refused for any other."""

import json
from pathlib import Path
from typing import Any, Final

from detheads.deploy.engines.library import Library
from detheads.foundation.atomic import try_output, write_bytes
from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular

HEAD: Final = b"detheads timing cache "
LONGEST_LINE: Final = 1000
LARGEST: Final = 1 << 30
"""Bytes of a timing cache that is read; those of large networks have some megabytes."""


def attach_timings(library: Library, config: Any, path: Path, gpu: str) -> Any:
    """Give a build the timings in ``path``, or none where the file does not exist yet.

    Returns:
        The cache, which must live as long as the build.

    Raises:
        UserError: when the file is none, is of another library version or GPU, the library refuses it, or it could not
            be written after the build.
    """
    try_output(path)
    content = _read(path, library, gpu) if path.exists() else b""
    with library.listening() as errors:
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, False) or (content and errors):
            raise UserError(f"{library} refuses the timings in {path}; remove the file and build again.")
    return cache


def store_timings(library: Library, config: Any, path: Path, gpu: str) -> None:
    """Write the timings after a build, atomically."""
    head = HEAD + json.dumps({"builder": str(library), "gpu": gpu}).encode() + b"\n"
    write_bytes(path, head + bytes(config.get_timing_cache().serialize()))


def _read(path: Path, library: Library, gpu: str) -> bytes:
    with open_regular(path) as stream:
        line = stream.readline(LONGEST_LINE)
        content: bytes = stream.read(LARGEST)
    try:
        said = json.loads(line.removeprefix(HEAD)) if line.startswith(HEAD) else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise UserError(f"{path} is not a timing cache of detheads; name another file.")
    for key, here in (("builder", str(library)), ("gpu", gpu)):
        if said.get(key) != here:
            raise UserError(f"{path} holds timings of {said.get(key)}, and this is {here}; name another file.")
    return content
