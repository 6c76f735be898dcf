"""The commands of the program and their options, as Typer has them."""

from collections.abc import Iterator, Sequence
from typing import Any

from typer.main import get_command

from detheads.cli.main import app

ROOT_COMMAND: Any = get_command(app)


def walk(command: Any = ROOT_COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every group and command with the words that lead to it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, (*path, name))


LEAVES = {path: command for path, command in walk() if not hasattr(command, "commands")}


def find(words: Sequence[str]) -> tuple[tuple[str, ...], Any]:
    """The deepest command that ``words`` lead to; what follows are its arguments."""
    command, path = ROOT_COMMAND, ()
    for word in words:
        below = getattr(command, "commands", {}).get(word)
        if below is None:
            break
        command, path = below, (*path, word)
    return path, command


def options(command: Any) -> set[str]:
    """The names of a command's options, help included."""
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"-h", "--help"}
