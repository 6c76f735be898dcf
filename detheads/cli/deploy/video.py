"""``detheads deploy run`` with a video, a stream or a camera."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from detheads.cli.output import emit, progress, remark

if TYPE_CHECKING:
    from detheads.deploy.detector import Detector
    from detheads.deploy.monitor.observer import Observer, Observing
    from detheads.deploy.video.reader import Counts
    from detheads.deploy.video.run import VideoResult
    from detheads.deploy.video.settings import VideoOptions
    from detheads.deploy.video.sources import VideoSource


def run_on_video(
    detector: "Detector",
    source: "VideoSource",
    output: Path,
    options: "VideoOptions",
    watched: "Observing",
    *,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Run a video, and end with the exit code that its end stands for.

    0: it ended, all that was asked for is done, or a live source was stopped by Ctrl+C or SIGTERM. 1: a recording is
    damaged (0 with ``skip_bad``), or a live source was lost. 130, 143: a recording was stopped by Ctrl+C, SIGTERM. What
    was found until then is written in each of these cases.
    """
    from detheads.deploy.monitor.observer import observing
    from detheads.deploy.video.run import run_video

    with _signals() as received, _frames() as on_frame, observing(detector, watched, remark) as observer:
        result = run_video(
            detector,
            source,
            output,
            options,
            stopped=lambda: bool(received),
            observer=observer,
            on_frame=on_frame,
            on_remark=remark,
        )
    for sentence in _sentences(result):
        remark(sentence)
    answer = result.to_dict() | {
        "bundle_state": detector.manifest.state,
        "runtime": detector.session.runtime,
        "choice": detector.choice,
        **observer.to_dict(),
    }
    emit(answer, as_json, lambda console: _print_video(console, result, observer))
    ended = result.counts.ended
    if ended == "lost" or (ended == "damaged" and not skip_bad):
        raise typer.Exit(1)
    if ended == "interrupted" and not result.live:
        raise SystemExit(128 + received[0])  # typer's own Exit(130) stands for an interruption without a result


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Signals that ask to end, as they come: the first one is noted only, and the next acts as ever."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    mine = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in mine}
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _frames() -> Iterator[Callable[[int, int, "Counts"], None]]:
    """A display of the frames that are run, with what became of the others."""
    with progress("frames") as bar:
        task = bar.add_task("detecting", total=None)

        def show(run: int, expected: int, counts: "Counts") -> None:
            said = [f"{counts.dropped} dropped"] if counts.dropped else []
            said += [f"{counts.reconnects} reconnected"] if counts.reconnects else []
            description = f"detecting ({', '.join(said)})" if said else "detecting"
            bar.update(task, completed=run, total=max(run, expected) if expected else None, description=description)

        yield show
        done = bar.tasks[task].completed
        bar.update(task, total=done or 1, completed=done or 1)


def _sentences(result: "VideoResult") -> Iterator[str]:
    """What a reader must know of the frames that are not there."""
    counts = result.counts
    if counts.ended == "interrupted":
        yield f"stopped after {result.frames} frames; what was found in them is written"
    if counts.trouble:
        yield f"{counts.trouble}; what was found until then is written"
    if counts.dropped:
        yield (
            f"{counts.dropped} of {counts.read} frames were dropped, because the source is faster than the model; give "
            "--live all to run each of them later, or --fps to want fewer"
        )
    if counts.reconnects:
        yield f"the source was lost and came back {counts.reconnects} times"
    if counts.damaged and result.live:
        yield f"{counts.damaged} frames came damaged"
    if result.full:
        yield (
            f"{result.full} of {result.frames} frames filled all rows of the graph, so that there may be more objects "
            "in them; export with a higher --score or --max-detections"
        )
    if result.resized:
        yield f"{result.resized} frames of another size were fitted into the annotated video; their boxes are their own"


def _print_video(console: Console, result: "VideoResult", observer: "Observer") -> None:
    tracks = "" if result.tracks is None else f", {result.tracks} objects"
    names = ", ".join(map(str, result.results.values()))
    console.print(f"{names}: {result.detections} detections on {result.frames} frames{tracks}")
    if result.annotated is not None:
        console.print(f"annotated video: {result.annotated}")
    speed = result.to_dict()["timing"]
    console.print(
        f"{speed['frames_per_second']:.1f} frames/s; milliseconds a frame: inference {speed['inference_ms']:.1f}, "
        f"waiting for frames {speed['waiting_ms']:.1f}; at the same time tracking, drawing and writing "
        f"{speed['writing_ms']:.1f}"
    )
    for sentence in observer.told():
        console.print(sentence)
