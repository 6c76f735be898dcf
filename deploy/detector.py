"""Pictures in, boxes in the pictures' own pixels out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detheads.deploy.session import CPU, BundleSession
from detheads.foundation.bundle import BundleManifest
from detheads.foundation.geometry import letterbox_image


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first.

    Attributes:
        boxes: ``[n, 4]`` xyxy, pixels of the original image, inside it.
        scores: ``[n]`` in 0..1.
        labels: ``[n]`` positions in the manifest's ``classes``.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]

    def above(self, score: float) -> "Detections":
        """Those with at least this score."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])


class Detector:
    """A bundle as a function on pictures.

    Args:
        bundle: folder ``name.detheads/``.
        provider: ONNX Runtime execution provider; never replaced by another one.
        threads: CPU threads of one run; ONNX Runtime's own choice when None.

    Raises:
        UserError: when the bundle cannot be used (see :class:`BundleSession`).
    """

    def __init__(self, bundle: Path, *, provider: str = CPU, threads: int | None = None) -> None:
        self.session = BundleSession(bundle, provider=provider, threads=threads)

    @property
    def manifest(self) -> BundleManifest:
        return self.session.manifest

    def detect(self, images: Sequence[Image.Image]) -> list[Detections]:
        """Run RGB pictures of any sizes as one batch; the results come in the same order."""
        if not images:
            return []
        spec = self.manifest.input
        arrays, letterboxes = zip(*(letterbox_image(image, spec.width, spec.height) for image in images), strict=True)
        batch = np.ascontiguousarray(np.stack(arrays).transpose(0, 3, 1, 2))  # [B, 3, H, W]
        results = []
        for boxes, scores, labels, letterbox in zip(*self.session.run(batch), letterboxes, strict=True):
            used = scores > 0
            results.append(Detections(letterbox.to_original(boxes[used]), scores[used], labels[used]))
        return results
