"""Names in any script as pieces of text that a font has glyphs for. Torch-free: the deployment runtime uses it too.

The package brings DejaVu Sans (Latin, Greek, Cyrillic, Arabic, Hebrew, ...) and GNU Unifont (every script of Unicode's
basic plane, emoji in one colour), whose Indic letters are not joined. Where Pillow has Raqm, it joins letters and
places marks; without it, letters stand unjoined, those of Arabic and Hebrew from right to left.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, features

from detheads.foundation.errors import UserError
from detheads.foundation.reading import open_regular
from detheads.foundation.text import visible

_OWN = tuple(Path(__file__).parent / "fonts" / f"{name}.woff" for name in ("DejaVuSans", "Unifont", "UnifontUpper"))
PLACEHOLDER = "\N{REPLACEMENT CHARACTER}"
"""Drawn for a character that no font has."""

_NO_CHARACTER = "\U0010ffff"
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_SKIN = range(0x1F3FB, 0x1F400)
"""Colours of the emoji before them."""


class Face:
    """A font in every size.

    Raises:
        UserError: when the file is no font that Pillow can scale.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        open_regular(path).close()
        try:
            self.at(16)
        except OSError as error:
            raise UserError(
                f"{path} is not a font that can be drawn with ({error}); give a TTF, OTF or WOFF file."
            ) from None

    @lru_cache(maxsize=64)  # noqa: B019 - faces are few and live as long as the process
    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font with an em of ``size`` pixels."""
        return ImageFont.truetype(str(self._path), size)

    @cache  # noqa: B019
    def has(self, char: str) -> bool:
        """Whether the font has a glyph for a character: one that looks unlike that of no character."""
        return char.isspace() or self._pixels(char) != self._pixels(_NO_CHARACTER)

    @cache  # noqa: B019
    def _pixels(self, char: str) -> bytes:
        canvas = Image.new("1", (48, 48))
        font = ImageFont.truetype(str(self._path), 16, layout_engine=ImageFont.Layout.BASIC)
        ImageDraw.Draw(canvas).text((8, 8), char, fill=1, font=font)
        return canvas.tobytes()


@dataclass(frozen=True)
class Piece:
    """Text in one font and one direction, ``x`` pixels right of the line's beginning."""

    text: str
    font: ImageFont.FreeTypeFont
    direction: str | None
    x: float

    def draw(self, draw: ImageDraw.ImageDraw, at: tuple[float, float], fill: Any) -> None:
        """Draw it, the beginning of the line's base at ``at``."""
        draw.text((at[0] + self.x, at[1]), self.text, fill, self.font, anchor="ls", direction=self.direction)


@dataclass(frozen=True)
class Line:
    """A line of text. ``box``: its ink, xyxy in pixels from the beginning of its base."""

    pieces: tuple[Piece, ...]
    box: tuple[float, float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the ink in pixels, rounded up."""
        x1, y1, x2, y2 = self.box
        return int(-(-(x2 - x1) // 1)), int(-(-(y2 - y1) // 1))


class Lettering:
    """Text in the first font that has its characters: the caller's, then the package's own.

    Args:
        font: a font file (TTF, OTF or WOFF) that is preferred.

    Raises:
        UserError: when ``font`` is missing or no font.
    """

    def __init__(self, font: str | Path | None = None) -> None:
        self._own_file = None if font is None else Path(font)

    @cached_property
    def _faces(self) -> tuple[Face, ...]:
        return (*(() if self._own_file is None else (Face(self._own_file),)), *_own_faces())

    def missing(self, names: Iterable[str]) -> str:
        """A sentence about the characters of ``names`` that no font has, empty when there are none."""
        seen = {char for name in names for char in _cleaned(name) if not _unseen(char)}
        lacking = sorted(char for char in seen if not any(face.has(char) for face in self._faces))
        if not lacking:
            return ""
        shown = " ".join(f"U+{ord(char):04X}" for char in lacking[:5])
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        return f"no font here has the characters {shown}{more} of the names; drawn as {PLACEHOLDER} (see --font)"

    @lru_cache(maxsize=4096)  # noqa: B019 - one or two letterings live as long as the process
    def fitted(self, name: str, ending: str, size: int, width: int, least: int = 8) -> Line | None:
        """``name`` and ``ending`` in one line, no wider than ``width`` pixels; None when there is no room for a letter.

        A line that is too wide is made smaller, down to ``least`` pixels, and then cut at the end of the name.

        Args:
            size: em of the font in pixels.
        """
        line = self.line(name, ending, size)
        if line.size[0] <= width:
            return line
        size = max(least, min(size, size * width // line.size[0]))
        clusters = _clusters(_cleaned(name))
        kept, too_many = 0, len(clusters) + 1
        best = None
        while too_many - kept > 1 or best is None:
            count = (kept + too_many) // 2
            shortened = "".join(clusters[:count]) + ("" if count == len(clusters) else "…")
            line = self.line(shortened, ending if count else "", size)
            if line.size[0] <= width:
                kept, best = count, line
            elif count == 0:
                return None
            else:
                too_many = count
        return best

    def line(self, name: str, ending: str, size: int) -> Line:
        """``name``, in its own direction, with ``ending`` to its right."""
        pieces: list[Piece] = []
        x = 0.0
        for text, face, rightwards in (*self._runs(name), *self._runs(ending)):
            font = face.at(size)
            direction = None
            if _raqm():
                direction = "ltr" if rightwards else "rtl"
            elif not rightwards:
                text = "".join(reversed(_clusters(text))).translate(_MIRRORED)
            pieces.append(Piece(text, font, direction, x))
            x += font.getlength(text, direction=direction)
        boxes = [piece.font.getbbox(piece.text, direction=piece.direction, anchor="ls") for piece in pieces]
        inks = [
            (piece.x + left, top, piece.x + right, bottom)
            for piece, (left, top, right, bottom) in zip(pieces, boxes, strict=True)
        ] or [(0.0, 0.0, 0.0, 0.0)]
        lefts, tops, rights, bottoms = zip(*inks, strict=True)
        return Line(tuple(pieces), (min(0.0, *lefts), min(tops), max(x, *rights), max(bottoms)))

    def _runs(self, text: str) -> list[tuple[str, Face, bool]]:
        """Pieces of one font and one direction, from left to right: text, font, whether it runs to the right."""
        clusters = []
        faces: list[Face] = []
        for cluster in _clusters(_cleaned(text)):
            shown, face = self._shown(cluster)
            # A space or full stop between letters of one font is of that font too.
            common = faces and not cluster[0].isalnum() and all(faces[-1].has(char) for char in shown)
            clusters.append(shown)
            faces.append(faces[-1] if common else face)
        levels = _levels([cluster[0] for cluster in clusters])
        runs = [
            ("".join(clusters[index] for index in group), faces[first], levels[first])
            for first, group in _grouped(list(zip(map(id, faces), levels, strict=True)))
        ]
        return [(part, face, level % 2 == 0) for part, face, level in _in_visual_order(runs)]

    def _shown(self, cluster: str) -> tuple[str, Face]:
        """A letter with its marks as it is drawn, and the font for it."""
        seen = [char for char in cluster if not _unseen(char)]
        kept = cluster if _raqm() else "".join(seen)
        for face in self._faces:
            if all(face.has(char) for char in seen):
                return kept, face
        for face in self._faces:
            if seen and face.has(seen[0]):
                return "".join(char for char in seen if face.has(char)), face
        return PLACEHOLDER, next(face for face in self._faces if face.has(PLACEHOLDER))


@cache
def _own_faces() -> tuple[Face, ...]:
    return tuple(map(Face, _OWN))


@cache
def _raqm() -> bool:
    return bool(features.check("raqm"))


def _cleaned(text: str) -> str:
    """``text`` on one line, with letters and marks composed and characters that only act made visible."""
    return unicodedata.normalize("NFC", visible(text))


def _unseen(char: str) -> bool:
    """Whether a character is for the layout only: joiners, and selectors of a glyph's style."""
    return unicodedata.category(char) == "Cf" or "\ufe00" <= char <= "\ufe0f" or ord(char) in range(0xE0100, 0xE01F0)


def _clusters(text: str) -> list[str]:
    """Letters with the marks that belong to them."""
    found: list[str] = []
    for char in text:
        joined = unicodedata.category(char).startswith("M") or _unseen(char) or ord(char) in _SKIN
        if found and joined and not found[-1].isspace():
            found[-1] += char
        else:
            found.append(char)
    return found


def _levels(chars: Sequence[str]) -> list[int]:
    """Levels of the Unicode bidirectional algorithm, without its explicit marks: even ones run to the right."""
    simpler = {"AL": "R", "EN": "N", "AN": "N", "ET": "N"}
    kinds = [simpler.get(kind, kind) for kind in map(unicodedata.bidirectional, chars)]
    base = next((kind for kind in kinds if kind in {"L", "R"}), "L")
    strong = base
    for index, kind in enumerate(kinds):
        if kind in {"L", "R"}:
            strong = kind
        elif kind == "N":  # a number behind letters that run to the left is among them
            kinds[index] = "L" if strong == "L" else "N"
        else:
            kinds[index] = ""
    sides = ["R" if kind == "N" else kind for kind in kinds]
    for index, kind in enumerate(sides):
        if not kind:
            before = next((side for side in reversed(sides[:index]) if side), base)
            after = next((side for side in sides[index + 1 :] if side), base)
            sides[index] = before if before == after else base
    if base == "L":
        return [2 if kind == "N" else int(side == "R") for kind, side in zip(kinds, sides, strict=True)]
    return [1 if side == "R" and kind != "N" else 2 for kind, side in zip(kinds, sides, strict=True)]


def _grouped(keys: Sequence[Any]) -> Iterable[tuple[int, list[int]]]:
    """Positions of equal neighbours in ``keys``, with the first of them."""
    for _, group in groupby(range(len(keys)), key=keys.__getitem__):
        positions = list(group)
        yield positions[0], positions


def _in_visual_order(runs: list[tuple[str, Face, int]]) -> list[tuple[str, Face, int]]:
    """Runs of a line from left to right: from the highest level down to 1, neighbours of it or above are reversed."""
    for least in range(max((level for _, _, level in runs), default=0), 0, -1):
        ordered: list[tuple[str, Face, int]] = []
        for first, positions in _grouped([level >= least for _, _, level in runs]):
            group = [runs[position] for position in positions]
            ordered += reversed(group) if runs[first][2] >= least else group
        runs = ordered
    return runs
