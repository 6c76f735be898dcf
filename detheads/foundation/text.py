"""Text from elsewhere (class names, paths, messages of other programs) on its way to a terminal or a file name."""

import hashlib
import re
import unicodedata

LONGEST_NAME = 255
"""Bytes of a file's name that common file systems allow."""

_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, lone surrogates, separators of lines and paragraphs."""
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that change the direction of the text after them, and so what a line seems to say."""
_HIDDEN = frozenset("\u200b\u2060\ufeff")
"""Characters of no width, between which two names look alike. Joiners stay: scripts and emoji are built with them."""

_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
"""What Windows or POSIX allow in no name."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def visible(text: str, *, lines: bool = False) -> str:
    r"""``text`` with each character that acts on the terminal instead of being seen as its escape, such as ``\x1b``.

    Those are control characters, marks of direction, characters of no width, and the lone surrogates that stand for
    bytes of a file name that is not UTF-8 (``\udcff`` is the byte ff).

    Args:
        lines: the text may have several lines; line feeds and tabs are kept.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _acts(char) and not (lines and char in "\n\t") else char for char in text)


def file_name(text: str) -> str:
    """A name that every common file system takes, for a file that is called after ``text``.

    Letters of every script stay. What may not stand in a name becomes ``_``, and a name that is too long is cut before
    its suffix; a changed name ends with eight digits of a digest, so that two texts never meet.
    """
    safe = "".join("_" if _acts(char) else char for char in _FORBIDDEN.sub("_", text)).strip(" .")
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


def cut(text: str, size: int) -> str:
    """The beginning of ``text`` of at most ``size`` bytes in UTF-8, with no character halved."""
    return text.encode("utf-8", "surrogateescape")[:size].decode("utf-8", "ignore")


def _acts(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN or char in _TURNING or char in _HIDDEN


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")
