"""Folders that one process writes: killed owners, living ones, and what they leave."""

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from detheads.foundation import atomic, claims
from detheads.foundation.claims import Kind, claimed, new_folder, staged
from detheads.foundation.errors import UserError

RUN = Kind("run.json", "a run", "running in")

HOLDERS = {
    "claimed": "claims.claimed(target, claims.Kind('run.json', 'a run', 'running in'), {'a': 1})",
    "staged": "claims.staged(target, claims.require_new)",
    "replacing": "atomic.replacing(target / 'deep' / 'model.bin')",
}
HOLD = """
import sys, time
from pathlib import Path
from detheads.foundation import atomic, claims

target = Path(sys.argv[1])
with {holder} as held:
    half = getattr(held, "folder", target / ".shard.abcd.partial.bin" if isinstance(held, dict) else held)
    half = half / "half" if half.is_dir() else half
    half.write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Path], "subprocess.Popen[str]"]]:
    """Another process that holds a folder or file and does not end by itself: ``hold("staged", target)``."""
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    running: list[subprocess.Popen[str]] = []

    def start(holder: str, target: Path) -> "subprocess.Popen[str]":
        code = HOLD.format(holder=HOLDERS[holder])
        process = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in running:
        _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# A folder that appears whole or not at all.


def test_a_new_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "set") as folder:
        (folder / "a").write_text("a")
        assert not (tmp_path / "deep" / "set").exists()
    assert _names(tmp_path) == ["deep", "deep/set", "deep/set/a"]


def test_an_empty_folder_may_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    with new_folder(Path()) as folder:
        (folder / "a").write_text("a")
    assert _names(tmp_path) == ["set", "set/a"]


def test_a_failing_folder_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "deep" / "set") as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    assert _names(tmp_path) == ["deep"]


@pytest.mark.parametrize(("make", "sentence"), [("file", "is a file"), ("full folder", "is not empty")])
def test_nothing_that_exists_is_overwritten(tmp_path: Path, make: str, sentence: str) -> None:
    target = tmp_path / "set"
    if make == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "a").write_text("mine")
    with pytest.raises(UserError, match=sentence), new_folder(target):
        pass
    assert (target if make == "file" else target / "a").read_text() == "mine"


def test_what_fills_the_target_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "set"
    with pytest.raises(UserError, match="is not empty"), new_folder(target) as folder:
        (folder / "a").write_text("new")
        target.mkdir()
        (target / "a").write_text("mine")
    assert _names(tmp_path) == ["set", "set/a"]
    assert (target / "a").read_text() == "mine"


def _anything(target: Path) -> None:
    pass


@pytest.mark.parametrize("publish", [True, False])
def test_an_old_folder_is_replaced_whole_or_kept_whole(tmp_path: Path, publish: bool) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")
    with staged(target, _anything) as stage:
        (stage.folder / "new").write_text("new")
        assert _names(target) == ["old"]
        if publish:
            stage.publish()
    assert _names(tmp_path) == ["set", "set/new" if publish else "set/old"]


def test_a_killed_process_does_not_block_the_next_one_and_its_folder_is_cleared(
    tmp_path: Path, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    target = tmp_path / "set"
    _kill(hold("staged", target))
    assert not target.exists()
    assert len(_names(tmp_path)) == 3  # hidden: where it was made, the folder, the half file
    with new_folder(target) as folder:
        assert _names(folder) == []
        (folder / "a").write_text("a")
    assert _names(tmp_path) == ["set", "set/a"]


def test_a_process_number_given_out_again_means_nothing(tmp_path: Path) -> None:
    """What another process of this very number left behind, in the names of earlier versions as well."""
    for name in (f".set.{os.getpid()}.partial", ".set.partial"):
        (tmp_path / name / str(os.getpid())).mkdir(parents=True)
    (tmp_path / f".model.{os.getpid()}.partial.bin").write_text("half")
    with new_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("a")
    atomic.write_text(tmp_path / "model.bin", "whole")
    assert not {".set.partial", f".model.{os.getpid()}.partial.bin"} & set(_names(tmp_path))


def test_a_living_process_is_one_sentence_and_goes_on(
    tmp_path: Path, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    target = tmp_path / "set"
    hold("staged", target)
    before = _names(tmp_path)
    with (
        pytest.raises(UserError, match=f"^another process is writing {target}; wait for it or stop it.$"),
        new_folder(target),
    ):
        pass
    assert _names(tmp_path) == before
    with new_folder(tmp_path / "set 2") as other:  # another target beside it
        (other / "a").write_text("a")
    assert set(before) < set(_names(tmp_path))


def test_of_two_processes_that_begin_at_once_one_writes_and_one_is_refused(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from detheads.foundation import claims
from detheads.foundation.errors import UserError

claims.PATIENCE = 0.1
sys.stdin.readline()
try:
    with claims.new_folder(Path(sys.argv[1])) as folder:
        (folder / "a").write_text("a")
        time.sleep(1.0)
except UserError as error:
    sys.exit(str(error))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    pair = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    time.sleep(0.5)
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 1]
    assert "another process is writing" in "".join(errors)
    assert _names(tmp_path) == ["set", "set/a"]


@pytest.mark.parametrize("moment", ["set aside", "replaced", "exchanged"])
def test_a_kill_in_the_middle_of_a_swap_loses_nothing(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "set"
    target.mkdir()
    (target / "old").write_text("old")
    code = """
import os, signal, sys
from pathlib import Path
from detheads.foundation import atomic, claims

def then_die(move, calls):
    def moved(*paths):
        result = move(*paths)
        calls.append(paths)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return moved

Path.rename = then_die(Path.rename, [])
atomic.exchange = then_die(atomic.exchange, []) if sys.argv[3] == "exchanged" else lambda one, other: False
with claims.staged(Path(sys.argv[1]), lambda target: None) as stage:
    (stage.folder / "new").write_text("new")
    stage.publish()
"""
    moves = {"set aside": "1", "replaced": "2", "exchanged": "1"}[moment]
    done = subprocess.run([sys.executable, "-c", code, str(target), moves, moment], check=False)
    assert done.returncode == -signal.SIGKILL
    if moment == "exchanged":  # there is no moment without the folder
        assert [path.name for path in target.iterdir()] == ["new"]
    with staged(target, _anything):
        pass
    assert _names(tmp_path) == ["set", "set/old" if moment == "set aside" else "set/new"]


def test_what_was_killed_is_removed_by_a_run_for_another_target(
    tmp_path: Path, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    _kill(hold("staged", tmp_path / "dead"))
    hold("staged", tmp_path / "living")
    for foreign in (".download.partial/0a1b2c3d.part", ".empty.partial"):
        (tmp_path / foreign).mkdir(parents=True)
    with new_folder(tmp_path / "set"):
        pass
    left = {name.split("/")[0] for name in _names(tmp_path)}
    assert left == {".download.partial", ".empty.partial", ".living.partial", "set"}


def test_what_only_another_user_may_remove_does_not_block() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        leftover = folder / ".set.partial" / "stubborn"
        leftover.mkdir(parents=True)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                with new_folder(folder / "set") as made:
                    (made / "a").write_text("a")
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert _names(folder) == [".set.partial", ".set.partial/stubborn", "set", "set/a"]


# A folder that is worked on in place.


def test_a_folder_records_whose_it_is_and_is_opened_again(tmp_path: Path) -> None:
    described = {"training": {"lr": 0.1, "layers": (1, 2)}}
    for version in (1, 2):
        with claimed(tmp_path / "run", RUN, described, {"version": version}) as recorded:
            (tmp_path / "run" / "work").write_text("half")
        assert recorded == {"training": {"lr": 0.1, "layers": [1, 2]}, "version": 1}
    assert atomic.read_json(tmp_path / "run" / "run.json") == recorded


@pytest.mark.parametrize(
    ("described", "difference"),
    [
        ({"training": {"lr": 0.5, "layers": [1]}, "cache": "a" * 64}, r"another training\.lr \(0\.1, not 0\.5\);"),
        ({"training": {"lr": 0.1, "layers": [2]}, "cache": "a" * 64}, r"training\.layers \(\[1\], not \[2\]\);"),
        ({"training": {"lr": 0.1}, "cache": "a" * 64}, r"training\.layers \(\[1\], not None\);"),
        ({"training": {"lr": 0.1, "layers": [1]}, "cache": "b" * 64}, "another cache;"),
        ({"training": {"lr": 0.1, "layers": [1]}, "data": "a"}, r"run\.json does not describe a run of this version;"),
    ],
)
def test_other_work_is_refused_by_naming_the_difference(
    tmp_path: Path, described: dict[str, object], difference: str
) -> None:
    with claimed(tmp_path, RUN, {"training": {"lr": 0.1, "layers": [1]}, "cache": "a" * 64}):
        (tmp_path / "work").write_text("half")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(UserError, match=f"{difference} choose another folder with -o"),
        claimed(tmp_path, RUN, described),
    ):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(UserError, match="is not empty and holds no run; choose another folder"),
        claimed(tmp_path, RUN, {}),
    ):
        pass
    assert _names(tmp_path) == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file; choose another folder"), claimed(tmp_path / "thesis.tex", RUN, {}):
        pass


@pytest.mark.parametrize("existed", [True, False])
def test_work_that_fails_before_it_began_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    folder = tmp_path / "run"
    if existed:
        folder.mkdir()
    with pytest.raises(UserError, match="no space"), claimed(folder, RUN, {}):
        raise UserError("no space")
    assert _names(tmp_path) == (["run"] if existed else [])


def test_work_that_fails_later_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError), claimed(tmp_path / "run", RUN, {}):
        (tmp_path / "run" / "work").write_text("half")
        raise UserError("no space")
    assert _names(tmp_path) == ["run", "run/run.json", "run/work"]


def test_a_folder_is_worked_on_by_one_process_and_a_killed_ones_half_files_go(
    tmp_path: Path, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = hold("claimed", tmp_path)
    with (
        pytest.raises(UserError, match=f"^another process is running in {tmp_path}; wait for it or stop it.$"),
        claimed(tmp_path, RUN, {"a": 1}),
    ):
        pass
    assert _names(tmp_path) == [".shard.abcd.partial.bin", "run.json"]
    _kill(process)
    with claimed(tmp_path, RUN, {"a": 1}):
        assert _names(tmp_path) == ["run.json"]


# A file.


def test_half_files_of_killed_processes_do_not_pile_up(
    tmp_path: Path, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    for _ in range(2):
        _kill(hold("replacing", tmp_path))
        assert len(_names(tmp_path / "deep")) == 1
    living = hold("replacing", tmp_path)
    path = tmp_path / "deep" / "model.bin"
    (path.parent / ".other.abcd.partial.bin").write_text("another file's")
    atomic.write_text(path, "whole")  # a living writer is neither waited for nor disturbed
    assert path.read_text() == "whole"
    assert len([name for name in _names(path.parent) if name.startswith(".model")]) == 1
    _kill(living)
    atomic.write_text(path, "again")
    assert _names(path.parent) == [".other.abcd.partial.bin", "model.bin"]


# File systems without locks.


def test_without_locks_all_is_written_and_nothing_of_others_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: Callable[..., "subprocess.Popen[str]"]
) -> None:
    def unknown(descriptor: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    hold("staged", tmp_path / "set")
    monkeypatch.setattr("fcntl.flock", unknown)
    before = _names(tmp_path)
    with new_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("a")
        atomic.write_text(folder / "b", "b")
    assert _names(tmp_path) == [*before, "set", "set/a", "set/b"]
    with claimed(tmp_path / "run", RUN, {}), claimed(tmp_path / "run", RUN, {}):
        pass


def test_without_the_module_of_locks_everything_starts_and_writes(tmp_path: Path) -> None:
    """As on Windows, where Python has no fcntl."""
    code = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
import detheads.cli.main, detheads.deploy.detector
from detheads.foundation import atomic, claims
root = Path(sys.argv[1])
with claims.new_folder(root / "set") as folder:
    atomic.write_text(folder / "a", "a")
for _ in range(2):
    with claims.claimed(root / "run", claims.Kind("run.json", "a run", "running in"), {"a": 1}):
        atomic.write_text(root / "run" / "b", "b")
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert _names(tmp_path) == ["run", "run/b", "run/run.json", "set", "set/a"]
