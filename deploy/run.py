"""Run a bundle over pictures: files of results and annotated pictures in a new folder."""

import math
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads import __version__
from detheads.deploy.annotated import AnnotatedPictures
from detheads.deploy.detector import Detector
from detheads.deploy.inputs import IMAGES_NAME, PICTURES_NAME, InputImage
from detheads.deploy.monitor.observer import NOBODY, Observer
from detheads.deploy.pipeline import Pipeline, Timing
from detheads.deploy.tiles import Tiling
from detheads.deploy.unfinished import Journal, unfinished
from detheads.deploy.writers import FORMATS, NAMES, Format, open_writer
from detheads.foundation import atomic
from detheads.foundation.errors import UserError, suggest
from detheads.foundation.progress import Progress, Remark, silent, unheard


def require_formats(names: Sequence[str]) -> list[Format]:
    """The forms of results of these names, each once; several names in one string have commas between them.

    Raises:
        UserError: for one that there is not.
    """
    asked = dict.fromkeys(part.strip() for name in names for part in name.split(","))
    for name in asked:
        if name not in FORMATS:
            hint = suggest(name, FORMATS)
            raise UserError(f"there is no format {name!r}; there are {', '.join(FORMATS)}.{hint}")
    return [form for form in FORMATS if form in asked]


@dataclass(frozen=True)
class RunResult:
    """What a run wrote.

    Attributes:
        results: files of results, by their form.
        images: table of image ids, names and sizes, and of the categories; a COCO file without annotations.
        pictures: annotated pictures, in input order.
        image_count: pictures that were read.
        detections: how many were written.
        full: pictures that filled the graph's table of rows, so that there may be more in them.
        skipped: one sentence for each picture that could not be read.
        resumed: pictures that an earlier part of the run had done.
        timing: where the time of this part went.
    """

    folder: Path
    results: dict[Format, Path]
    images: Path
    pictures: tuple[Path, ...]
    image_count: int
    detections: int
    full: int
    skipped: tuple[str, ...]
    resumed: int
    timing: Timing


def run_images(
    detector: Detector,
    inputs: Sequence[InputImage],
    folder: Path,
    *,
    lowest: NDArray[np.float32] | None = None,
    draw_score: float | None = None,
    batch: int = 1,
    tiling: Tiling | None = None,
    formats: Sequence[Format] = ("coco",),
    pictures: bool = True,
    skip_bad: bool = False,
    font: Path | None = None,
    observer: Observer = NOBODY,
    on_progress: Progress = silent,
    on_remark: Remark = unheard,
) -> RunResult:
    """Detect objects in ``inputs`` and write ``folder``, which must be new or empty. It appears when all is done.

    What is stopped before goes on when it is run again alike (see :mod:`detheads.deploy.unfinished`).

    Args:
        lowest: lowest score of a detection of each class, ``[K]``, of which the graph's own floor is the least (see
            :func:`detheads.deploy.selection.lowest_scores`).
        draw_score: lowest score of a box on a picture; without it each class's best score (see
            :attr:`Detector.draw_scores`). Never lower than ``lowest``.
        batch: pictures in one run of the graph; with ``tiling``, tiles.
        tiling: how pictures are cut into tiles; each is one input when None.
        formats: files of results.
        pictures: write annotated pictures too.
        skip_bad: go on after a picture that cannot be read; its sentence is in the result.
        font: a font file for the names, before the package's own.
        observer: sees every picture that is run, and all that was found in it.
        on_remark: called with one sentence for each kind of thing that was left out or is unusual.

    Raises:
        UserError: when a picture cannot be read (without ``skip_bad``), when none can, when ``folder`` is in use, holds
            another unfinished run, or when an annotated picture cannot be written in it.
    """
    if not inputs:
        raise UserError("there is no picture to run.")
    begin = time.perf_counter()
    atomic.try_output(folder, folder=True)
    lowest = np.zeros(len(detector.classes), np.float32) if lowest is None else lowest
    options = {
        "score": {name: _json(score) for name, score in zip(detector.class_names, lowest.tolist(), strict=True)},
        "draw_score": draw_score,
        "batch": batch,
        "tile": None if tiling is None else [tiling.tile, tiling.overlap, tiling.whole],
        "pictures": pictures,
        "font": None if font is None else str(font.absolute()),
    }
    timing, remarks = Timing(), _Remarks()
    with unfinished(folder, _described(detector) | {"options": options}, on_remark) as journal:
        annotated = None
        if pictures:
            place = journal.results / PICTURES_NAME
            annotated = AnnotatedPictures(place, detector, inputs, lowest, draw_score, font, on_remark)
        pipeline = Pipeline(detector, lambda found: found.above(lowest), batch, tiling, annotated, timing, observer)
        journal.find_done(
            inputs, pipeline.together, lambda source, left_out: _still_good(source, left_out, skip_bad, annotated)
        )
        resumed = journal.done
        if resumed:
            on_remark(f"{resumed} of {len(inputs)} pictures were done before; going on behind them")
        if annotated is not None:
            annotated.prepare(resumed)
        on_progress("detecting", resumed, len(inputs))
        with journal.writing() as add:
            for done in pipeline.run(inputs[resumed:]):
                if isinstance(done.result, str) and not skip_bad:
                    raise UserError(done.result)
                remarks.add(done.source.path, done.remarks)
                add(done.entry, not isinstance(done.result, str))
                on_progress("detecting", journal.done, len(inputs))
        result = _published(journal, detector, inputs, formats, annotated)
    timing.total = time.perf_counter() - begin
    for sentence in remarks.sentences():
        on_remark(sentence)
    return RunResult(
        folder=folder,
        results={form: folder / NAMES[form] for form in formats},
        images=folder / IMAGES_NAME,
        pictures=tuple(folder / PICTURES_NAME / name for name in result.drawn),
        image_count=result.images,
        detections=result.detections,
        full=result.full,
        skipped=tuple(result.skipped),
        resumed=resumed,
        timing=timing,
    )


@dataclass
class _Published:
    """What the files of a run hold."""

    images: int = 0
    detections: int = 0
    full: int = 0
    skipped: list[str] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)


def _published(
    journal: Journal,
    detector: Detector,
    inputs: Sequence[InputImage],
    formats: Sequence[Format],
    annotated: AnnotatedPictures | None,
) -> _Published:
    """Write the files of results from the journal."""
    category_ids = [entry.id for entry in detector.classes]
    published, table = _Published(), list[dict[str, Any]]()
    with ExitStack() as stack:
        opened = [open_writer(form, journal.results / NAMES[form], category_ids) for form in formats]
        for writer in opened:
            stack.callback(writer.close)
        for source, entry in zip(inputs, journal.entries(detector.class_names), strict=True):
            if isinstance(entry, str):
                published.skipped.append(entry)
                if annotated is not None:
                    annotated.leave_out(source.id)
                continue
            for writer in opened:
                writer.write(entry)
            table.append({"id": entry.id, "file_name": entry.name, "width": entry.width, "height": entry.height})
            published.detections += len(entry.found)
            published.full += entry.found.full
            if annotated is not None:
                published.drawn.append(annotated.name(source.id))
    if not table:
        raise UserError(f"none of the {len(inputs)} pictures could be read; the first: {published.skipped[0]}")
    categories = [{"id": entry.id, "name": entry.name} for entry in detector.classes]
    tables = {"images": table, "categories": categories, "skipped": published.skipped}
    atomic.write_json(journal.results / IMAGES_NAME, tables)
    published.images = len(table)
    return published


def _still_good(source: InputImage, left_out: bool, skip_bad: bool, annotated: AnnotatedPictures | None) -> bool:
    """Whether what an earlier part of a run did of a picture is still there."""
    if left_out:
        return skip_bad
    if annotated is None:
        return True
    path = annotated.folder / annotated.name(source.id)
    return path.is_file() and path.stat().st_size > 0


def _described(detector: Detector) -> dict[str, Any]:
    """What the results of a picture depend on besides its options."""
    manifest = detector.manifest
    bundle = {
        "graph": manifest.onnx.sha256,
        "heads": [head.name for head in detector.heads],
        "best_scores": [head.best_scores for head in detector.heads],
    }
    return {"bundle": bundle, "runtime": detector.session.runtime, "version": __version__}


def _json(score: float) -> float | str:
    return "left out" if math.isinf(score) else score


@dataclass
class _Remarks:
    """Sentences about pictures, counted by kind: those that differ only in numbers and the picture's name are one."""

    kinds: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, path: Path, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            kind = re.sub(r"\d+", "#", sentence.replace(str(path), "", 1))
            first, count = self.kinds.get(kind, (sentence.rstrip("."), 0))
            self.kinds[kind] = first, count + 1

    def sentences(self) -> list[str]:
        return [
            first + (f" ({count} pictures of this kind)" if count > 1 else "") for first, count in self.kinds.values()
        ]
