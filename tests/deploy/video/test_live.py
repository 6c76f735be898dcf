"""A source that does not wait: frames that are too many are dropped and counted, a lost one is waited for."""

import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from detheads.deploy import Detector
from detheads.deploy.video import opening
from detheads.foundation.errors import UserError
from tests.deploy.video.camera import Camera, jpeg
from tests.deploy.video.conftest import Run
from tests.deploy.video.rtsp import RtspCamera
from tests.deploy.video.squares import read_clip
from tests.deploy.video.test_files import boxes, lines


class Slow(Detector):
    """A detector that takes its time."""

    seconds = 0.05

    def run(self, prepared: Any) -> Any:
        time.sleep(self.seconds)
        return super().run(prepared)


@pytest.fixture(scope="module")
def slow(squares: Path) -> Detector:
    return Slow(squares, threads=1)


def test_a_model_slower_than_the_source_gets_the_newest_frames_and_counts_the_others(slow: Detector, run: Run) -> None:
    with Camera(rate=100) as camera:
        result = run(camera.url, detector=slow, max_frames=12)
    found = lines(result.folder)
    numbers = [line["id"] for line in found]
    assert result.live
    assert len(found) == result.frames == 12
    assert result.counts.dropped >= numbers[-1] - 12 > 12
    assert result.counts.read >= numbers[-1]
    assert all(later > earlier for earlier, later in pairwise(numbers))
    assert set(boxes(found[-1])) == {"red", "green"}
    assert result.annotated is not None
    times = [line["time"] for line in found]
    assert [time for _, time, _ in read_clip(result.annotated)] == pytest.approx(times, abs=1e-4)


def test_a_live_source_can_be_made_to_wait(slow: Detector, run: Run) -> None:
    with Camera(rate=100) as camera:
        result = run(camera.url, detector=slow, max_frames=12, live="all")
    assert [line["id"] for line in lines(result.folder)] == list(range(1, 13))
    assert result.counts.dropped == 0


def test_memory_stays_flat_when_the_source_is_faster_than_the_model(slow: Detector, run: Run) -> None:
    """A frame of 1280x720 has 1.4 MB decoded."""
    resident: list[int] = []
    process = psutil.Process()

    def watch(*_: object) -> None:
        resident.append(process.memory_info().rss)

    with Camera(rate=150, pictures=[jpeg(1280, 720)]) as camera:
        result = run(camera.url, detector=slow, seconds=1.8, annotate=False, on_frame=watch)
    assert result.counts.ended == "seconds"
    assert result.counts.dropped > 30
    assert resident[-1] - resident[len(resident) // 3] < 20e6


def test_a_stream_that_dies_and_returns_is_picked_up(run: Run) -> None:
    with Camera(rate=30) as camera:

        def watch(number: int, *_: object) -> None:
            if number == 5:
                camera.die()
                threading.Timer(0.3, camera.start).start()

        result = run(camera.url, max_frames=12, on_frame=watch, reconnect=20)
    assert result.frames == 12
    assert result.counts.reconnects == 1
    assert len(camera.asked) == 2
    times = [line["time"] for line in lines(result.folder)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > 0
    assert 0.3 < max(gaps) < 10


def test_a_stream_that_does_not_return_ends_the_run_with_what_there_is(run: Run) -> None:
    with Camera(rate=30) as camera:

        def watch(number: int, *_: object) -> None:
            if number == 3:
                camera.die()

        result = run(camera.url, on_frame=watch, reconnect=0.6)
    assert result.counts.ended == "lost"
    assert result.counts.trouble == f"{camera.url} did not come back within 0.6 s"
    assert result.frames == len(lines(result.folder)) >= 3
    assert result.annotated is not None
    assert len(read_clip(result.annotated)) == result.frames


def test_a_stream_that_falls_silent_is_lost_after_the_time_out(run: Run) -> None:
    with Camera(rate=30) as camera:

        def watch(number: int, *_: object) -> None:
            if number == 3:
                camera.rate = 0.01

        begin = time.monotonic()
        result = run(camera.url, on_frame=watch, reconnect=0, timeout=0.5)
    assert result.counts.ended == "lost"
    assert "broke off" in result.counts.trouble
    assert time.monotonic() - begin < 20


def test_who_asks_to_stop_gets_finished_files(run: Run) -> None:
    stop = threading.Event()
    with Camera(rate=30) as camera:
        result = run(camera.url, stopped=stop.is_set, on_frame=lambda number, *_: number == 4 and stop.set())
    assert result.counts.ended == "interrupted"
    assert result.annotated is not None
    assert 4 <= len(read_clip(result.annotated)) == len(lines(result.folder)) <= 8


def test_jpegs_without_times_have_those_of_their_arrival(run: Run) -> None:
    with Camera(rate=10, pictures=[jpeg(192, 144, frame) for frame in range(5)]) as camera:
        result = run(camera.url, max_frames=8, live="all")
    times = [line["time"] for line in lines(result.folder)]
    assert 0.06 < (times[-1] - times[2]) / 5 < 0.3  # FFmpeg would say 0.04


def test_frames_of_another_size_are_fitted_into_the_video_and_run_as_they_are(run: Run) -> None:
    with Camera(rate=100, pictures=[jpeg(192, 144)] * 60 + [jpeg(384, 288)] * 60) as camera:
        result = run(camera.url, every=4, max_frames=25, live="all")
    widths = [line["width"] for line in lines(result.folder)]
    assert set(widths) == {192, 384}
    assert result.resized == widths.count(384)
    assert result.annotated is not None
    assert {size for *_, size in read_clip(result.annotated)} == {(192, 144)}


def test_frames_that_grow_too_large_on_the_way_are_not_decoded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_PIXELS", 192 * 144)
    with Camera(rate=100, pictures=[jpeg(192, 144)] * 60 + [jpeg(384, 288)] * 60) as camera:
        result = run(camera.url, every=4, max_frames=25, live="all")
    assert {line["width"] for line in lines(result.folder)} == {192}
    assert result.counts.damaged > 20


def test_passwords_of_an_address_are_nowhere(run: Run, tmp_path: Path) -> None:
    with Camera(rate=30) as camera:
        url = camera.url.replace("http://", "http://admin:hunter2@") + "?token=sesame"
        result = run(url, max_frames=2)
        assert camera.asked == ["/live?token=sesame"]
    for path in result.folder.iterdir():
        assert b"hunter2" not in path.read_bytes()
        assert b"sesame" not in path.read_bytes()
    with pytest.raises(UserError) as told:
        run(url, out="again")
    assert "hunter2" not in str(told.value) + repr(told.value.__cause__)
    assert "sesame" not in str(told.value)


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp"])
def test_a_server_that_says_nothing_is_given_up(scheme: str, run: Run, silent: int, tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(UserError, match=f"{scheme}://127.0.0.1:.* did not answer within 0.4 s"):
        run(f"{scheme}://127.0.0.1:{silent}/x", timeout=0.4)
    assert time.monotonic() - begin < 10
    assert not (tmp_path / "out").exists()


def test_a_camera_behind_rtsp_and_a_password(run: Run) -> None:
    with RtspCamera("admin", "hunter2") as camera:
        result = run(f"rtsp://admin:hunter2@127.0.0.1:{camera.port}/stream", max_frames=10)
        with pytest.raises(UserError, match=r"stream cannot be opened \(.*authori[sz]ation failed.*\); check address"):
            run(f"rtsp://admin:wrong@127.0.0.1:{camera.port}/stream", out="again")
    found = lines(result.folder)
    assert result.live
    assert found[0]["image"] == f"rtsp://127.0.0.1:{camera.port}/stream"
    assert all(set(boxes(line)) == {"red", "green"} for line in found)
    steps = [later["time"] - earlier["time"] for earlier, later in pairwise(found)]
    frames = [later["id"] - earlier["id"] for earlier, later in pairwise(found)]
    # Until the stream's clock is known the first frames have the time of their arrival.
    assert steps[2:] == pytest.approx([count / 30 for count in frames[2:]], abs=0.02)
