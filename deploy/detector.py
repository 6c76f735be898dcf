"""Pictures in, boxes in the pictures' own pixels out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.detections import Detections
from detheads.deploy.pictures import Channels, Picture, as_rgb, each, is_one
from detheads.deploy.session import AUTO, CPU, BundleSession, Rows
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import PAD_VALUE, Letterbox, has_area, letterbox_image, sides
from detheads.foundation.manifest import BundledHead, BundleManifest, ClassEntry

BATCH = 8
"""Pictures in one run of the graph, where the caller does not say; memory grows with it, speed on a CPU hardly."""

DRAW_SCORE = 0.3
"""Lowest score that is shown, of classes whose best score was never measured."""

Prepared = tuple[NDArray[np.uint8], Letterbox]
"""A picture as the graph takes it, uint8 ``[height, width, 3]``, and the way back into its own pixels."""

__all__ = ["BATCH", "DRAW_SCORE", "Detections", "Detector", "Prepared", "all_classes", "stacked"]

_Item = TypeVar("_Item")


class Detector:
    """A bundle as a function on pictures.

    Example::

        detector = Detector.load("model.detheads")  # the fastest that this machine has; Detector("...") is on its CPU
        print(detector.choice)
        found = detector("street.jpg")
        for frame_found in detector(frames, channels="BGR"):  # arrays as OpenCV gives them
            print(frame_found.names, frame_found.scores, frame_found.boxes)

    A detector may be pickled and sent to another process, which opens the bundle again; threads may share one.

    Args:
        bundle: folder ``name.detheads/``.
        backend: what runs it (see :class:`BundleSession`); never replaced by another one.
        threads: CPU threads of one run; the library's own choice when None, within what this process may use.
        head: whose detections are given, in a bundle of several heads; those of all when None.

    Attributes:
        backend: the name under which it runs.
        choice: why this backend, as a sentence; empty where it was named.
        classes: of these heads, one list after the other. Where two heads give one id to different classes, all are
            numbered anew from 1.

    Raises:
        UserError: when the bundle cannot be used (see :class:`BundleSession`).
    """

    def __init__(
        self, bundle: str | Path, *, backend: str = CPU, threads: int | None = None, head: str | None = None
    ) -> None:
        self._opened: tuple[Path, str, int | None, str | None] = (Path(bundle).absolute(), backend, threads, head)
        self.backend, self.choice = backend, ""
        self.session = BundleSession(Path(bundle), backend=backend, threads=threads)
        self.heads = self.manifest.heads if head is None else [self.manifest.head_named(head)]
        self.classes = all_classes(self.heads)
        self.class_names = tuple(entry.name for entry in self.classes)

    @classmethod
    def load(
        cls, bundle: str | Path, *, backend: str = AUTO, threads: int | None = None, head: str | None = None
    ) -> "Detector":
        """A detector that is warm: its first picture takes no longer than others.

        Args:
            backend: as for the class, or ``auto``: what this machine has is measured, and the fastest that finds what
                the bundle's probes say is taken (see :func:`detheads.deploy.auto.choose`); ``choice`` then says which
                one, with the figures.
            threads: as for the class.
            head: as for the class.

        Raises:
            UserError: when the bundle cannot be used, or nothing here runs it.
        """
        if backend == AUTO:
            from detheads.deploy.auto import choose

            return choose(cls, Path(bundle), threads=threads, head=head)
        detector = cls(bundle, backend=backend, threads=threads, head=head)
        detector.warm_up()
        return detector

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), *self._opened, self.manifest.onnx.sha256)

    def __repr__(self) -> str:
        size = sides(self.manifest.input.height, self.manifest.input.width)
        return f"<Detector {self.manifest.name}: {len(self.class_names)} classes, {size} px, {self.session.runtime}>"

    @property
    def draw_scores(self) -> NDArray[np.float64]:
        """The score from which on each class is shown, ``[K]``: its best one in the bundle, else :data:`DRAW_SCORE`.

        ``found.above(detector.draw_scores)`` is what drawing shows.
        """
        return np.array(
            [(head.best_scores or {}).get(entry.name, DRAW_SCORE) for head in self.heads for entry in head.classes]
        )

    @property
    def manifest(self) -> BundleManifest:
        return self.session.manifest

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a path can be iterated over, too
        self, pictures: Picture, *, channels: Channels = ..., batch: int = ...
    ) -> Detections: ...

    @overload
    def __call__(
        self, pictures: Iterable[Picture], *, channels: Channels = ..., batch: int = ...
    ) -> list[Detections]: ...

    def __call__(
        self, pictures: Picture | Iterable[Picture], *, channels: Channels = "RGB", batch: int = BATCH
    ) -> Detections | list[Detections]:
        """Detect in one picture, or in each picture of a list or of any other iterable.

        Args:
            pictures: PIL images of any mode, uint8 arrays, paths, bytes of files (see :func:`as_rgb`).
            channels: order of the colours in arrays: ``"RGB"``, or ``"BGR"`` as OpenCV reads them.
            batch: pictures in one run of the graph; no more of them are decoded at once.

        Returns:
            One :class:`Detections` for one picture, else a list of them in the same order.

        Raises:
            UserError: when a picture is of a type, shape or range that is not meant, or cannot be decoded.
        """
        if channels not in {"RGB", "BGR"}:
            raise UserError(f"channels are 'RGB' or 'BGR', not {channels!r}.")
        if batch < 1:
            raise UserError(f"a batch has at least one picture, not {batch}.")
        if is_one(pictures):
            return self.run([self.prepare(as_rgb(pictures, channels))])[0]  # type: ignore[arg-type]
        found: list[Detections] = []
        prepared = (self.prepare(as_rgb(picture, channels)) for picture in each(pictures))
        for chunk in _chunks(prepared, batch):
            found += self.run(chunk)
        return found

    def warm_up(self, batch: int = 1) -> None:
        """Run that many grey pictures as one batch, after which the library has its memory and its kernels at hand, and
        Pillow what it loads for its first resize (20 ms)."""
        grey = Image.new("RGB", (640, 480), (PAD_VALUE,) * 3)
        self.run([self.prepare(grey)] * batch)

    def detect(self, images: Sequence[Image.Image], batch: int | None = None) -> list[Detections]:
        """Run images as batches of ``batch``, by default all as one; the results come in the same order."""
        return self(images, batch=batch or max(1, len(images)))

    def prepare(self, image: Image.Image) -> Prepared:
        """Letterbox an RGB image of any size."""
        return letterbox_image(image, self.manifest.input.width, self.manifest.input.height)

    def run(self, prepared: Sequence[Prepared]) -> list[Detections]:
        """Run prepared pictures as one batch; the results come in the same order."""
        if not prepared:
            return []
        rows = self.session.run(stacked(prepared))
        return [self.found_in(rows, image, letterbox) for image, (_, letterbox) in enumerate(prepared)]

    def found_in(self, rows: Mapping[str, Rows], image: int, letterbox: Letterbox) -> Detections:
        """The detections of one picture of a batch that the session ran: ``rows`` of each head, its place in them."""
        found = []
        before = 0  # classes of the heads before
        for head in self.heads:
            boxes, scores, labels = (array[image] for array in rows[head.name])
            original = letterbox.to_original(boxes)
            used = scores > 0
            kept = used & has_area(original)
            found.append((original[kept], scores[kept], labels[kept] + np.int32(before), bool(used.all())))
            before += len(head.classes)
        boxes, scores, labels = (np.concatenate(arrays) for arrays in list(zip(*found, strict=True))[:3])
        order = np.argsort(-scores, kind="stable")
        boxes, scores, labels = boxes[order], scores[order], labels[order]
        names = tuple(self.class_names[label] for label in labels.tolist())
        return Detections(boxes, scores, labels, names, any(full for *_, full in found))


def stacked(prepared: Sequence[Prepared]) -> NDArray[np.uint8]:
    """Prepared pictures as the graph's batch ``[B, 3, height, width]``, each moved once: seven times as fast as a stack
    that is transposed, at 8 pictures of 448 px."""
    batch = np.empty((len(prepared), 3, *prepared[0][0].shape[:2]), np.uint8)
    for place, (array, _) in zip(batch, prepared, strict=True):
        place[:] = array.transpose(2, 0, 1)
    return batch


def all_classes(heads: Sequence[BundledHead]) -> list[ClassEntry]:
    """The classes of these heads, one after the other; with new ids where one id stands for two names."""
    classes = [entry for head in heads for entry in head.classes]
    if len({entry.id for entry in classes}) < len({(entry.id, entry.name) for entry in classes}):
        return [ClassEntry(id=number, name=entry.name) for number, entry in enumerate(classes, start=1)]
    return classes


def _chunks(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _reopen(
    kind: type[Detector], bundle: Path, backend: str, threads: int | None, head: str | None, sha256: str
) -> Detector:
    detector = kind(bundle, backend=backend, threads=threads, head=head)
    if detector.manifest.onnx.sha256 != sha256:
        raise UserError(f"{bundle} is another bundle than the detector was made from; make the detector anew.")
    return detector
