"""Entry point: assembles the command groups and turns user errors into one sentence and an exit code."""

import errno
import io
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from detheads import __version__
from detheads.cli import (
    analytical,
    arena,
    bench,
    bundle,
    cache,
    data,
    demo,
    deploy,
    doctor,
    export,
    heads,
    make,
    recipe,
    text,
    train,
)
from detheads.cli import eval as evaluation
from detheads.cli.output import only_json, print_json
from detheads.foundation.errors import UserError
from detheads.foundation.extras import missing_extra
from detheads.foundation.text import visible

RUNNING = "to run a bundle on pictures, use 'detheads deploy run'"
ELSEWHERE = {"predict": RUNNING, "detect": RUNNING, "infer": RUNNING, "inference": RUNNING, "run": RUNNING}
ELSEWHERE |= {
    "evaluate": "to evaluate a run, use 'detheads eval'",
    "val": "to evaluate a run, use 'detheads eval'",
    "convert": "to convert a dataset, use 'detheads data convert'",
    "validate": "to check a dataset, use 'detheads data validate'",
    "fit": "to train a head, use 'detheads train', and 'detheads analytical fit' for one in closed form",
}
"""What other tools call their commands, and where it is here."""


class _Commands(TyperGroup):
    """The commands, with a hint for those that people know from elsewhere."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in ELSEWHERE and args[0] not in self.commands:
            ctx.fail(f"No such command '{args[0]}'; {ELSEWHERE[args[0]]}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="detheads",
    cls=_Commands,
    help="Detection heads on a frozen vision backbone: cache, train, export, verify, deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(make.make)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.add_typer(heads.app, name="heads")
app.add_typer(text.app, name="text")
app.command()(train.train)
app.add_typer(recipe.app, name="recipe")
app.command("eval")(evaluation.evaluate)
app.add_typer(arena.app, name="arena")
app.add_typer(analytical.app, name="analytical")
app.command("export")(export.export)
app.command("verify")(export.verify)
app.add_typer(bundle.app, name="bundle")
app.add_typer(deploy.app, name="deploy")
app.add_typer(bench.app, name="bench")
app.command()(demo.demo)
app.command()(doctor.doctor)


INTERRUPTED = 130
WRONG_USAGE = 2

# Typer brings its own copy of click, or uses the package, by its version.
ClickException: type[Any] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"detheads {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 success, 1 a user's error, 2 wrong usage, 130 interrupted.

    With ``--json`` standard output takes exactly one JSON value, which is ``{"error": ...}`` when there is no result.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    with only_json() if as_json else nullcontext():
        try:
            code = app(args=words, prog_name="detheads", standalone_mode=False)
        except ClickException as error:
            return _wrong_usage(error, as_json)
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except UserError as error:
            return _fail(str(error), as_json)
        except ModuleNotFoundError as error:
            sentence = missing_extra((error.name or "").partition(".")[0], words[0] if words else "")
            if sentence is None:
                raise
            return _fail(sentence, as_json)
        except OSError as error:
            if error.filename is None and error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EPIPE}:
                raise
            return _fail(f"{_text(error.filename) or 'writing'}: {error.strerror}.", as_json)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        if code == INTERRUPTED:  # typer turns Ctrl+C into this
            return _fail("interrupted", as_json, code=INTERRUPTED, head="")
    return code if isinstance(code, int) else 0


def _fail(message: str, as_json: bool, *, code: int = 1, head: str = "error: ") -> int:
    sys.stderr.write(f"{head}{visible(message)}\n")
    if as_json:
        print_json({"error": message})
    return code


def _wrong_usage(error: Any, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is the message, and is printed
        return _fail("a command is missing", as_json, code=WRONG_USAGE) if as_json else WRONG_USAGE
    if context is not None:
        option = context.help_option_names[0]
        sys.stderr.write(f"{context.get_usage()}\nTry '{context.command_path} {option}' for help.\n")
    return _fail(" ".join(error.format_message().split()), as_json, code=WRONG_USAGE)


def _text(name: str | bytes | int | None) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name or "")


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no character is worth losing a result for
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _end)
    sys.exit(run())


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """End as Ctrl+C does, so that what is unfinished is cleared."""
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)
