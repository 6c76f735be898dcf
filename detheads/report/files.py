"""A report's files: plots and pictures first, then what links them, each whole or absent."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.report.markdown import render_markdown, strip_names
from detheads.report.page import render_page
from detheads.report.pictures import Example
from detheads.report.sections import Document

PAGE_NAME, MARKDOWN_NAME, JSON_NAME = "index.html", "report.md", "report.json"
PICTURES_NAME = "pictures"
STRIP = re.compile(r"(strip|false|missed|finds)-\d{2,}-\d+\.jpg")


@dataclass(frozen=True)
class ReportFiles:
    """Where a report stands."""

    page: Path
    markdown: Path
    json: Path


def require_folder(folder: Path) -> None:
    """Refuse, before the work, a target that cannot become a report's folder.

    Raises:
        UserError: when it is a file, or lies below one.
    """
    blocking = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if blocking is not None:
        raise UserError(f"{blocking} is a file; choose another folder for the report.")


def write_document(document: Document, folder: Path, plots_left: Sequence[str] = ()) -> ReportFiles:
    """Write a document into ``folder``: page, Markdown, JSON, plots and pictures. Other files stay.

    Args:
        plots_left: names of plots that an earlier report may have had and this one has not; they go.

    Raises:
        UserError: when ``folder`` is a file.
    """
    require_folder(folder)
    for plot in (plot for section in document.sections for plot in section.plots):
        atomic.write_bytes(folder / plot.name, plot.data)
    write_strips(
        folder,
        {
            name: example
            for section in document.sections
            for name, example in zip(strip_names(section.examples, section.strips), section.examples, strict=True)
        },
    )
    files = ReportFiles(folder / PAGE_NAME, folder / MARKDOWN_NAME, folder / JSON_NAME)
    write_texts(folder, document.answer, render_markdown(document))
    atomic.write_text(files.page, render_page(document))
    for name in plots_left:
        (folder / name).unlink(missing_ok=True)
    return files


def write_texts(folder: Path, answer: Mapping[str, Any], markdown: str) -> Path:
    """Write ``report.json`` and ``report.md`` into ``folder``; returns the Markdown file's path."""
    atomic.write_json(folder / JSON_NAME, answer)
    atomic.write_text(folder / MARKDOWN_NAME, markdown)
    return folder / MARKDOWN_NAME


def write_strips(folder: Path, examples: Mapping[str, Example]) -> None:
    """Write a strip of each example, by its name below ``folder``, and remove those of an earlier report."""
    written = [folder / name for name in examples]
    for example, path in zip(examples.values(), written, strict=True):
        with atomic.replacing(path) as partial:
            example.strip().save(partial, quality=90)
    pictures = folder / PICTURES_NAME
    if pictures.is_dir():
        for path in set(pictures.iterdir()) - set(written):
            if STRIP.fullmatch(path.name):
                path.unlink()
