"""``detheads deploy run``: pictures in, detections out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from detheads.cli.checks import possible_threads
from detheads.cli.deploy import video_options as video
from detheads.cli.deploy.video import run_on_video
from detheads.cli.options import (
    BackendOption,
    BundleArgument,
    FontOption,
    KeepMostOption,
    KeepOption,
    MonitorFlag,
)
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.deploy.detector import Detector
    from detheads.deploy.monitor.observer import Observer
    from detheads.deploy.run import RunResult

SHOWN = 20
"""Pictures that are listed when they were left out; images.json has all of them."""


def run(
    bundle: BundleArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Pictures, patterns, folders of pictures, or a dataset with --split; or one video, stream or camera."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="New folder for the results.")],
    split: Annotated[str | None, typer.Option(help="Run this split of a dataset, under its own image ids.")] = None,
    images_json: Annotated[
        Path | None, typer.Option(help="COCO file with the image ids to use; without it they count from 1.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="coco, jsonl, csv; repeatable.", show_default="coco; of a video jsonl"),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Lowest score in the results, or of a class: person=0.4; repeatable.",
            show_default="the graph's own floor",
        ),
    ] = None,
    classes: Annotated[list[str] | None, typer.Option(help="Only these: person,dog; repeatable.")] = None,
    left_out: Annotated[list[str] | None, typer.Option("--except", help="All classes but these; repeatable.")] = None,
    draw_score: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Lowest score drawn on a picture.", show_default="each class's best score, or 0.3"
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Cut pictures into tiles of so many pixels.", show_default="not cut")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Share of a tile's side that the next one has, too.", show_default="0.2")
    ] = None,
    tile_whole: Annotated[
        bool | None,
        typer.Option("--tile-whole/--no-tile-whole", help="Run the whole picture, too.", show_default="tile-whole"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Pictures (or tiles) in one run of the graph.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, callback=possible_threads, help="CPU threads; the library's own choice if unset."),
    ] = None,
    backend: BackendOption = "cpu",
    head: Annotated[
        str | None, typer.Option(help="Only this head, of a bundle of several.", show_default="all heads")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Write annotated pictures, or the video, too.")] = True,
    font: FontOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read, list them, and exit 0.")
    ] = False,
    track: video.TrackOption = False,
    every: video.EveryOption = 1,
    fps: video.FpsOption = None,
    max_frames: video.MaxFramesOption = None,
    seconds: video.SecondsOption = None,
    live: video.LiveOption = "newest",
    reconnect: video.ReconnectOption = 30,
    timeout: video.TimeoutOption = 10,
    monitor: MonitorFlag = False,
    keep_uncertain: KeepOption = None,
    keep_most: KeepMostOption = 100,
    as_json: JsonFlag = False,
) -> None:
    """Write COCO results, JSON lines or CSV, and annotated pictures or an annotated video.

    Pictures: what was stopped goes on when it is run again. One that cannot be read stops the run (exit code 1), unless
    --skip-bad is given; the folder appears when all are done. A video that is damaged (1, or 0 with --skip-bad) and a
    stream that is lost (1) have their results until then written; Ctrl+C ends a live source like this (0).
    """
    from detheads.deploy.detector import Detector
    from detheads.deploy.inputs import collect_images
    from detheads.deploy.monitor.observer import Observing, observing
    from detheads.deploy.run import require_formats, run_images
    from detheads.deploy.selection import lowest_scores
    from detheads.deploy.tiles import OVERLAP, Tiling
    from detheads.deploy.video.settings import Reading, VideoOptions
    from detheads.deploy.video.sources import video_source

    source = video_source(images) if split is None else None
    of_pictures = {"--images-json": images_json, "--tile": tile}
    of_videos = {"--track": track, "--every": every > 1, "--fps": fps, "--max-frames": max_frames, "--seconds": seconds}
    video.refuse_for(*(("pictures", of_videos) if source is None else ("videos", of_pictures)))
    forms = require_formats(formats or ["coco" if source is None else "jsonl"])
    if tile is None:
        untiled = {"--overlap": overlap is not None, "--tile-whole": tile_whole is not None}
        video.refuse_for("pictures that are not cut with --tile", untiled)
    tiling = None if tile is None else Tiling(tile, OVERLAP if overlap is None else overlap, tile_whole is not False)
    if monitor and tiling is not None:
        raise UserError("--monitor compares whole pictures with those of the proof; leave --tile out.")
    inputs = []
    if source is None:
        inputs = collect_images(images, split=split, images_json=images_json, skip_bad=skip_bad, on_remark=remark)
    detector = Detector.load(bundle, backend=backend, threads=threads, head=head)
    if detector.choice:
        remark(f"auto took {detector.choice}")
    if detector.manifest.state != "verified":
        remark(f"{bundle} is {detector.manifest.state}: nothing proves that it equals the trained model")
    floors = np.array([each.thresholds.score for each in detector.heads for _ in each.classes], np.float32)
    lowest = lowest_scores(detector.class_names, score or (), classes or (), left_out or (), floors)
    detector = _low_enough(detector, bundle, lowest, floors, threads)
    watched = Observing(monitor, keep_uncertain, keep_most)
    if source is not None:
        reading = Reading(every, fps, max_frames, seconds, live, reconnect, timeout)
        options = VideoOptions(lowest, draw_score, forms, pictures, track, batch, font, reading)
        run_on_video(detector, source, output, options, watched, skip_bad=skip_bad, as_json=as_json)
        return
    with steps("images") as on_progress, observing(detector, watched, remark) as observer:
        result = run_images(
            detector,
            inputs,
            output,
            lowest=lowest,
            draw_score=draw_score,
            batch=batch,
            tiling=tiling,
            formats=forms,
            pictures=pictures,
            skip_bad=skip_bad,
            font=font,
            observer=observer,
            on_progress=on_progress,
            on_remark=remark,
        )
    if result.skipped:
        remark(f"left out {len(result.skipped)} pictures that cannot be read:")
    for sentence in result.skipped[:SHOWN]:
        remark(f"skipped: {sentence}")
    rows = " or ".join(str(each.thresholds.max_detections) for each in detector.heads)
    if result.full:
        remark(
            f"{result.full} of {result.image_count} pictures filled all {rows} rows of the graph, so that there may be "
            "more objects in them; export with a higher --score or --max-detections"
        )
    answer = {
        "folder": str(result.folder),
        "results": {form: str(path) for form, path in result.results.items()},
        "images_file": str(result.images),
        "pictures": [str(path) for path in result.pictures],
        "images": result.image_count,
        "detections": result.detections,
        "full_tables": result.full,
        "skipped": list(result.skipped),
        "resumed": result.resumed,
        "bundle_state": detector.manifest.state,
        "runtime": detector.session.runtime,
        "choice": detector.choice,
        "timing": _timing(result),
        **observer.to_dict(),
    }
    emit(answer, as_json, lambda console: _print_run(console, result, observer))


def _low_enough(
    detector: "Detector",
    bundle: Path,
    lowest: "NDArray[np.float32]",
    floors: "NDArray[np.float32]",
    threads: int | None,
) -> "Detector":
    """The detector, or one for scores below the graph's own floor where they are asked for and the bundle has one."""
    from detheads.deploy.dense import DenseDetector, raw_profile

    if not (lowest < floors).any():
        return detector
    least = float(lowest.min())
    if raw_profile(detector.manifest) is None:
        remark(
            f"--score {least:g} is below the graph's own floor: nothing below {floors.max():g} leaves it; export with "
            "--score, or with --raw, which runs at any score"
        )
        return detector
    return DenseDetector(bundle, floor=least, backend=detector.backend, threads=threads)


def _timing(result: "RunResult") -> dict[str, float]:
    """Pictures a second of this part of the run, and milliseconds a picture by what took them, at the same time."""
    timing, count = result.timing, max(1, result.image_count + len(result.skipped) - result.resumed)
    each = 1000 / count
    return {
        "seconds": round(timing.total, 4),
        "images_per_second": round(count / timing.total, 3),
        "decode_ms": round(each * timing.decode, 3),
        "inference_ms": round(each * timing.inference, 3),
        "draw_ms": round(each * timing.draw, 3),
        "inference_share": round(timing.inference / timing.total, 4),
    }


def _print_run(console: Console, result: "RunResult", observer: "Observer") -> None:
    names = ", ".join(map(str, result.results.values()))
    console.print(f"{names}: {result.detections} detections on {result.image_count} images")
    if result.pictures:
        console.print(f"annotated pictures: {result.folder / 'pictures'}")
    speed = _timing(result)
    console.print(
        f"{speed['images_per_second']:.1f} images/s; milliseconds an image, at the same time: decoding "
        f"{speed['decode_ms']:.1f}, inference {speed['inference_ms']:.1f}, drawing {speed['draw_ms']:.1f}; inference "
        f"took {speed['inference_share']:.0%} of the run"
    )
    for sentence in observer.told():
        console.print(sentence)
