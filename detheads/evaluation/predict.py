"""Run a head over a feature cache and collect COCO results, or their statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Evaluator, Statistics, evaluate
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds
from detheads.foundation.progress import Progress, silent
from detheads.headkit.contract import Head
from detheads.ops.nms import hard_nms, soft_nms
from detheads.ops.scores import detection_scores


def default_thresholds(head: Head) -> Thresholds:
    """The usual constants; a head that needs no suppression gets none (no IoU exceeds 1)."""
    return Thresholds(nms_iou=1.0) if head.nms_free else Thresholds()


@torch.inference_mode()
def predict_cache(
    head: Head,
    cache: FeatureCache,
    *,
    thresholds: Thresholds | None = None,
    use_soft_nms: bool = False,
    batch_size: int = 8,
    on_progress: Progress = silent,
) -> list[dict[str, Any]]:
    """COCO results (xywh, original pixels, the dataset's own ids) of every image of a cache.

    The head is used as it is: float32, on its device, in evaluation mode.

    Raises:
        UserError: when features or the head's numbers for an image are not finite.
    """
    thresholds = thresholds or default_thresholds(head)
    select = soft_nms if use_soft_nms else hard_nms
    size = cache.feature_spec.height, cache.feature_spec.width
    device = next(head.parameters()).device
    category_ids = [category.id for category in cache.dataset.categories]
    results: list[dict[str, Any]] = []
    was_training = head.training
    head.eval()
    for start in range(0, len(cache), batch_size):
        indices = range(start, min(start + batch_size, len(cache)))
        features = cache.features(indices)
        _require_finite(cache, features, indices)
        output = head({name: values.to(device) for name, values in features.items()})
        scores = detection_scores(output.logits, output.quality).cpu()  # [B, N, K]
        for row, index in enumerate(indices):
            if scores[row].isnan().any() or output.boxes[row].isnan().any():
                raise UserError(
                    f"the head gives numbers that are not finite for {cache.dataset.images[index].file_name} of "
                    f"{cache.folder}, whose features are finite: its weights are damaged or diverged; train it again."
                )
            boxes, values, labels = select(output.boxes[row].cpu(), scores[row], thresholds, size=size)
            original = cache.letterbox(index).to_original(boxes.numpy())
            image_id = cache.dataset.images[index].id
            results += to_coco_results(image_id, original, values.numpy(), labels.numpy(), category_ids)
        on_progress("evaluation", indices[-1] + 1, len(cache))
    head.train(was_training)
    return results


def _require_finite(cache: FeatureCache, features: Mapping[str, Tensor], indices: Sequence[int]) -> None:
    """Refuse features that would give no detection, or wrong ones, without a word."""
    for name, values in features.items():
        bad = (~values.isfinite().flatten(1).all(dim=1)).nonzero()
        if len(bad):
            image = cache.dataset.images[indices[int(bad[0])]].file_name
            raise UserError(
                f"{cache.folder} holds features of {image} (layer {name}) that are not finite; "
                "build the cache again, in bf16 or int8 if they exceed fp16."
            )


def evaluate_cache(
    head: Head,
    cache: FeatureCache,
    *,
    use_soft_nms: bool = False,
    evaluator: Evaluator = "pycocotools",
    batch_size: int = 8,
    on_progress: Progress = silent,
) -> Statistics:
    """The COCO statistics of a head on a cache, at the thresholds of the deployed graph.

    Raises:
        UserError: when no object of the cache counts, so that every statistic would be undefined.
    """
    cache.require_objects("evaluate on")
    results = predict_cache(head, cache, use_soft_nms=use_soft_nms, batch_size=batch_size, on_progress=on_progress)
    return evaluate(cache.dataset.coco_json(), results, evaluator)
