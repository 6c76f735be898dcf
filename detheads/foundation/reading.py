"""Files from elsewhere, read with bounds: regular files only, and no more bytes, depth or digits than make sense.

A file may be a pipe that nobody writes to, a loop of links, a bomb of aliases or a number of a million digits, by
accident or on purpose. All these end in one sentence, at once, and before memory is spent on them.
"""

import codecs
import errno
import json
import os
import re
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from detheads.foundation.errors import MissingFileError, UserError

if TYPE_CHECKING:
    import yaml

LARGEST_JSON = 1 << 30
"""Bytes of an annotation file; COCO's largest has half of that."""
LARGEST_MANIFEST = 1 << 26
"""Bytes of a JSON file that a program wrote about other files."""
LARGEST_YAML = 1 << 20
"""Bytes; PyYAML reads this much in about five seconds."""
DEEPEST = 64
"""Levels of lists and mappings within each other. Annotations have five, manifests seven."""
MOST_NODES = 1_000_000
"""Values of a YAML document when its aliases are spelled out."""
TOO_DEEP = f"holds lists or mappings more than {DEEPEST} deep; check that it is the right file"

_LFS = b"version https://git-lfs.github.com/spec/"
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file (or a link to one) to read its bytes; what is none is refused without waiting for it.

    Raises:
        MissingFileError: there is none.
        UserError: it is a folder, pipe, socket or device, or cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    try:
        _require_regular(path, os.stat(path))  # first, because opening a device may do something  # noqa: PTH116
        descriptor = os.open(path, flags)
        try:
            _require_regular(path, os.fstat(descriptor))
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: OSError | ValueError) -> UserError:
    """The sentence for a path that the system does not open (``ValueError``: it holds a null byte)."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError(f"{path} does not exist.")
    if isinstance(error, ValueError):
        return UserError(f"the path {str(path)!r} holds a character that no path may hold; correct it.")
    if error.errno == errno.ELOOP:
        return UserError(f"{path} is a link that leads to itself; replace it with the file.")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"the path {str(path)[:80]!r}... is too long for this file system; shorten it.")
    return UserError(f"{path} cannot be read ({error.strerror or error}); make it readable or give another file.")


def read_bytes(path: str | Path, limit: int = LARGEST_JSON) -> bytes:
    """All bytes of a regular file.

    Raises:
        UserError: as :func:`open_regular`, and when there are more than ``limit``.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            data = b"" if size > limit else stream.read(limit + 1)
        except OSError as error:
            raise unreadable(path, error) from None
    if max(size, len(data)) > limit:
        raise UserError(
            f"{path} has more than the {limit >> 20} MiB that are read of such a file; check that it is the right one."
        )
    return data


def read_text(path: str | Path, limit: int = LARGEST_JSON) -> str:
    """A text file in UTF-8 with or without a byte order mark, or in UTF-16 with one.

    Raises:
        UserError: as :func:`read_bytes`, and when it is no such text.
    """
    return _decoded(read_bytes(path, limit), path)


def read_json(path: str | Path, limit: int = LARGEST_JSON) -> Any:
    """Read a JSON file. Whole numbers have at most 64 bits, and nothing lies deeper than ``DEEPEST``.

    Raises:
        UserError: as :func:`read_text`, and when it is not JSON or exceeds these bounds.
    """
    return parse_json(read_bytes(path, limit), path)


def parse_json(data: bytes, source: str | Path) -> Any:
    """JSON bytes with the bounds of :func:`read_json`; ``source`` is their name in messages."""
    text = _decoded(data, source)
    try:
        # Every digit string of a file has to be looked at only when one could be too long.
        value = json.loads(text, parse_int=_bounded) if re.search(rb"\d{19}", data) else json.loads(text)
    except RecursionError:
        raise _too_deep(source) from None
    except ValueError as error:
        reason = likely(data) or f"is not readable JSON ({error})"
        raise UserError(f"{source} {reason}; repair it or fetch it again.") from None
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return value
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    raise _too_deep(source)


def read_yaml(path: str | Path, limit: int = LARGEST_YAML) -> Any:
    """Read a YAML file in which every scalar is a string: a class called ``no`` stays ``no``.

    Raises:
        UserError: as :func:`read_text`, and when it is not YAML, too deep, or grows too large by its aliases.
    """
    return parse_yaml(read_bytes(path, limit), path)


def parse_yaml(data: bytes, source: str | Path) -> Any:
    """YAML bytes with the bounds of :func:`read_yaml`; ``source`` is their name in messages."""
    import yaml

    text = _decoded(data, source)
    try:
        return yaml.load(text, Loader=_bounded_loader())
    except _UnboundedError as error:
        raise UserError(f"{source} {error}.") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = likely(data) or f"is not readable YAML ({' '.join(str(error).split())})"
        tab = re.search(r"^ *\t", text, re.MULTILINE)
        line = text.count("\n", 0, tab.start()) + 1 if tab else 0
        raise UserError(f"{source} {reason}; {f'indent line {line} without tabs' if tab else 'repair it'}.") from None


class _UnboundedError(Exception):
    """How a YAML document exceeds the bounds."""


@cache
def _bounded_loader() -> "type[yaml.BaseLoader]":
    """PyYAML's loader of strings, which stops at a document too deep, or too large with its aliases spelled out."""
    import yaml

    class BoundedLoader(yaml.BaseLoader):
        def __init__(self, stream: str) -> None:
            super().__init__(stream)
            self.above = 0
            self.extents: dict[yaml.Node, tuple[int, int]] = {}  # values in a node and levels of it, aliases followed

        def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
            alias = self.check_event(yaml.AliasEvent)
            self.above += 1
            if self.above > DEEPEST:
                raise _UnboundedError(TOO_DEEP)
            node = super().compose_node(parent, index)
            self.above -= 1
            if node is None or (alias and node not in self.extents):
                raise _UnboundedError("contains itself through an alias (*); write it without")
            if not alias:
                parts = [] if isinstance(node.value, str) else node.value
                below = [self.extents[child] for part in parts for child in (part if type(part) is tuple else (part,))]
                self.extents[node] = 1 + sum(size for size, _ in below), 1 + max((deep for _, deep in below), default=0)
            size, levels = self.extents[node]
            if levels > DEEPEST:
                raise _UnboundedError(TOO_DEEP)
            if size > MOST_NODES:
                raise _UnboundedError(
                    f"holds more than {MOST_NODES:,} values through its aliases (*); write it without"
                )
            return node

    return BoundedLoader


def _require_regular(path: str | Path, found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    kind = kinds.get(stat.S_IFMT(found.st_mode), "device")
    raise UserError(f"{path} is a {kind}, not a file; give a regular file.")


def _decoded(data: bytes, source: str | Path) -> str:
    mark, encoding = next((pair for pair in _MARKS.items() if data.startswith(pair[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"byte {data[error.start]:02x} in line {line}"
        raise UserError(f"{source} is not UTF-8 text ({where}); save it in UTF-8 or fetch it again.") from None


def _bounded(digits: str) -> int:
    number = int(digits) if len(digits) <= 20 else 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return number


def _too_deep(source: str | Path) -> UserError:
    return UserError(f"{source} {TOO_DEEP}.")


def likely(data: bytes) -> str | None:
    """What a file that does not parse probably is."""
    if not data.strip():
        return "is empty"
    if data.startswith(_LFS):
        return "is a pointer of Git LFS and not the file itself (git lfs pull fetches that)"
    if data.lstrip()[:64].lower().startswith((b"<!doctype html", b"<html")):
        return "is an HTML page, such as a download's error or login page"
    return None
