"""Reports as Markdown."""

from collections.abc import Iterator, Sequence

from detheads.foundation.text import visible
from detheads.report.pictures import Example
from detheads.report.sections import Column, Document, Section, Table


def plain(text: str) -> str:
    """Text on one line that neither ends a table's cell nor is taken for HTML, emphasis, code, a link or a picture.

    What acts in it instead of being seen, such as marks of direction, is shown as its escape.
    """
    text = visible(" ".join(text.split()))
    for sign in "\\`*[]|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("<", "&lt;")


def table_lines(table: Table) -> list[str]:
    """A table as Markdown: columns of numbers to the right, what they mean below."""
    lines = [_row([plain(column.title) for column in table.columns])]
    rules = ["---" if table.is_text(place) else "---:" for place in range(len(table.columns))]
    lines.append(f"|{'|'.join(rules)}|")
    for row in table.rows:
        lines.append(_row([plain(column.cell(value)) for column, value in zip(table.columns, row, strict=True)]))
    return lines + notes(table.columns)


def notes(columns: Sequence[Column]) -> list[str]:
    """What the columns mean, as a list after an empty line; nothing where none has a note."""
    lines = [f"- {plain(column.title)}: {plain(column.note)}" for column in columns if column.note]
    return ["", *lines] if lines else []


def render_markdown(document: Document) -> str:
    """A document for a reader; its plots and pictures lie beside it."""
    lines = [f"# {plain(document.title)}", "", plain(document.verdict), ""]
    lines += [f"- {title}: {plain(text)}" for title, text in document.facts.items()]
    for section in document.sections:
        lines += ["", *section_lines(section)]
    return "\n".join(lines) + "\n"


def strip_names(examples: Sequence[Example], beginning: str = "strip") -> list[str]:
    """The file of each example, below the report's folder."""
    return [f"pictures/{beginning}-{place:02d}-{each.image_id}.jpg" for place, each in enumerate(examples, start=1)]


def section_lines(section: Section) -> list[str]:
    """A section as Markdown; its plots and pictures lie beside it."""
    parts = [[f"## {plain(section.title)}"], *(table_lines(table) for table in section.tables)]
    parts += [[f"![{plain(plot.title)}]({plot.name})"] for plot in section.plots]
    parts += [[plain(sentence)] for sentence in section.sentences]
    parts += [[f"- {plain(remark)}" for remark in section.remarks]] if section.remarks else []
    for example, name in zip(section.examples, strip_names(section.examples, section.strips), strict=True):
        parts.append([f"![{plain(example.file_name)}]({name})"])
    return list(_separated(parts))


def _separated(parts: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of all parts, with an empty one between two of them."""
    for place, part in enumerate(parts):
        yield from ([""] if place else [])
        yield from part


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
