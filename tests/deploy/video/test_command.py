"""``detheads deploy run`` with videos: what it prints, its exit codes, signals, and a process that was killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.video.camera import Camera
from tests.deploy.video.squares import read_clip, write_clip
from tests.deploy.video.test_files import lines

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose second half is missing."""
    folder = tmp_path_factory.mktemp("cut")
    data = write_clip(folder / "whole.mkv", 60).read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) // 2])
    return folder / "cut.mkv"


def send_when_begun(number: int, folder: Path) -> None:
    """Send this process a signal when a run into ``folder`` has written a line; before, nobody would handle it."""

    def wait() -> None:
        unfinished = folder / "detections.partial.jsonl"
        for _ in range(2000):
            if unfinished.exists() and unfinished.stat().st_size:
                os.kill(os.getpid(), number)
                return
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()


def test_a_video_with_every_option(squares: Path, clip: Path, tmp_path: Path, detheads: Command) -> None:
    options = "--track --every 2 --fps 10 --max-frames 4 --seconds 9 --classes red --score red=0.5 --format jsonl,coco"
    words = [*options.split(), "--draw-score", 0.5, "--batch", 2, "--threads", 1, "--json"]
    done = detheads("deploy", "run", squares, clip, "-o", tmp_path / "out", *words)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    found = lines(tmp_path / "out")
    assert answer["frames"] == len(found) == 4
    assert [line["id"] for line in found] == [1, 5, 7, 11]  # of each second one, ten a second
    assert [[(each["name"], each.get("track")) for each in line["detections"]] for line in found[1:]] == [
        [("red", 1)]
    ] * 3
    assert answer["results"].keys() == {"jsonl", "coco"}
    assert (answer["ended"], answer["dropped"], answer["tracks"]) == ("frames", 0, 1)
    assert len(read_clip(Path(answer["annotated"]))) == 4


def test_what_is_printed(squares: Path, clip: Path, tmp_path: Path, detheads: Command) -> None:
    done = detheads("deploy", "run", squares, clip, "-o", tmp_path / "out", "--no-pictures", "--track")
    assert f"{tmp_path / 'out' / 'detections.jsonl'}: 60 detections on 30 frames, 2 objects" in done.out
    assert "annotated video" not in done.out
    assert "frames/s; milliseconds a frame: inference" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["CLIP", "--tile", "64"], "--tile does nothing for videos; leave it out"),
        (["CLIP", "--images-json", "a.json"], "--images-json does nothing for videos"),
        (["a.png", "--track"], "--track does nothing for pictures; leave it out"),
        (["a.png", "--every", "2"], "--every does nothing for pictures"),
        (["a.png", "CLIP"], "is a video, and a run takes one of them and nothing else"),
        (["CLIP", "--fps", "inf"], "--fps is a number from 0.001 to 1,000,000,000, not inf"),
        (["CLIP", "--timeout", "inf"], "--timeout is a number from 0.1 to"),
        (["CLIP", "--format", "xml"], "there is no format 'xml'"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    words: list[str], sentence: str, squares: Path, clip: Path, tmp_path: Path, detheads: Command
) -> None:
    given = [str(clip) if word == "CLIP" else word for word in words]
    done = detheads("deploy", "run", squares, *given, "-o", tmp_path / "out")
    assert (done.code, sentence in done.err) == (1, True), done.err
    assert not (tmp_path / "out").exists()


def test_a_damaged_video_ends_with_1_and_skip_bad_with_0(
    cut: Path, squares: Path, tmp_path: Path, detheads: Command
) -> None:
    done = detheads("deploy", "run", squares, cut, "-o", tmp_path / "out", "--json")
    assert done.code == 1
    assert f"{cut} ends after " in done.err
    assert "what was found until then is written" in done.err
    answer = json.loads(done.out)
    assert answer["ended"] == "damaged"
    assert len(lines(tmp_path / "out")) == answer["frames"] > 10
    assert detheads("deploy", "run", squares, cut, "-o", tmp_path / "out2", "--skip-bad").code == 0


def test_a_lost_stream_ends_with_1_and_drops_are_told(squares: Path, tmp_path: Path, detheads: Command) -> None:
    with Camera(rate=400) as camera:
        threading.Timer(2.5, camera.die).start()
        words = [camera.url, "-o", tmp_path / "out", "--live", "newest", "--reconnect", 0.3, "--timeout", 5, "--json"]
        done = detheads("deploy", "run", squares, *words)
    assert done.code == 1
    answer = json.loads(done.out)
    assert answer["ended"] == "lost"
    assert f"{camera.url} did not come back within 0.3 s" in done.err
    assert answer["dropped"] > 0
    assert f"{answer['dropped']} of {answer['read']} frames were dropped, because the source is faster" in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_source_with_finished_files(
    number: signal.Signals, squares: Path, tmp_path: Path, detheads: Command
) -> None:
    before = signal.getsignal(number)
    with Camera(rate=60) as camera:
        send_when_begun(number, tmp_path / "out")
        done = detheads("deploy", "run", squares, camera.url, "-o", tmp_path / "out", "--seconds", 30, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["ended"] == "interrupted"
    assert len(read_clip(tmp_path / "out" / "annotated.mp4")) == len(lines(tmp_path / "out")) == answer["frames"]
    assert signal.getsignal(number) is before


def test_a_recording_that_is_interrupted_ends_with_130_and_what_there_is(
    squares: Path, tmp_path: Path, detheads: Command
) -> None:
    long = write_clip(tmp_path / "long.mp4", 900, encoder="mpeg4")
    send_when_begun(signal.SIGINT, tmp_path / "out")
    done = detheads("deploy", "run", squares, long, "-o", tmp_path / "out", "--json")
    assert done.code == 130
    answer = json.loads(done.out)
    assert 0 < answer["frames"] == len(read_clip(tmp_path / "out" / "annotated.mp4")) < 900
    assert f"stopped after {answer['frames']} frames" in done.err


def test_a_killed_process_leaves_lines_and_a_video_that_can_be_read(squares: Path, tmp_path: Path) -> None:
    with Camera(rate=100) as camera:
        words = ["deploy", "run", str(squares), camera.url, "-o", str(tmp_path / "out"), "--live", "all"]
        process = subprocess.Popen([sys.executable, "-m", "detheads", *words], stderr=subprocess.DEVNULL)
        unfinished = tmp_path / "out" / "detections.partial.jsonl"
        deadline = time.monotonic() + 60
        while not unfinished.exists() or unfinished.read_bytes().count(b"\n") < 150:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotated.partial.mp4", unfinished.name]
    whole = unfinished.read_text("utf-8").rpartition("\n")[0].splitlines()
    assert [json.loads(line)["id"] for line in whole] == list(range(1, len(whole) + 1))
    assert len(read_clip(tmp_path / "out" / "annotated.partial.mp4")) > 50


def test_without_the_extra_one_sentence_says_how_to_get_it(
    squares: Path, clip: Path, tmp_path: Path, detheads: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("detheads.deploy.video.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    done = detheads("deploy", "run", squares, clip, "-o", tmp_path / "out")
    assert done.code == 1
    assert "this command needs av; install it with: pip install 'detheads[video]'" in done.err
    assert not (tmp_path / "out").exists()
