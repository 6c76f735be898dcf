"""Run a head over a feature cache and collect COCO results, or their statistics."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from detheads.cache.reader import FeatureCache
from detheads.evaluation.coco import Evaluator, Statistics, evaluate
from detheads.foundation.ahead import map_ahead
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds
from detheads.foundation.progress import Progress, silent
from detheads.headkit.contract import Head, HeadOutput
from detheads.ops.nms import Candidates, suppress, suppress_softly
from detheads.ops.scores import detection_scores
from detheads.ops.threads import compute_alone

Suppression = Callable[[Candidates, Thresholds], tuple[Tensor, Tensor, Tensor]]

READERS, READ_AHEAD = 2, 3
"""Threads and batches."""
SUPPRESSING = 4
"""Batches at most: each holds all boxes and scores of the head, 40 MB for 8 images of 768 px and 80 classes."""


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

    The head is used as it is: float32, on its device, in evaluation mode. While it works on a batch, the next ones are
    read and those before are suppressed, by threads.

    Raises:
        UserError: when features or the head's numbers for an image are not finite.
    """
    thresholds = thresholds or default_thresholds(head)
    device = next(head.parameters()).device

    def read(indices: range) -> tuple[range, dict[str, Tensor]]:
        if device.type == "cpu":
            return indices, cache.features(indices)
        return indices, cache.stored(indices, pin=device.type == "cuda").to(device).features()

    def run() -> Iterator[tuple[range, HeadOutput]]:
        batches = [range(start, min(start + batch_size, len(cache))) for start in range(0, len(cache), batch_size)]
        for indices, features in map_ahead(read, batches, ahead=READ_AHEAD, threads=READERS, start=compute_alone):
            yield indices, head(features)

    def detect(ran: tuple[range, HeadOutput]) -> tuple[range, list[dict[str, Any]]]:
        return ran[0], _detections(*ran, cache, thresholds, suppress_softly if use_soft_nms else suppress)

    results: list[dict[str, Any]] = []
    was_training = head.training
    head.eval()
    try:
        threads = min(available_cores(), SUPPRESSING)
        for indices, found in map_ahead(detect, run(), ahead=threads, threads=threads, start=compute_alone):
            results += found
            on_progress("evaluation", indices[-1] + 1, len(cache))
    finally:
        head.train(was_training)
    return results


@torch.inference_mode()  # which holds for one thread only
def _detections(
    indices: Sequence[int], output: HeadOutput, cache: FeatureCache, thresholds: Thresholds, suppression: Suppression
) -> list[dict[str, Any]]:
    """COCO results of one batch."""
    spec, categories = cache.feature_spec, [category.id for category in cache.dataset.categories]
    scores = detection_scores(output.logits, output.quality)  # [B, N, K]
    # The sum of scores, none of which exceeds 1, is NaN where one is; that takes a tenth of looking at each.
    bad = scores.sum(dim=(1, 2)).isnan() | output.boxes.flatten(1).isnan().any(dim=1)
    candidates = Candidates.of(output.boxes, scores, thresholds, size=(spec.height, spec.width)).cpu()
    for row in bad.nonzero()[:1]:
        cache.features(indices)  # refuses features that are not finite, which on a GPU nobody has looked at
        raise UserError(
            f"the head gives numbers that are not finite for {cache.dataset.images[indices[int(row)]].file_name} of "
            f"{cache.folder}, whose features are finite: its weights are damaged or diverged; train it again."
        )
    results: list[dict[str, Any]] = []
    for index, pairs in zip(indices, candidates, strict=True):
        boxes, values, labels = suppression(pairs, thresholds)
        original = cache.letterbox(index).to_original(boxes.numpy())
        image_id = cache.dataset.images[index].id
        results += to_coco_results(image_id, original, values.numpy(), labels.numpy(), categories)
    return results


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
