"""The report of an arena: leaderboard, plots, example pictures, and one page with all of it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from detheads.arena.claims import claims_of
from detheads.arena.examples import examples_of
from detheads.arena.findings import claims_section, errors_section
from detheads.arena.leaderboard import csv_text, leaderboard, markdown
from detheads.arena.page import render_page
from detheads.arena.plots import curves_figure, pareto_figure
from detheads.arena.records import read_rows, read_setting
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.report.figures import png
from detheads.report.files import PICTURES_NAME, write_strips
from detheads.report.markdown import strip_names
from detheads.report.pictures import Example


@dataclass(frozen=True)
class ReportFiles:
    """The files of a report. ``pictures`` is a folder with a strip a picture, None when none were drawn."""

    page: Path
    markdown: Path
    json: Path
    csv: Path
    pareto: Path
    curves: Path
    pictures: Path | None


def write_report(arena: Path, *, data: Path | None = None, pictures: int = 4, heads_drawn: int = 6) -> ReportFiles:
    """Compare the heads of an arena, finished or still running, in files inside its folder.

    Args:
        arena: folder of the arena.
        data: dataset folder of the validation images; without it there are no example pictures.
        pictures: number of example pictures at most.
        heads_drawn: heads on each of them at most, the best.

    Raises:
        UserError: when no head has a row yet, or the example pictures cannot be drawn.
    """
    setting, rows = read_setting(arena), read_rows(arena)
    if not rows:
        raise UserError(f"{arena} has no finished head yet; report when 'detheads arena run' has finished one.")
    entries = leaderboard(rows)
    examples: list[Example] = []
    no_examples = ""
    if pictures > 0 and data is None:
        no_examples = (
            "The example pictures were left out, because an arena keeps no image files. "
            "For pictures name the dataset folder: detheads arena report ARENA --data FOLDER."
        )
    elif pictures > 0 and data is not None:
        examples = examples_of(arena, setting, entries, data, pictures, heads_drawn)
    files = ReportFiles(
        page=arena / "index.html",
        markdown=arena / "leaderboard.md",
        json=arena / "leaderboard.json",
        csv=arena / "leaderboard.csv",
        pareto=arena / "pareto.png",
        curves=arena / "curves.png",
        pictures=arena / PICTURES_NAME if examples else None,
    )
    claims = claims_of({setting.dataset: rows})
    sections = [*([claims_section(claims)] if claims else []), *errors_section(rows)]
    table = markdown(setting, entries, sections)
    atomic.write_text(files.markdown, f"{table}\n{no_examples}\n" if no_examples else table)
    answer = {
        "setting": setting.model_dump(),
        "heads": [asdict(entry) for entry in entries],
        "claims": [claim.to_dict() for claim in claims],
    }
    atomic.write_json(files.json, answer)
    atomic.write_text(files.csv, csv_text(entries))
    pareto, curves = png(pareto_figure(entries)), png(curves_figure(arena, entries))
    atomic.write_bytes(files.pareto, pareto)
    atomic.write_bytes(files.curves, curves)
    write_strips(arena, dict(zip(strip_names(examples), examples, strict=True)))
    plots = {"AP against parameters": pareto, "Training": curves}
    atomic.write_text(files.page, render_page(setting, rows, entries, sections, plots, examples, no_examples))
    return files
