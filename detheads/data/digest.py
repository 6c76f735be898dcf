"""The identity of a dataset."""

import hashlib
import json

from detheads.data.dataset import Dataset


def dataset_sha256(dataset: Dataset) -> str:
    """Digest of a dataset's images, boxes and classes as a COCO object; equals a feature cache's annotation digest."""
    text = json.dumps(dataset.coco_json(), ensure_ascii=False, allow_nan=False) + "\n"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
