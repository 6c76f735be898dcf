"""The report as one page that needs neither a network nor other files."""

from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from detheads.arena.examples import SCORE, Example
from detheads.arena.leaderboard import COLUMNS, Entry, facts, verdict
from detheads.arena.records import Row, Setting

TEMPLATE_NAME = "page.html.jinja"


def render_page(
    setting: Setting,
    rows: Sequence[Row],
    entries: Sequence[Entry],
    plots: dict[str, Path],
    examples: Sequence[Example],
    no_examples: str,
) -> str:
    """The page as HTML.

    Args:
        rows, entries: of the same heads in the same order.
        plots: PNG files by title.
        no_examples: shown in place of the example pictures where there are none; may be empty.
    """
    from jinja2 import Environment, StrictUndefined

    template = files("detheads.arena").joinpath(TEMPLATE_NAME).read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        setting=setting,
        facts=facts(setting),
        verdict=verdict(entries),
        columns=COLUMNS,
        heads=list(zip(rows, entries, strict=True)),
        plots={title: _data_uri("image/png", path.read_bytes()) for title, path in plots.items()},
        examples=[
            (example, [(panel.caption, _data_uri("image/jpeg", panel.jpeg)) for panel in example.panels])
            for example in examples
        ],
        no_examples=no_examples,
        score=SCORE,
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
