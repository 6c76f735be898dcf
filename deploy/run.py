"""Run a bundle over pictures: COCO results and annotated pictures in a new folder."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detheads.deploy.detector import Detections, Detector, Prepared
from detheads.deploy.inputs import IMAGES_NAME, PICTURES_NAME, RESULTS_NAME, InputImage
from detheads.deploy.outputs import json_list, picture_names, try_pictures
from detheads.foundation import atomic
from detheads.foundation.claims import new_folder
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.errors import UserError
from detheads.foundation.lettering import Lettering
from detheads.foundation.progress import Progress, Remark, silent, unheard


@dataclass
class Timing:
    """Where the time of a run went, in seconds."""

    decode: float = 0.0
    """Reading, decoding and resizing."""
    inference: float = 0.0
    draw: float = 0.0
    """Drawing and encoding annotated pictures."""
    total: float = 0.0

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add what the block takes to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.perf_counter() - start)


@dataclass(frozen=True)
class RunResult:
    """What a run wrote.

    Attributes:
        results: COCO results file (a list).
        images: table of image ids, names and sizes, and of the categories; a COCO file without annotations.
        pictures: annotated pictures, in input order.
        detections: number of entries in ``results``.
        full: pictures that filled the graph's table of rows, so that there may be more in them.
        skipped: one sentence for each picture that could not be read.
        timing: where the time went.
    """

    folder: Path
    results: Path
    images: Path
    pictures: tuple[Path, ...]
    image_count: int
    detections: int
    full: int
    skipped: tuple[str, ...]
    timing: Timing


def run_images(
    detector: Detector,
    inputs: Sequence[InputImage],
    folder: Path,
    *,
    score: float = 0.0,
    draw_score: float | None = None,
    batch: int = 1,
    pictures: bool = True,
    skip_bad: bool = False,
    font: Path | None = None,
    on_progress: Progress = silent,
    on_remark: Remark = unheard,
) -> RunResult:
    """Detect objects in ``inputs`` and write ``folder``, which must be new or empty. It appears when all is done.

    Args:
        score: lowest score of a detection in the results file; the graph's own floor is the least.
        draw_score: lowest score of a box on a picture; without it each class's best score (see
            :attr:`Detector.draw_scores`). Never lower than ``score``.
        batch: pictures in one run of the graph.
        pictures: write annotated pictures too.
        skip_bad: go on after a picture that cannot be read; its sentence is in the result.
        font: a font file for the names, before the package's own.
        on_remark: called with one sentence for each kind of thing that was left out or is unusual.

    Raises:
        UserError: when a picture cannot be read (without ``skip_bad``), when none can, when ``folder`` is in use, or
            when an annotated picture cannot be written in it.
    """
    if not inputs:
        raise UserError("there is no picture to run.")
    begin = time.perf_counter()
    atomic.try_output(folder, folder=True)
    writer = _Pictures(detector, inputs, score, draw_score, font, on_remark) if pictures else None
    category_ids = [entry.id for entry in detector.classes]
    table: list[dict[str, Any]] = []
    timing, skipped, remarks = Timing(), list[str](), _Remarks()
    detections = full = 0
    with new_folder(folder) as partial:
        if writer is not None:
            try_pictures(partial / PICTURES_NAME, {writer.names[source.id]: str(source.path) for source in inputs})
        with json_list(partial / RESULTS_NAME) as write:
            ready = _prepared(detector, inputs, writer is not None, timing, skipped if skip_bad else None, remarks)
            while chunk := list(islice(ready, batch)):
                with timing.of("inference"):
                    found = detector.run([entry.prepared for entry in chunk])
                for entry, every in zip(chunk, found, strict=True):
                    kept = every.above(score)
                    write(to_coco_results(entry.source.id, kept.boxes, kept.scores, kept.labels, category_ids))
                    detections, full = detections + len(kept), full + every.full
                    table.append(entry.row())
                    if writer is not None and entry.image is not None:
                        with timing.of("draw"):
                            writer.write(entry.source, entry.image, every, partial / PICTURES_NAME)
                on_progress("detecting", len(table) + len(skipped), len(inputs))
        if not table:
            raise UserError(f"none of the {len(inputs)} pictures could be read; the first: {skipped[0]}")
        drawn = writer.finish(partial / PICTURES_NAME) if writer is not None else []
        categories = [{"id": entry.id, "name": entry.name} for entry in detector.classes]
        atomic.write_json(partial / IMAGES_NAME, {"images": table, "categories": categories, "skipped": skipped})
    timing.total = time.perf_counter() - begin
    for sentence in remarks.sentences():
        on_remark(sentence)
    paths = tuple(folder / PICTURES_NAME / name for name in drawn)
    return RunResult(
        folder, folder / RESULTS_NAME, folder / IMAGES_NAME, paths, len(table), detections, full, tuple(skipped), timing
    )


@dataclass(frozen=True)
class _Ready:
    """A picture ready for the graph; ``image`` only where it is drawn upon, since it may be large."""

    source: InputImage
    prepared: Prepared
    image: Image.Image | None

    def row(self) -> dict[str, Any]:
        """Its entry in the table of images."""
        letterbox = self.prepared[1]
        size = {"width": letterbox.image_width, "height": letterbox.image_height}
        return {"id": self.source.id, "file_name": self.source.name, **size}


@dataclass
class _Remarks:
    """Sentences about pictures, counted by kind: those that differ only in numbers and the picture's name are one."""

    kinds: dict[str, tuple[str, int]] = field(default_factory=dict)

    def of(self, path: Path) -> Callable[[str], None]:
        def add(sentence: str) -> None:
            kind = re.sub(r"\d+", "#", sentence.replace(str(path), "", 1))
            first, count = self.kinds.get(kind, (sentence.rstrip("."), 0))
            self.kinds[kind] = first, count + 1

        return add

    def sentences(self) -> list[str]:
        return [
            first + (f" ({count} pictures of this kind)" if count > 1 else "") for first, count in self.kinds.values()
        ]


def _prepared(
    detector: Detector,
    inputs: Sequence[InputImage],
    keep: bool,
    timing: Timing,
    skipped: list[str] | None,
    remarks: _Remarks,
) -> Iterator[_Ready]:
    """Pictures ready for the graph; unreadable ones go to ``skipped`` or, without that list, stop the run."""
    for source in inputs:
        try:
            with timing.of("decode"):
                image = source.load(remarks.of(source.path))
                ready = _Ready(source, detector.prepare(image), image if keep else None)
        except UserError as error:
            if skipped is None:
                raise
            skipped.append(str(error))
        else:
            del image  # of which only what is kept lives on while others are decoded
            yield ready


class _Pictures:
    """Writes annotated pictures."""

    def __init__(
        self,
        detector: Detector,
        inputs: Sequence[InputImage],
        score: float,
        draw_score: float | None,
        font: Path | None,
        on_remark: Remark,
    ) -> None:
        names = picture_names(source.name for source in inputs)
        self.names = {source.id: name for source, name in zip(inputs, names, strict=True)}
        least = detector.draw_scores if draw_score is None else np.full(len(detector.class_names), draw_score)
        self._least = least.clip(min=score)
        self._lettering = Lettering(font)
        self._written: list[str] = []
        if sentence := self._lettering.missing(detector.class_names):
            on_remark(sentence)

    def write(self, source: InputImage, image: Image.Image, found: Detections, folder: Path) -> None:
        shown = found.above(self._least)
        picture = draw_boxes(image, shown.boxes, shown.names, shown.labels, shown.scores, lettering=self._lettering)
        picture.save(folder / self.names[source.id], quality=92)
        self._written.append(self.names[source.id])

    def finish(self, folder: Path) -> list[str]:
        """Remove what was tried for pictures that were left out; the names of the others."""
        written = set(self._written)
        for name in self.names.values():
            if name not in written:
                (folder / name).unlink()
        return self._written
