"""What a bundle is made from: a trained run with its backbone, and the identity of a dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.backbones.own import require_backbone_file
from detheads.data.dataset import Dataset
from detheads.data.digest import dataset_sha256 as dataset_sha256
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import sides
from detheads.headkit.contract import Head
from detheads.training.checkpoint import Checkpoint, build_head, load_checkpoint
from detheads.training.pictures import among
from detheads.training.vocabulary import Vocabulary, with_vocabulary

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Trained:
    """A checkpoint with its head and backbone, weights loaded, in evaluation mode."""

    checkpoint: Checkpoint
    backbone: Backbone
    head: Head

    @property
    def remarks(self) -> tuple[str, ...]:
        """What goes with an artefact of it wherever that goes."""
        spec = self.backbone.spec
        licence = f"the graph contains the weights of {spec.name}, licensed under: {spec.licence}"
        if self.backbone.weights_sha256 is None:
            return licence, "the backbone has random weights: a test, not a detector"
        return (licence,)


def load_trained(
    run: Path, *, which: Which = "best", weights: Path | None = None, vocabulary: Vocabulary | None = None
) -> Trained:
    """Load a training run and exactly the backbone whose features it was trained on.

    Args:
        vocabulary: the classes that the head is to have, where not its own.
        weights: backbone weight file, where the backbone's own source is not to be used.

    Raises:
        UserError: when the run is unusable, or the backbone weights are not those of its feature cache.
    """
    checkpoint = load_head(run, which, vocabulary)
    require_backbone_file(checkpoint.backbone_name, checkpoint.backbone_file_sha256)
    spec = checkpoint.feature_spec.computed
    trained_on_random = checkpoint.backbone_weights_sha256 is None
    if trained_on_random and weights is not None:
        raise UserError(
            f"{run} was trained on random backbone weights; {weights} would not fit it, leave --weights out."
        )
    backbone = load_backbone(
        checkpoint.backbone_name,
        (spec.height, spec.width),
        weights=weights,
        random_weights=trained_on_random,
        blocks=tuple(int(name.removeprefix("block")) for name in spec.names if name.startswith("block")),
    )
    if backbone.weights_sha256 != checkpoint.backbone_weights_sha256:
        raise UserError(
            f"{run} was trained on features of backbone weights with SHA-256 {checkpoint.backbone_weights_sha256}, "
            f"these have {backbone.weights_sha256}; give the right file with --weights."
        )
    if backbone.feature_spec != spec:
        raise UserError(
            f"{run} was trained on other features than {backbone.spec.name} gives now "
            f"({', '.join(backbone.feature_spec.names)}); build the cache and train again."
        )
    return Trained(checkpoint, backbone, build_head(checkpoint).eval())


def load_head(run: Path, which: Which, vocabulary: Vocabulary | None = None) -> Checkpoint:
    """The head of a run, with its own classes or those of a vocabulary.

    Raises:
        UserError: when the run is unusable, or its head cannot have these classes.
    """
    checkpoint = load_checkpoint(run, which)
    return checkpoint if vocabulary is None else with_vocabulary(checkpoint, vocabulary, str(run))


def load_several(
    runs: Mapping[str, Path], *, which: Which, weights: Path | None, vocabulary: Vocabulary | None = None
) -> dict[str, Trained]:
    """Load training runs whose heads read the same features, with one backbone for all of them.

    Args:
        vocabulary: of the only head.

    Raises:
        UserError: as :func:`load_trained`, or when a run was trained on other features than the first.
    """
    checkpoints = {name: load_head(run, which, vocabulary) for name, run in runs.items()}
    (first, of_first), *others = checkpoints.items()
    for name, other in others:
        for what, mine, its in (
            ("the backbone", of_first.backbone_name, other.backbone_name),
            ("the backbone weights", of_first.backbone_weights_sha256, other.backbone_weights_sha256),
            ("the input size", _size(of_first), _size(other)),
            ("the features", _features(of_first), _features(other)),
        ):
            if mine != its:
                raise UserError(
                    f"{runs[first]} and {runs[name]} cannot share a graph: {what} of the one is {mine}, of the other "
                    f"{its}; export each by itself."
                )
    loaded = load_trained(runs[first], which=which, weights=weights, vocabulary=vocabulary)
    return {
        name: loaded if name == first else replace(loaded, checkpoint=each, head=build_head(each).eval())
        for name, each in checkpoints.items()
    }


def _features(checkpoint: Checkpoint) -> str:
    return ", ".join(checkpoint.feature_spec.computed.names)


def _size(checkpoint: Checkpoint) -> str:
    return sides(checkpoint.feature_spec.height, checkpoint.feature_spec.width)


def training_pictures(checkpoint: Checkpoint, given: Dataset, used: Dataset) -> int | None:
    """How many images the model was trained on, as far as the run tells; None when it does not.

    Args:
        given: the images as their dataset holds them.
        used: those of them that are asked about.
    """
    if dataset_sha256(given) == checkpoint.dataset_sha256:
        return len(used.images)
    if not checkpoint.pictures:
        return None
    return among(checkpoint.pictures, (atomic.sha256_of(image.path) for image in used.images))
