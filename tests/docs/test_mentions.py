"""Commands and options of which the documentation speaks exist, and it speaks of all commands."""

import re
import sys
from collections.abc import Iterator

import pytest

from tests.docs.command_tree import LEAVES, ROOT_COMMAND, find, options, walk
from tests.docs.pages import COMMANDS, PAGES, ROOT, Page

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

EVERY_OPTION = {name for _, command in walk() for name in options(command)}


def _spoken(page: Page) -> Iterator[list[str]]:
    """The words after ``detheads`` of every command line and mention of a page."""
    for block in page.blocks:
        if block.language in COMMANDS:
            for words in block.commands():
                if words[:3] == ["python", "-m", "detheads"]:
                    yield words[3:]
                elif words[0] == "detheads":
                    yield words[1:]
    for mention in page.mentions:
        words = mention.split()
        if words[0] == "detheads" and len(words) > 1:
            yield words[1:]
        elif words[0] in ROOT_COMMAND.commands:
            group = getattr(ROOT_COMMAND.commands[words[0]], "commands", {})
            if "/" in words[2:3]:  # `data info / validate`
                yield from ([words[0], name] for name in words[1:] if name != "/")
            elif not group or (len(words) > 1 and words[1] in group):
                yield words


@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_option_on_a_page_exists(name: str) -> None:
    for words in _spoken(PAGES[name]):
        path, command = find(words)
        line, rest = " ".join(words), words[len(path) :]
        assert path in LEAVES or not rest or rest[0].startswith("-"), f"there is no command {line}"
        for word in rest:
            if re.match(r"--?[a-zA-Z]", word):
                assert word.partition("=")[0] in options(command), f"{line}: no option {word}"


@pytest.mark.parametrize("name", PAGES)
def test_every_option_mentioned_alone_exists(name: str) -> None:
    for mention in PAGES[name].mentions:
        if re.match(r"--?[a-zA-Z]", mention):
            assert mention.split()[0].partition("=")[0] in EVERY_OPTION, mention


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_is_shown_in_the_documentation(path: tuple[str, ...]) -> None:
    shown = {find(words)[0] for page in PAGES.values() if page.name.startswith("docs/") for words in _spoken(page)}
    assert path in shown


def test_make_targets_and_extras_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE))
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
    said = " ".join(page.text for page in PAGES.values())
    assert set(re.findall(r"(?:\$ |`)make ([\w-]+)", said)) <= targets
    assert {"demo", "test"} <= targets
    assert {extra for names in re.findall(r"detheads\[([\w,]+)\]", said) for extra in names.split(",")} <= extras
