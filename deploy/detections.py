"""What is found in one picture, and the forms in which others take it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError


@dataclass(frozen=True)
class Detections:
    """The detections of one image, best first. Boxes without area in the original image are left out.

    Attributes:
        boxes: ``[n, 4]`` xyxy, pixels of the original image, inside it.
        scores: ``[n]`` in 0..1.
        labels: ``[n]`` positions in the detector's ``classes``.
        names: ``[n]`` names of the classes.
        full: the graph's table of rows was filled to the last one, so that there may have been more.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    names: tuple[str, ...] = ()
    full: bool = False

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, kept: NDArray[np.bool_]) -> "Detections":
        """Those that ``kept`` ``[n]`` is true for."""
        names = tuple(name for name, keep in zip(self.names, kept.tolist(), strict=False) if keep)
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept], names, self.full)

    def above(self, score: float | NDArray[np.floating]) -> "Detections":
        """Those with at least this score: one for all, or one for each class, ``[K]``."""
        least = score if isinstance(score, float | int) else np.asarray(score)[self.labels]
        return self.where(self.scores >= least)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: ``{"detections": [{"name", "label", "score", "box": [x1, y1, x2, y2]}], "full"}``, boxes in
        pixels of the original image."""
        rows = zip(self.names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        found = [{"name": name, "label": label, "score": score, "box": box} for name, label, score, box in rows]
        return {"detections": found, "full": self.full}

    def to_coco(self, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
        """As entries of a COCO result file, boxes xywh.

        Args:
            image_id: the dataset's own id.
            category_ids: the id of each class: ``[entry.id for entry in detector.classes]``.
        """
        return to_coco_results(image_id, self.boxes, self.scores, self.labels, category_ids)

    def to_supervision(self) -> Any:
        """As ``supervision.Detections``, names under ``data["class_name"]``.

        Raises:
            UserError: when ``supervision`` is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise UserError(
                f"supervision does not start here ({error}); install it with: pip install supervision."
            ) from None

        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores,
            class_id=self.labels.astype(np.int64),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )
