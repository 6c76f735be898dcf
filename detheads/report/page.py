"""Reports as one page that needs neither a network nor other files."""

from base64 import b64encode
from importlib.resources import files
from typing import Any

from detheads.foundation.text import visible
from detheads.report.sections import Document

SHELL, SECTIONS = "shell.html.jinja", "sections.html.jinja"


def render_page(document: Document) -> str:
    """A document as HTML."""
    return render_template("detheads.report", SECTIONS, document=document)


def render_template(package: str, name: str, **values: Any) -> str:
    """A template of a package as HTML; it extends the shell, and ``data_uri`` embeds a file's bytes.

    Every text is escaped, and what in it acts instead of being seen (marks of direction, control characters) is shown
    as its escape; a name that the template does not know is an error.
    """
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    def read(room: str, template: str) -> str:
        return files(room).joinpath(template).read_text("utf-8")

    def shown(value: Any) -> Any:
        return visible(value, lines=True) if isinstance(value, str) and not isinstance(value, Markup) else value

    shared = {template: read("detheads.report", template) for template in (SHELL, "parts.html.jinja")}
    environment = Environment(
        loader=DictLoader(shared),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["data_uri"] = data_uri
    return environment.from_string(read(package, name)).render(**values)


def data_uri(kind: str, data: bytes) -> str:
    """A file's bytes as an address: ``data_uri("image/png", ...)``."""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
