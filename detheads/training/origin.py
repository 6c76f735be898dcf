"""What a training begins with: the head at its first step, what it is, and whose weights it starts from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from detheads.backbones.text import Encoder
from detheads.cache.reader import FeatureCache
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training.caches import trained_on_too
from detheads.training.checkpoint import Checkpoint, untrained
from detheads.training.prototypes import with_prototypes
from detheads.training.warm_start import WarmStart, load_source, take_over


@dataclass(frozen=True)
class Origin:
    """A head before its first step.

    Attributes:
        head: with its first weights, on the CPU.
        identity: what it is, without weights.
        warm: what was taken over from other weights; None for a head that starts afresh.
        kept: the tensors that it starts from, where most of them are to stay; None where all may change.
        pictures: that the other weights were trained on (see :mod:`detheads.training.pictures`).
    """

    head: Head
    identity: Checkpoint
    warm: WarmStart | None = None
    kept: Mapping[str, Tensor] | None = None
    pictures: str = ""


def begin(
    head_name: str,
    head_config: Mapping[str, Any],
    train: FeatureCache,
    val: FeatureCache,
    *,
    class_embeddings: Tensor | None,
    encoder: Encoder | None,
    init: str | Path | None,
    exactly: bool,
) -> Origin:
    """Build the head that is to be trained, with torch's random numbers as they stand.

    A head that starts from one with the same classes keeps its text embeddings where none are given.

    Args:
        init: run folder or checkpoint file to start from.
        exactly: most of the head will stay what it is (``--train-only``), so that classes and embeddings must be those
            of ``init``.

    Raises:
        UserError: when the head is not trainable, its options are wrong, or the weights are of another head or,
            ``exactly``, of other classes or embeddings.
    """
    entry = registry.entry(head_name)
    if not entry.head.trainable:
        raise UserError(f"{head_name} is solved, not trained; fit it with 'detheads analytical fit'.")
    source = load_source(init) if init is not None else None
    if source is None and exactly:
        raise UserError("--train-only trains some parameters of a trained head; say with --init RUN which one.")
    kind = head_config.get("prototypes", "text")
    if class_embeddings is not None and kind != "text":
        raise UserError(f"-O prototypes={kind} compares with no text; leave that option or --text out.")
    names, inherited = train.dataset.class_names, False
    if source is not None and source.head_name == head_name:
        head_config = {**source.head_config, **head_config}
        alike = [category.name for category in source.categories] == names
        inherited = class_embeddings is None and alike and head_config.get("prototypes") == "text"
    options = registry.config_dict(entry, with_prototypes(entry, head_config, class_embeddings, inherited=inherited))
    head = registry.build(head_name, train.feature_spec, len(names), options)
    digest: str | None = None
    if class_embeddings is not None:
        head.set_class_embeddings(class_embeddings)
        digest = hashlib.sha256(class_embeddings.numpy().tobytes()).hexdigest()
    elif inherited and source is not None:
        digest, encoder = source.class_embeddings_sha256, source.encoder
    identity = replace(
        untrained(head_name, options, train),
        class_embeddings_sha256=digest,
        encoder=encoder,
        validated_on_trained=trained_on_too(train, val),
    )
    if source is None:
        return Origin(head, identity)
    warm = take_over(head, identity, source, str(init), own_embeddings=class_embeddings is not None)
    if exactly:
        _require_exactly(identity, source, warm)
    return Origin(head, identity, warm, source.tensors if exactly else None, source.pictures)


def _require_exactly(identity: Checkpoint, source: Checkpoint, warm: WarmStart) -> None:
    """Refuse what would leave a part of the head at random numbers that nothing trains."""
    ours, theirs = ([category.name for category in each.categories] for each in (identity, source))
    because = "--train-only leaves the rest of the head as it is"
    if ours != theirs:
        what = "has the classes of the cache in another order"
        if unknown := [name for name in ours if name not in theirs]:
            what = f"does not know the class {unknown[0]!r}"
        elif further := [name for name in theirs if name not in ours]:
            what = f"knows the class {further[0]!r}, and the cache does not"
        raise UserError(f"{warm.source} {what}, and {because}; start from a run with the classes of the cache.")
    if warm.fresh:
        raise UserError(f"{warm.source} has no {warm.fresh[0]}, and {because}; start from a run of the same head.")
    if identity.class_embeddings_sha256 != source.class_embeddings_sha256:
        raise UserError(f"{warm.source} was trained with other class embeddings, and {because}; leave --text out.")
