"""Text from elsewhere (class names, paths, messages of other programs) on its way to a terminal or a file name."""

import hashlib
import json
import re
from typing import Any

LONGEST_NAME = 255
"""Bytes of a file's name that common file systems allow."""

ACTING = re.compile(
    "["
    "\x00-\x1f\x7f-\x9f"  # control characters
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks of direction
    "\u200b\u2060\ufeff"  # characters of no width; joiners are none of these, scripts and emoji are built with them
    "\ud800-\udfff"  # lone surrogates: bytes of a file name that is not UTF-8
    "]"
)
"""Characters that act on a terminal, or hide, instead of being seen."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
"""What Windows or POSIX allow in no name."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def visible(text: str, *, lines: bool = False) -> str:
    r"""``text`` with each character that acts instead of being seen as its escape, such as ``\x1b``.

    ``\udcff`` stands for the byte ff of a file name that is not UTF-8.

    Args:
        lines: the text may have several lines; line feeds and tabs are kept.
    """
    return ACTING.sub(lambda found: found[0] if lines and found[0] in "\n\t" else _escaped(found[0]), text)


def file_name(text: str) -> str:
    """A name that every common file system takes, for a file that is called after ``text``.

    Letters of every script stay. What may not stand in a name becomes ``_``, and a name that is too long is cut before
    its suffix; a changed name ends with eight digits of a digest, so that two texts never meet.
    """
    safe = _FORBIDDEN.sub("_", ACTING.sub("_", text)).strip(" .")
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    if safe and safe == text and len(safe.encode()) <= LONGEST_NAME:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    stem, dot, suffix = safe.rpartition(".")
    if not stem or len(suffix.encode()) > 16:
        stem, dot, suffix = safe, "", ""
    end = f"{'-' if stem else ''}{digest}{dot}{suffix}"
    return cut(stem, LONGEST_NAME - len(end.encode())) + end


def json_text(value: Any, *, indent: int | None = 2) -> str:
    r"""``value`` as JSON for people and programs: scripts stay readable, and what acts is escaped (``\u001b``).

    Raises:
        ValueError: for NaN and infinity, which are not JSON.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    return ACTING.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def cut(text: str, size: int) -> str:
    """The beginning of ``text`` of at most ``size`` bytes in UTF-8, with no character halved."""
    return text.encode("utf-8", "surrogateescape")[:size].decode("utf-8", "ignore")


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
