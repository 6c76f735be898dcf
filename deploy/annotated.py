"""Annotated pictures of a run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detector import Detections, Detector
from detheads.deploy.inputs import InputImage
from detheads.deploy.outputs import picture_names, try_pictures
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.lettering import Lettering
from detheads.foundation.progress import Remark


class AnnotatedPictures:
    """Writes the pictures of a run with their boxes.

    Args:
        folder: where they go.
        inputs: all pictures of the run.
        lowest: score from which on a detection of each class is wanted, ``[K]``.
        draw_score: score from which on one is drawn; each class's own when None (see :attr:`Detector.draw_scores`).
        font: a font file for the names, before the package's own.
    """

    def __init__(
        self,
        folder: Path,
        detector: Detector,
        inputs: Sequence[InputImage],
        lowest: NDArray[np.float32],
        draw_score: float | None,
        font: Path | None,
        on_remark: Remark,
    ) -> None:
        self.folder = folder
        self._sources = inputs
        names = picture_names(source.name for source in inputs)
        self._names = {source.id: name for source, name in zip(inputs, names, strict=True)}
        drawn = detector.draw_scores if draw_score is None else np.full(len(detector.class_names), draw_score)
        self._least = np.maximum(drawn, lowest)
        self._lettering = Lettering(font)
        if sentence := self._lettering.missing(detector.class_names):
            on_remark(sentence)

    def name(self, source_id: int) -> str:
        """Path of a picture below the folder."""
        return self._names[source_id]

    def prepare(self, done: int) -> None:
        """Try every name before the work; of an earlier part of the run the first ``done`` pictures are kept.

        Raises:
            UserError: when a picture cannot be written.
        """
        kept = {self.folder / self._names[source.id] for source in self._sources[:done]}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):  # it holds something that is kept
                    path.rmdir()
            elif path not in kept:
                path.unlink()
        try_pictures(self.folder, {self._names[source.id]: str(source.path) for source in self._sources[done:]})

    def write(self, source_id: int, image: Image.Image, found: Detections) -> None:
        """Draw what is to be seen of ``found`` and write the picture."""
        shown = found.above(self._least)
        picture = draw_boxes(image, shown.boxes, shown.names, shown.labels, shown.scores, lettering=self._lettering)
        picture.save(self.folder / self._names[source_id], quality=92)

    def leave_out(self, source_id: int) -> None:
        """Remove the place of a picture that could not be read."""
        (self.folder / self._names[source_id]).unlink(missing_ok=True)
