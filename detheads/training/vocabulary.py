"""A trained head with other classes than it was trained for, without training.

A head that compares features with class embeddings finds whatever it is given the embedding of, as far as its features
tell it apart. A class it was trained on keeps its embedding and its bias; a new one takes its embedding from a file and
the mean bias of the trained classes. Classes may also be left out or put in another order, in any head.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from detheads.backbones.text import BOXES, Embeddings, listed
from detheads.data.dataset import Category
from detheads.foundation.errors import UserError, suggest
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.headkit.cosine import CosineClassifier
from detheads.training.checkpoint import Checkpoint
from detheads.training.warm_start import class_axes

SAME = 0.99
"""Cosine of an embedding with that of the same class in training, below which another encoder made it.

CLIP ViT-B/32's embeddings of COCO's names, stored as fp16, keep 1.0000; the nearest two different names reach 0.97."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes a head is to have.

    Attributes:
        names: in the order of the labels to be; empty: those of the embeddings.
        embeddings: of the new classes at least; None where there are none.
    """

    names: tuple[str, ...] = ()
    embeddings: Embeddings | None = None

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names.

        Raises:
            UserError: when neither the names nor the embeddings tell them.
        """
        if self.names:
            return self.names
        if self.embeddings is None or self.embeddings.names is None:
            raise UserError("the embeddings have no names; say with --classes which classes they are, in their order.")
        return self.embeddings.names


def with_vocabulary(checkpoint: Checkpoint, vocabulary: Vocabulary, called: str) -> Checkpoint:
    """A checkpoint whose head has the classes of a vocabulary.

    Classes that were trained keep their ids; new ones get those that follow.

    Args:
        called: the run's path, for sentences.

    Raises:
        UserError: as :func:`with_classes`.
    """
    ids = {category.name: category.id for category in checkpoint.categories}
    free = max(ids.values()) + 1
    for name in vocabulary.wanted:
        if name not in ids:
            ids[name], free = free, free + 1
    wanted = tuple(Category(ids[name], name) for name in vocabulary.wanted)
    return with_classes(checkpoint, wanted, vocabulary.embeddings, called)


def with_classes(
    checkpoint: Checkpoint, wanted: Sequence[Category], embeddings: Embeddings | None, called: str
) -> Checkpoint:
    """A checkpoint whose head has these classes, in this order; the same one where they are its own.

    Raises:
        UserError: when a class is new and the head does not compare with embeddings or none is given, when they have
            another dimension than the head's, or another encoder made them.
    """
    places = {category.name: place for place, category in enumerate(checkpoint.categories)}
    names = [category.name for category in wanted]
    new = [name for name in names if name not in places]
    head = registry.build(checkpoint.head_name, checkpoint.feature_spec, len(wanted), checkpoint.head_config)
    prefix = _classifier(head)
    if embeddings is not None or new:
        _require_comparable(checkpoint, prefix, new, embeddings, called)
    if tuple(wanted) == checkpoint.categories:
        return checkpoint
    state, parameters = dict(head.state_dict()), {name for name, _ in head.named_parameters()}
    if new and prefix is not None and embeddings is not None:
        state[f"{prefix}embeddings"][[names.index(name) for name in new]] = embeddings.of(new)
        state[f"{prefix}cls_bias"][:] = checkpoint.tensors[f"{prefix}cls_bias"].mean()
    axes = class_axes(checkpoint)
    known = [(place, places[name]) for place, name in enumerate(names) if name in places]
    for name, learned in checkpoint.tensors.items():
        if name not in axes:
            state[name] = learned
            continue
        axis = axes[name]
        if axis is None or (new and name in parameters and not name.startswith(str(prefix))):
            raise UserError(
                f"the head {checkpoint.head_name} of {called} has learned more of its classes than an embedding "
                f"({name}), so it needs a training to have others."
            )
        for place, trained in known:
            state[name].select(axis, place).copy_(learned.select(axis, trained))
    changed = {name: state[name] for name in sorted(axes)}
    return replace(
        checkpoint, categories=tuple(wanted), tensors=state, metrics={}, vocabulary_sha256=_digest(wanted, changed)
    )


def _classifier(head: Head) -> str | None:
    """What the names of the cosine classifier's tensors begin with; None where the head has not just one."""
    found = [name for name, module in head.named_modules() if isinstance(module, CosineClassifier)]
    return f"{found[0]}." if len(found) == 1 else None


def _require_comparable(
    checkpoint: Checkpoint, prefix: str | None, new: Sequence[str], embeddings: Embeddings | None, called: str
) -> None:
    """Refuse embeddings that say nothing to a head."""
    own = listed([category.name for category in checkpoint.categories])
    if prefix is None:
        raise UserError(
            f"the head {checkpoint.head_name} of {called} does not compare classes with embeddings, so it finds those "
            f"it was trained on alone ({own}); train split_tower or prototype."
        )
    if embeddings is None:
        hint = suggest(new[0], [category.name for category in checkpoint.categories])
        raise UserError(
            f"{called} was not trained on {listed(new)}, but on {own}; give embeddings of the new classes with "
            f"--text.{hint}"
        )
    trained = checkpoint.tensors[f"{prefix}embeddings"]
    if embeddings.rows.shape[1] != trained.shape[1]:
        raise UserError(
            f"the embeddings of {embeddings.path} have {embeddings.rows.shape[1]} dimensions, those of {called} "
            f"{trained.shape[1]}; use the encoder that the head was trained with."
        )
    embeddings.of(new)
    encoder = embeddings.encoder
    if encoder is None or encoder.name != BOXES:
        _require_encoder(checkpoint, trained, embeddings, called)
    elif encoder.weights_sha256 != checkpoint.checkpoint_sha256:
        raise UserError(
            f"{embeddings.path} was made of boxes as another head sees them; make it with 'detheads text from-boxes "
            f"{called}'."
        )


def _require_encoder(checkpoint: Checkpoint, trained: Tensor, embeddings: Embeddings, called: str) -> None:
    """Refuse text embeddings of another encoder than those of the training, as far as that can be told."""
    if checkpoint.head_config.get("prototypes") != "text":
        raise UserError(
            f"{called} was not trained with text embeddings, so those of {embeddings.path} mean nothing to it; make "
            f"embeddings with 'detheads text from-boxes {called}'."
        )
    own, other = checkpoint.encoder, embeddings.encoder
    if own is not None and other is not None and (own.name, own.weights_sha256) != (other.name, other.weights_sha256):
        raise UserError(
            f"{embeddings.path} was made by {other.name} ({other.weights_sha256[:8]}), and {called} was trained with "
            f"embeddings of {own.name} ({own.weights_sha256[:8]}); use the same encoder."
        )
    for category, row in zip(checkpoint.categories, F.normalize(trained, dim=1), strict=True):
        if category.name in (embeddings.names or ()):
            cosine = float(embeddings.of([category.name])[0] @ row)
            if cosine < SAME:
                raise UserError(
                    f"{embeddings.path} has another embedding of {category.name!r} than {called} was trained with "
                    f"(cosine {cosine:.3f}); use the same encoder and prompts."
                )


def _digest(categories: Sequence[Category], tensors: Mapping[str, Tensor]) -> str:
    """Of the classes and of everything that the head knows of each."""
    digest = hashlib.sha256(json.dumps([[each.id, each.name] for each in categories]).encode())
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
