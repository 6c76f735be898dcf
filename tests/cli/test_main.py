"""The command line as a whole: help is instant, and every ending has its exit code and one line."""

import ast
import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from detheads import __version__
from detheads.cli import main
from detheads.cli.output import JsonFlag, emit
from detheads.foundation import extras
from detheads.foundation.errors import UserError
from detheads.foundation.extras import extras_of
from detheads.foundation.text import visible

ON_SOME_PLATFORMS = {"tensorrt", "tensorrt_rtx", "cuda", "tomli"}
"""Where one is missing, the command says so itself; tomli is for Python 3.10, and belongs to [train] there."""
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "matplotlib", "sklearn", "pycocotools", "tensorrt_rtx")


def _commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    group = group or typer.main.get_command(main.app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, (*path, name))


COMMANDS = list(_commands())


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


def test_every_promised_command_is_there() -> None:
    promised = """data info|data validate|data convert|data augment|data draw|data scenes|cache build|cache info|
    cache verify|cache backbones|heads list|heads show|train|eval|analytical fit|analytical collect|analytical eval|
    analytical sweep|analytical ablate|export|verify|bundle build|deploy run|demo|bench cache|bench train|
    bench analytical|bench engines|doctor"""
    assert {tuple(command.split()) for command in promised.split("|")} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(
    detheads: Callable[..., Any], command: tuple[str, ...], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    finished = detheads(*command, option)
    assert (finished.code, finished.err) == (0, "")
    assert " ".join(("Usage: detheads", *command)) in finished.out
    assert len(finished.out.splitlines()) > 5


def test_help_and_lists_load_nothing_heavy() -> None:
    """One process asks every command for help and lists the backbones; none of it may import a large package."""
    code = """
import contextlib, io, json, sys
from detheads.cli.main import run
with contextlib.redirect_stdout(io.StringIO()):
    codes = [run([*command, "--help"]) for command in json.loads(sys.argv[1])]
    codes += [run(["cache", "backbones"]), run(["cache", "backbones", "--json"]), run(["--version"])]
print(json.dumps([sorted(set(codes)), [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""
    finished = python(code, json.dumps(COMMANDS), json.dumps(HEAVY))
    assert json.loads(finished.stdout) == [[0], []], finished.stderr


def test_help_is_fast() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = python("from detheads.cli.main import main; main()", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert finished.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0  # processor time; about 0.6 s


def test_the_backbones_are_listed_with_licence_and_shape(
    detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listed = {entry["name"]: entry for entry in json.loads(detheads("cache", "backbones", "--json").out)["backbones"]}
    assert listed["eupe_vitb16"]["layers"] == [[768, 48, 48]]
    assert "Noncommercial" in listed["eupe_vitb16"]["licence"]
    assert listed["effnet_lite0"]["layers"] == [[40, 64, 64], [112, 32, 32], [320, 16, 16]]
    printed = detheads("cache", "backbones").out
    assert all(name in printed and entry["licence"] in printed for name, entry in listed.items())


def test_the_version_is_printed(detheads: Callable[..., Any]) -> None:
    assert detheads("--version").out == f"detheads {__version__}\n"


def _group(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """The longest beginning of a command line that is a command."""
    return max((command for command in COMMANDS if arguments[: len(command)] == command), key=len)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("cache", "nonsense"),
        ("cache", "build", "set", "-o", "cache", "--nonsense"),
        ("cache", "build", "set"),
        ("cache", "build", "set", "-o", "cache", "--dtype", "fp8"),
        ("cache", "build", "set", "-o", "cache", "--batch", "0"),
        ("cache", "info"),
        ("cache", "info", "a", "b"),
        ("predict", "a.detheads", "b.jpg"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_wrong_usage_exits_with_2_and_points_at_help(
    detheads: Callable[..., Any], arguments: tuple[str, ...], as_json: bool
) -> None:
    finished = detheads(*arguments, *["--json"] * as_json)
    error = json.loads(finished.out)["error"] if as_json else finished.out
    assert finished.code == 2
    assert bool(error) == as_json
    assert error in finished.err
    assert f"Try '{' '.join(('detheads', *_group(arguments)))} -h'" in finished.err
    assert "Traceback" not in finished.err


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, detheads: Callable[..., Any]) -> Callable[..., Any]:
    """Run a command line whose only command raises the given exception, or calls the given function."""

    def invoke(ending: BaseException | Callable[[], None], *arguments: str) -> Any:
        app = typer.Typer(pretty_exceptions_enable=False)

        @app.command()
        def fail(as_json: JsonFlag = False) -> None:
            if isinstance(ending, BaseException):
                raise ending
            ending()

        monkeypatch.setattr(main, "app", app)
        return detheads(*arguments)

    return invoke


ENDINGS: dict[str, tuple[BaseException, int, str]] = {
    "user error": (UserError("a.json is empty; fill it."), 1, "error: a.json is empty; fill it.\n"),
    "no permission": (
        PermissionError(errno.EACCES, "Permission denied", "/data/a b"),
        1,
        "error: /data/a b: Permission denied.\n",
    ),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), 1, "error: writing: No space left on device.\n"),
    "missing package": (
        ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn"),
        1,
        "error: this command needs torch; install it with: pip install 'detheads[train]'.\n",
    ),
    "what would act": (UserError("a\n\x1b[2J\udcff.json"), 1, "error: a\\n\\x1b[2J\\udcff.json\n"),
    "interrupted": (KeyboardInterrupt(), 130, "interrupted\n"),
    "own exit": (typer.Exit(3), 3, ""),
}


@pytest.mark.parametrize("case", ENDINGS)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_ending_has_its_exit_code_and_at_most_one_line(
    failing: Callable[..., Any], case: str, as_json: bool
) -> None:
    error, code, line = ENDINGS[case]
    finished = failing(error, *["--json"] * as_json)
    assert (finished.code, finished.err) == (code, line)
    if not as_json or not line:
        assert finished.out == ""
    else:
        message = json.loads(finished.out)["error"]
        assert visible(message) == line.removeprefix("error: ").removesuffix("\n")


def test_libraries_that_print_do_not_mix_with_json(failing: Callable[..., Any]) -> None:
    def chat() -> None:
        print("Loading and preparing results...")
        emit({"AP": 0.5}, True, lambda console: None)
        print("DONE")

    finished = failing(chat, "--json")
    assert (json.loads(finished.out), finished.err) == ({"AP": 0.5}, "Loading and preparing results...\nDONE\n")


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a defect"), ModuleNotFoundError("No module named 'own'", name="own"), OSError("without a file")],
)
def test_a_defect_of_the_program_is_not_hidden(failing: Callable[[BaseException], Any], error: Exception) -> None:
    with pytest.raises(type(error)):
        failing(error)


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("torch", ("heads", "list"), "train"),
        ("timm", ("bench", "cache", ".", "--backbone", "effnet_lite0"), "train"),
        ("torch", ("demo", "-o", "out"), "export"),
    ],
)
def test_a_missing_extra_names_itself(module: str, arguments: tuple[str, ...], extra: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from detheads.cli.main import main; main()"
    finished = python(code, *arguments, cwd=tmp_path)
    line = f"error: this command needs {module}; install it with: pip install 'detheads[{extra}]'.\n"
    assert (finished.returncode, finished.stdout, finished.stderr) == (1, "", line)


@pytest.mark.parametrize(
    ("module", "command", "missing", "sentence"),
    [
        ("torch", "train", (), "this command needs torch; install it with: pip install 'detheads[train]'."),
        ("yaml", "deploy", ("timm",), "needs yaml and timm; install them with: pip install 'detheads[train]'."),
        ("torch", "export", ("onnx",), "needs torch and onnx; install them with: pip install 'detheads[export]'."),
        ("open_clip", "train", ("timm", "scipy"), "needs open_clip, scipy and timm; install them with"),
        ("ray", "export", (), "needs ray; install it with: pip install 'detheads[ray]'."),
    ],
)
def test_all_that_a_command_lacks_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, module: str, command: str, missing: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.setattr(extras, "_installed", lambda name: name not in missing)
    assert sentence in str(extras.missing_extra(module, command))
    assert extras.missing_extra("nonsense", command) is None


def test_every_package_beyond_the_runtime_belongs_to_an_extra() -> None:
    runtime = {"detheads", "numpy", "onnxruntime", "PIL", "pydantic", "pydantic_core", "rich", "typer"}
    imported = set()
    for room in ("detheads", "export", "deploy", "analytical"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {name.name.partition(".")[0] for name in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - runtime
    assert "torch" in foreign  # the scan finds something
    assert {module for module in foreign if not extras_of(module)} <= ON_SOME_PLATFORMS


def test_ctrl_c_in_a_running_command_exits_with_130() -> None:
    code = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits that it is ignored
from detheads.cli import main
@main.app.command()
def wait():
    print("ready", flush=True)
    time.sleep(60)
sys.exit(main.run(["wait"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")


@pytest.mark.parametrize("word", ["predict", "detect", "infer"])
def test_the_names_of_other_tools_point_at_deploy_run(detheads: Callable[..., Any], word: str) -> None:
    assert "use 'detheads deploy run'" in detheads(word).err


def test_a_terminated_command_clears_what_is_unfinished(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from detheads.cli import main
from detheads.foundation.claims import new_folder
@main.app.command()
def wait():
    with new_folder(Path(target)):
        print("ready", flush=True)
        time.sleep(60)
target = sys.argv.pop()
main.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code, "wait", str(tmp_path / "set")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.terminate()
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
