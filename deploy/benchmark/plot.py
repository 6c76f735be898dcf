"""The parts of an image's time as bars, one a row: an SVG that needs no library and loads nothing."""

from html import escape
from typing import Final

from detheads.deploy.benchmark.report import accuracy
from detheads.deploy.benchmark.result import BenchResult
from detheads.foundation.text import visible

PARTS: Final = {"decode": "#c9c9c9", "letterbox": "#e8a33d", "inference": "#3b6fb6", "post": "#b6423b"}
"""Colours that stay apart in grey print and for people who see red and green alike."""
LABEL: Final = 300
BAR: Final = 440
LETTER: Final = 7.0
"""Widths in pixels: the name of a row, its longest bar, a letter of its figures."""
LINE: Final = 26
TOP: Final = 56
LONGEST: Final = 44
"""Letters of a name."""


def svg(result: BenchResult) -> str:
    """The picture as the text of an SVG file."""
    longest = max(sum(row.parts.values()) for row in result.rows)
    figures = [
        f"p50 {row.latency['p50']:.1f} ms, {row.images_per_second:.1f} images/s, AP {accuracy(result, row)}"
        for row in result.rows
    ]
    height = TOP + LINE * len(result.rows) + 12
    width = round(LABEL + BAR + 16 + LETTER * max(map(len, figures)))
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(LABEL, 18, "milliseconds of one image (median)"),
    ]
    for number, (part, colour) in enumerate(PARTS.items()):
        key = LABEL + 90 * number
        drawn += [f'<rect x="{key}" y="28" width="12" height="12" fill="{colour}"/>', _text(key + 18, 39, part)]
    for number, row in enumerate(result.rows):
        y = TOP + LINE * number
        name = visible(f"{row.contender}, batch {row.batch}")
        drawn.append(_text(LABEL - 8, y + 14, name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", "end"))
        x = float(LABEL)
        for part, colour in PARTS.items():
            wide = BAR * row.parts[part] / longest
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="18" fill="{colour}"/>')
            x += wide
        drawn.append(_text(x + 8, y + 14, figures[number]))
    return "\n".join([*drawn, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(visible(text))}</text>'
