"""Checkpoints: one safetensors file each, tensors and a JSON description together, so that they cannot part.

``best.safetensors`` holds the averaged weights of the best evaluation. ``last.safetensors`` holds what an exact
resume needs: live weights, averaged weights and the optimiser's moments. No pickle anywhere.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from detheads.backbones.features import FeatureLayer, FeatureSpec
from detheads.cache.reader import FeatureCache
from detheads.data.dataset import Category
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.headkit import registry
from detheads.headkit.contract import Head

Which = Literal["best", "last"]

_METADATA_KEY = "detheads"
_EMA_PREFIX = "ema."


@dataclass(frozen=True)
class Checkpoint:
    """A trained head and where it comes from.

    Attributes:
        head_name, head_config: what ``registry.build`` needs.
        feature_spec: the features it was built for.
        categories: its classes with the dataset's own ids; position = label.
        backbone_name, backbone_timm_name, backbone_licence, backbone_weights_sha256: the encoder behind the cache
            (the digest is None for random weights).
        backbone_file_sha256: digest of the user's file that defines the encoder; None for a known one.
        cache_sha256, dataset_sha256: digests of the training cache's manifest and annotations.
        metrics: COCO statistics on the validation cache, as trained; empty before the first evaluation.
        progress: epoch and step of the training run.
        tensors: the head's state dict.
        checkpoint_sha256: digest of the file it was read from; empty before it is written.
    """

    head_name: str
    head_config: dict[str, Any]
    feature_spec: FeatureSpec
    categories: tuple[Category, ...]
    backbone_name: str
    backbone_timm_name: str
    backbone_licence: str
    backbone_weights_sha256: str | None
    cache_sha256: str
    dataset_sha256: str
    backbone_file_sha256: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    checkpoint_sha256: str = ""


def untrained(head_name: str, head_config: Mapping[str, Any], cache: FeatureCache) -> Checkpoint:
    """What a head that will learn from a cache is, before it has weights.

    Args:
        head_config: all its options.
    """
    settings = cache.manifest.settings
    return Checkpoint(
        head_name=head_name,
        head_config=dict(head_config),
        feature_spec=cache.feature_spec,
        categories=cache.dataset.categories,
        backbone_name=settings.backbone,
        backbone_timm_name=settings.timm_name,
        backbone_licence=settings.licence,
        backbone_weights_sha256=settings.weights_sha256,
        cache_sha256=cache.sha256,
        dataset_sha256=cache.manifest.annotations_sha256,
        backbone_file_sha256=settings.backbone_file_sha256,
    )


def checkpoint_path(run: Path, which: Which) -> Path:
    return run / f"{which}.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint atomically; ``extra`` are further tensors to keep (see :func:`load_tensors`)."""
    metadata = {_METADATA_KEY: json.dumps(describe(checkpoint), allow_nan=False, ensure_ascii=False)}
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    tensors |= {name: value.detach().cpu().contiguous() for name, value in (extra or {}).items()}
    atomic.write_bytes(path, serialise(tensors, metadata))


def load_checkpoint(run: Path, which: Which = "best") -> Checkpoint:
    """Read the best or the last weights of a run; of the last ones, the averaged weights.

    Raises:
        UserError: when the run has none, or the file is damaged.
    """
    path = checkpoint_path(run, which)
    description, tensors = _read(path)
    if which == "last":
        tensors = {
            name.removeprefix(_EMA_PREFIX): value for name, value in tensors.items() if name.startswith(_EMA_PREFIX)
        }
    try:
        return replace(from_description(description), tensors=tensors, checkpoint_sha256=atomic.sha256_of(path))
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} was not written by this version of detheads ({error}); train the head again."
        ) from None


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """JSON values of everything but the weights and the file's own digest."""
    description = asdict(replace(checkpoint, tensors={}))
    for key in ("tensors", "checkpoint_sha256"):
        description.pop(key)
    return description


def from_description(description: Mapping[str, Any]) -> Checkpoint:
    """The inverse of :func:`describe`.

    Raises:
        KeyError, TypeError: when the description is that of another version.
    """
    spec = description["feature_spec"]
    known = {
        "feature_spec": FeatureSpec(
            tuple(FeatureLayer(**layer) for layer in spec["layers"]), tuple(spec["main"]), spec["height"], spec["width"]
        ),
        "categories": tuple(Category(**category) for category in description["categories"]),
    }
    return Checkpoint(**(dict(description) | known))


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All of a checkpoint file: its description and every tensor by name.

    Raises:
        UserError: when the file is missing or damaged.
    """
    return _read(path)


def build_head(checkpoint: Checkpoint) -> Head:
    """The trained head, in evaluation mode, on the CPU.

    Raises:
        UserError: when the weights do not fit the head they name.
    """
    head = registry.build(
        checkpoint.head_name, checkpoint.feature_spec, len(checkpoint.categories), checkpoint.head_config
    )
    try:
        head.load_state_dict(checkpoint.tensors, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"the checkpoint's weights do not fit head {checkpoint.head_name}: {first}") from None
    return head.eval()


def matching_cache(checkpoint: Checkpoint, cache: FeatureCache) -> FeatureCache:
    """The cache as the head sees it: only the head's classes, where it holds further ones.

    Raises:
        UserError: naming what differs, when features or classes are not those the head was trained on.
    """
    if set(checkpoint.categories) < set(cache.dataset.categories):
        cache = cache.restricted(checkpoint.categories)
    settings = cache.manifest.settings
    trained_spec, spec = checkpoint.feature_spec, cache.feature_spec
    pairs = {
        "backbone": (checkpoint.backbone_name, settings.backbone),
        "backbone weights": (checkpoint.backbone_weights_sha256, settings.weights_sha256),
        "backbone file": (checkpoint.backbone_file_sha256, settings.backbone_file_sha256),
        "input size": (sides(trained_spec.height, trained_spec.width), sides(spec.height, spec.width)),
        "feature layers": (trained_spec.names, spec.names),
        "features": (trained_spec, spec),
        "number of classes": (len(checkpoint.categories), len(cache.dataset.categories)),
    }
    for what, (trained, found) in pairs.items():
        if trained != found:
            raise UserError(
                f"{cache.folder} differs in its {what} ({found}) from the cache the head was trained on ({trained}); "
                "give a cache of the same backbone, size and classes."
            )
    for learned, given in zip(checkpoint.categories, cache.dataset.categories, strict=True):
        if learned != given:
            raise UserError(
                f"{cache.folder} has the class {given.name!r} (id {given.id}) where the head was trained on "
                f"{learned.name!r} (id {learned.id}); give a cache of the same classes."
            )
    return cache


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; train a head with 'detheads train ... -o {path.parent}' first.")
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})[_METADATA_KEY])
            return description, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} is damaged or not a checkpoint of detheads ({error}); delete it and train again."
        ) from None
