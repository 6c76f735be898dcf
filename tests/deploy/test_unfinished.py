"""A run that was stopped goes on where it was, and ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export.toy import Toy

SLOW_RUN = """
import sys, time
from detheads.cli.main import run
from detheads.deploy import inputs

load = inputs.InputImage.load

def slowly(*arguments):
    time.sleep(0.1)
    return load(*arguments)

inputs.InputImage.load = slowly
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture
def pictures(toy: Toy, tmp_path: Path) -> Path:
    """Fourteen pictures, of which the last but three cannot be read."""
    folder = tmp_path / "pictures"
    for number, path in enumerate([*sorted(toy.images.iterdir())] * 2):
        (folder / "inner").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / ("inner" if number % 2 else ".") / f"{number:02}.png")
    (folder / "inner" / "05.png").write_bytes(b"no picture")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def options(bundle: Path, pictures: Path, output: Path) -> list[Any]:
    run = ["deploy", "run", bundle, pictures, "-o", output, "--batch", 2, "--format", "coco,jsonl,csv"]
    return [*run, "--draw-score", 0.1]


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(
    bundle: Path, pictures: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    out, whole = tmp_path / "kölled", tmp_path / "whole"
    command = [*options(bundle, pictures, out), "--skip-bad", "--json"]
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, *map(str, command)], stderr=subprocess.DEVNULL)
    journal = tmp_path / ".kölled.unfinished" / "journal"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.stat().st_size < 3000:  # five pictures or so
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    with journal.open("ab") as stream:
        stream.write(b'{"key": [1, "what a kill in the midd')

    drawn = next(path for path in (journal.parent / "results" / "pictures").rglob("*.jpg") if path.stat().st_size)
    written = drawn.stat().st_mtime_ns, drawn.relative_to(journal.parent / "results")
    resumed = detheads(*command)
    assert resumed.code == 0, resumed.err
    answer = json.loads(resumed.out)
    assert 2 <= answer["resumed"] < 14
    assert answer["resumed"] % 2 == 0
    assert f"{answer['resumed']} of 14 pictures were done before" in resumed.err
    assert (out / written[1]).stat().st_mtime_ns == written[0]
    assert not journal.parent.exists()

    once = json.loads(detheads(*options(bundle, pictures, whole), "--skip-bad", "--json").out)
    assert once["resumed"] == 0
    assert {key: answer[key] for key in ("images", "detections", "full_tables", "skipped")} == {
        key: once[key] for key in ("images", "detections", "full_tables", "skipped")
    }
    assert contents(out) == contents(whole)
    assert len(contents(out)) == 4 + 13


def test_a_bad_picture_costs_nothing_of_what_was_done(
    bundle: Path, pictures: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    out = pictures / "out"  # among the pictures, of which the unfinished run's are none
    command = options(bundle, pictures, out)
    stopped = detheads(*command)
    assert stopped.code == 1
    assert "05.png" in stopped.err
    assert "9 pictures are done and kept; run the same command again to go on" in stopped.err
    assert not out.exists()
    again = detheads(*command)
    assert "8 of 14 pictures were done before" in again.err
    assert again.code == 1

    changed = detheads(*command[:-2], "--draw-score", 0.2)
    assert changed.code == 1
    sentence = (
        "holds an unfinished run with another options.draw_score (0.1, not 0.2); remove it or choose another folder"
    )
    assert sentence in changed.err
    shutil.copy(pictures / "00.png", pictures / "inner" / "05.png")
    done = detheads(*command, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["resumed"] == 8
    assert detheads(*options(bundle, pictures, tmp_path / "whole")).code == 0
    assert contents(out) == contents(tmp_path / "whole")


def test_a_picture_that_changed_is_run_again_and_all_behind_it(
    bundle: Path, pictures: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    command = [*options(bundle, pictures, tmp_path / "out"), "--no-pictures"]
    assert detheads(*command).code == 1
    third = sorted(pictures.glob("*.png"))[4]
    os.utime(third, (1, 1))
    assert "4 of 14 pictures were done before" in detheads(*command).err


def test_another_bundle_is_refused(bundle: Path, pictures: Path, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    assert detheads(*options(bundle, pictures, tmp_path / "out")).code == 1
    record = tmp_path / ".out.unfinished" / "run.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps(text | {"bundle": text["bundle"] | {"graph": "0" * 64}}))
    done = detheads(*options(bundle, pictures, tmp_path / "out"))
    assert done.code == 1
    assert "holds an unfinished run with another bundle.graph; remove it" in done.err


def test_a_second_process_is_told_and_nothing_is_lost(
    bundle: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    from detheads.deploy.unfinished import RUN
    from detheads.foundation.claims import claimed

    with claimed(tmp_path / ".out.unfinished", RUN, {}):
        done = detheads("deploy", "run", bundle, toy.images, "-o", tmp_path / "out")
    assert done.code == 1
    assert "another process is writing" in done.err


def test_all_is_done_again_where_the_results_are_gone(
    bundle: Path, pictures: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    command = options(bundle, pictures, tmp_path / "out")
    assert detheads(*command).code == 1
    shutil.rmtree(tmp_path / ".out.unfinished" / "results")
    done = detheads(*command, "--skip-bad", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["resumed"] == 0


def test_a_run_without_pictures_that_can_be_read_leaves_nothing(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    for more in ([], ["--skip-bad"]):
        assert detheads("deploy", "run", bundle, tmp_path / "a.png", "-o", tmp_path / "out", *more).code == 1
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
