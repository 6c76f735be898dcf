"""Checkpoints: one sealed safetensors file each, tensors and a JSON description together, so that they cannot part.

``best.safetensors`` holds the averaged weights of the best evaluation. ``last.safetensors`` holds what an exact
resume needs: live weights, averaged weights and the optimiser's moments. No pickle anywhere.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.backbones.text import Encoder
from detheads.cache.reader import FeatureCache
from detheads.data.dataset import Category
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training import pictures
from detheads.training.record import require_recorded
from detheads.training.sealed import read_sealed, write_sealed

Which = Literal["best", "last", "live"]
"""``last`` are the averaged weights at the end, ``live`` those that they are the average of."""

KIND = "detheads"
"""The format's name in the files."""
AVERAGED, LIVE = "ema.", "live."
"""Prefixes of the averaged and the live weights among the tensors of ``last.safetensors``."""
AVERAGES = "ema_count"
"""The tensor that counts the averages; only ``last.safetensors`` has one."""
MOST_CLASSES, LARGEST_SIDE, MOST_CHANNELS = 2**16, 2**16, 2**16
"""Bounds of what a checkpoint may describe, far beyond what anybody trains."""


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
        pictures: those of the training cache (see :mod:`detheads.training.pictures`); empty where they are not known.
        class_embeddings_sha256: of the class embeddings that the head was given; None where it learned its own.
        encoder: what made them, where their file told it.
        validated_on_trained: pictures of the validation cache, by which ``best`` is chosen, that were trained on too.
        metrics: COCO statistics on the validation cache, as trained; empty before the first evaluation.
        progress: epoch and step of the training run.
        tensors: the head's state dict.
        checkpoint_sha256: digest of the file it was read from; empty before it is written.
        vocabulary_sha256: digest of the classes that replaced those of the file (see
            :mod:`detheads.training.vocabulary`); None for its own.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

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
    pictures: str = ""
    class_embeddings_sha256: str | None = None
    encoder: Encoder | None = None
    validated_on_trained: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    checkpoint_sha256: str = ""
    vocabulary_sha256: str | None = None


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
        pictures=pictures.written(image.sha256 for image in cache.manifest.images),
    )


def checkpoint_path(run: Path, which: Which) -> Path:
    return run / f"{'last' if which == 'live' else which}.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint, extra: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint atomically; ``extra`` are further tensors to keep (see :func:`load_tensors`)."""
    write_sealed(path, KIND, describe(checkpoint), {**checkpoint.tensors, **(extra or {})})


def load_checkpoint(run: str | Path, which: Which = "best") -> Checkpoint:
    """Read the best or the last weights of a run, the last ones averaged or as they were trained.

    Raises:
        UserError: when the run has none, the file is damaged, holds weights that are not finite, or is not the one that
            the run finished with.
    """
    path = checkpoint_path(Path(run), which)
    require_recorded(path)
    return load_file(path, LIVE if which == "live" else AVERAGED)


def load_file(path: Path, kind: str = AVERAGED) -> Checkpoint:
    """Read a checkpoint file; of one that holds all that a resume needs, the averaged weights, or those of ``kind``.

    Raises:
        UserError: when it is missing, damaged, or holds weights that are not finite.
    """
    description, tensors = load_tensors(path)
    if AVERAGES in tensors:
        tensors = {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}
    try:
        checkpoint = from_description(description)
    except ValueError as error:
        raise UserError(f"{path} was not written by this version of detheads ({error}); {_cure(path)}.") from None
    require_finite(tensors, path)
    return replace(checkpoint, tensors=tensors, checkpoint_sha256=atomic.sha256_of(path))


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """JSON values of everything but the weights and what is found out when they are read."""
    description = asdict(replace(checkpoint, tensors={}))
    for key in ("tensors", "checkpoint_sha256", "vocabulary_sha256"):
        description.pop(key)
    return description


def from_description(description: Mapping[str, Any]) -> Checkpoint:
    """The inverse of :func:`describe`.

    Raises:
        ValueError: when the description is that of another version, or describes what cannot be.
    """
    try:
        checkpoint = TypeAdapter(Checkpoint).validate_json(json.dumps(dict(description)), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    spec, categories = checkpoint.feature_spec, checkpoint.categories
    sizes = [spec.height, spec.width, *(layer.stride for layer in spec.layers)]
    possible = (
        0 < len(categories) <= MOST_CLASSES
        and len({category.id for category in categories}) == len(categories)
        and all(0 < size <= LARGEST_SIDE for size in sizes)
        and all(0 < layer.channels <= MOST_CHANNELS for layer in spec.layers)
        and len(set(spec.names)) == len(spec.names)
        and spec.main
        and set(spec.main) <= set(spec.names)
    )
    if not possible:
        raise ValueError("its features or classes contradict themselves")
    return checkpoint


def load_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """All of a checkpoint file: its description and every tensor by name.

    Raises:
        UserError: when the file is missing or damaged.
    """
    return read_sealed(path, KIND, _cure(path))


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are NaN or infinite: they would find nothing, without a word.

    Raises:
        UserError: naming the first.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"{path} holds weights that are not finite ({name}); {_cure(path)}.")


def build_head(checkpoint: Checkpoint) -> Head:
    """The trained head, in evaluation mode, on the CPU.

    Raises:
        UserError: when the weights do not fit the head they name.
    """
    name = checkpoint.head_name
    head = registry.build(name, checkpoint.feature_spec, len(checkpoint.categories), checkpoint.head_config)
    shapes = head.state_dict()
    for key in sorted(shapes.keys() | checkpoint.tensors.keys()):
        if key not in shapes or key not in checkpoint.tensors or shapes[key].shape != checkpoint.tensors[key].shape:
            raise UserError(
                f"the checkpoint's weights do not fit head {name}: {key} is {_shape(checkpoint.tensors.get(key))}, "
                f"not {_shape(shapes.get(key))}; give the head's file as it was trained (--head-file), or train again."
            )
    head.load_state_dict(checkpoint.tensors, strict=True)
    return head.eval()


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "one number"


def _cure(path: Path) -> str:
    return f"train a head with 'detheads train ... -o {path.parent}'"


def matching_cache(checkpoint: Checkpoint, cache: FeatureCache) -> FeatureCache:
    """The cache as the head sees it: only the head's classes, where it holds further ones.

    Raises:
        UserError: naming what differs, when features or classes are not those the head was trained on.
    """
    if set(checkpoint.categories) < set(cache.dataset.categories):
        cache = cache.restricted(checkpoint.categories)
    settings = cache.manifest.settings
    trained_spec, spec = checkpoint.feature_spec.computed, cache.feature_spec.computed
    pairs = {
        "backbone": (checkpoint.backbone_name, settings.backbone),
        "backbone weights": (checkpoint.backbone_weights_sha256, settings.weights_sha256),
        "backbone file": (checkpoint.backbone_file_sha256, settings.backbone_file_sha256),
        "input size": (f"{trained_spec.height}x{trained_spec.width}", f"{spec.height}x{spec.width}"),
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
