"""What a reader of another tool's format hands on: pictures by name, with marked objects."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from detheads.foundation.reading import read_bytes

Box = tuple[float, float, float, float]


class Mark(NamedTuple):
    """One object: its class, its xyxy box, and whether it is to be neither learned nor scored."""

    name: str
    box: Box
    crowd: bool = False


@dataclass
class Marked:
    """One picture as an annotation file describes it.

    Attributes:
        source: the annotation file.
        picture: its name as the file gives it: a path, a base name, or one without its ending.
        alias: another name to look for when there is no such picture; empty for none.
        size: width and height as the file states them; None where it does not.
        marks: the objects; boxes in pixels, or in shares of the picture with ``shares``.
        split: the split that the file names; None where folders tell.
        left_out: what is no box and was left out: kind -> count.
        bad: objects that could not be read, one sentence each.
    """

    source: Path
    picture: str
    size: tuple[int, int] | None = None
    marks: list[Mark] = field(default_factory=list)
    split: str | None = None
    shares: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    alias: str = ""


def bounding(points: Iterable[tuple[float, float]]) -> Box:
    """The box around some points.

    Raises:
        ValueError: when there is no point.
    """
    xs, ys = zip(*points, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))


def corners(box: Any) -> Box:
    """The corners of a globox bounding box."""
    return float(box.xmin), float(box.ymin), float(box.xmax), float(box.ymax)


def whole_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height of text or numbers; None where they are missing, zero or no numbers."""
    try:
        size = int(width), int(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) >= 1 and max(size) < 2**31 else None


def parse_xml(path: Path) -> Any:
    """The root element of an XML file; entities and document types, with which files become bombs, are refused.

    Raises:
        UserError: the file cannot be read.
        ValueError: it is no XML, or has a document type or entities.
    """
    from defusedxml import ElementTree
    from defusedxml.common import DefusedXmlException

    data = read_bytes(path)
    try:
        return ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise ValueError("declares a document type or entities, which annotations do not need") from None
    except (ElementTree.ParseError, LookupError) as error:  # LookupError: an encoding that does not exist
        raise ValueError(f"is not readable XML ({error})") from None
