"""The report as one page that needs neither a network nor other files."""

from collections.abc import Mapping, Sequence

from detheads.arena.examples import SCORE
from detheads.arena.leaderboard import COLUMNS, Entry, facts, verdict
from detheads.arena.records import Row, Setting
from detheads.report.page import render_template
from detheads.report.pictures import Example
from detheads.report.sections import Section

TEMPLATE_NAME = "page.html.jinja"


def render_page(
    setting: Setting,
    rows: Sequence[Row],
    entries: Sequence[Entry],
    sections: Sequence[Section],
    plots: Mapping[str, bytes],
    examples: Sequence[Example],
    no_examples: str,
) -> str:
    """The page as HTML.

    Args:
        rows, entries: of the same heads in the same order.
        sections: shown behind the leaderboard.
        plots: PNG pictures by title.
        no_examples: shown in place of the example pictures where there are none; may be empty.
    """
    return render_template(
        "detheads.arena",
        TEMPLATE_NAME,
        setting=setting,
        facts_in_common=facts(setting),
        verdict=verdict(entries),
        columns=COLUMNS,
        heads=list(zip(rows, entries, strict=True)),
        sections=sections,
        plots=plots,
        examples=examples,
        no_examples=no_examples,
        score=SCORE,
    )
