"""A trained head with other classes than it was trained for: exact where it knows them, refused where it cannot."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detheads.backbones.text import BOXES, COCO_NAMES, Embeddings, Encoder, read_embeddings
from detheads.data.dataset import Category
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.training.checkpoint import Checkpoint, build_head, describe, from_description
from detheads.training.vocabulary import SAME, Vocabulary, with_vocabulary
from tests.heads.worlds import SPECS, random_features, small_config, with_blocks

SPEC = SPECS["cnn-square"]
NAMES = ("cat", "dog", "owl", "emu", "bee")
COSINE = {"split_tower": "classifier", "prototype": "classes"}
"""Heads that compare with embeddings, and what they call the classifier."""
DROPPING = {"sparse_query", "adaptive_query"}
"""Heads that choose among their candidates by the best class, so that a class left out may change the choice."""


def _trained(head: str, names: Sequence[str] = NAMES, **options: Any) -> Checkpoint:
    """A checkpoint of a head whose every class is another."""
    entry = registry.entry(head)
    config = registry.config_dict(entry, small_config(entry) | options)
    spec = with_blocks(entry, SPECS["vit-square"]) if entry.head.blocks else SPEC
    torch.manual_seed(2)
    built = registry.build(head, spec, len(names), config)
    tensors = {name: value + 0.1 * torch.randn_like(value) for name, value in built.state_dict().items() if
               value.is_floating_point()}  # fmt: skip
    return Checkpoint(
        head_name=head,
        head_config=config,
        feature_spec=spec,
        categories=tuple(Category(3 + 7 * place, name) for place, name in enumerate(names)),
        backbone_name="effnet_lite0",
        backbone_timm_name="",
        backbone_licence="",
        backbone_weights_sha256=None,
        cache_sha256="",
        dataset_sha256="",
        metrics={"AP": 0.5},
        tensors=dict(built.state_dict()) | tensors,
        checkpoint_sha256="c" * 64,
    )


def _run(checkpoint: Checkpoint) -> HeadOutput:
    with torch.inference_mode():
        output: HeadOutput = build_head(checkpoint)(random_features(checkpoint.feature_spec, 2, seed=5))
    return output


def _file(names: Sequence[str], dimension: int, encoder: Encoder | None = None, seed: int = 0) -> Embeddings:
    rows = np.random.default_rng(seed).normal(size=(len(names), dimension)).astype(np.float32)
    return Embeddings(Path("text.npz"), tuple(names), F.normalize(torch.from_numpy(rows), dim=1), encoder)


@pytest.mark.parametrize("head", [name for name, entry in registry.entries().items() if entry.head.trainable])
def test_classes_in_another_order_or_left_out_keep_their_numbers(head: str) -> None:
    trained = _trained(head)
    order = [4, 0, 2, 1, 3] if head in DROPPING else [4, 0, 2]
    changed = with_vocabulary(trained, Vocabulary(tuple(NAMES[place] for place in order)), "run")
    before, after = _run(trained), _run(changed)
    torch.testing.assert_close(after.logits, before.logits[..., order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.boxes, before.boxes, rtol=0, atol=0)
    assert [category.id for category in changed.categories] == [3 + 7 * place for place in order]
    assert changed.metrics == {}
    assert changed.vocabulary_sha256 not in (
        None,
        with_vocabulary(trained, Vocabulary(NAMES[:3]), "").vocabulary_sha256,
    )


def test_the_classes_of_the_training_in_their_order_change_nothing() -> None:
    trained = _trained("fcos")
    assert with_vocabulary(trained, Vocabulary(NAMES), "run") is trained


@pytest.mark.parametrize("head", COSINE)
def test_a_new_class_takes_its_embedding_from_the_file_and_the_mean_bias(head: str) -> None:
    trained, where = _trained(head, text_dim=16), COSINE[head]
    text = _file(("helmet", "vest"), 16)
    changed = with_vocabulary(trained, Vocabulary(("helmet", "owl"), text), "run")
    assert [(category.id, category.name) for category in changed.categories] == [(32, "helmet"), (17, "owl")]
    # The same by hand: the trained head with the place of its first class taken.
    tensors = {name: value.clone() for name, value in trained.tensors.items()}
    tensors[f"{where}.embeddings"][0] = text.rows[0]
    tensors[f"{where}.cls_bias"][0] = trained.tensors[f"{where}.cls_bias"].mean()
    by_hand, after = _run(replace(trained, tensors=tensors)), _run(changed)
    torch.testing.assert_close(after.logits, by_hand.logits[..., [0, 2]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.boxes, by_hand.boxes, rtol=0, atol=0)


def test_without_names_the_classes_are_those_of_the_file() -> None:
    changed = with_vocabulary(_trained("prototype", text_dim=16), Vocabulary((), _file(("vest", "helmet"), 16)), "run")
    assert [category.name for category in changed.categories] == ["vest", "helmet"]


def test_real_names_are_swapped_as_if_the_head_had_been_given_them_in_training(clip_embeddings: Path) -> None:
    text = read_embeddings(clip_embeddings)
    assert text.names is None
    seen, swapped = ["person", "cat", "car"], ("zebra", "car", "toaster")
    trained = _trained("split_tower", seen, text_dim=512)
    trained = replace(trained, tensors=trained.tensors | {"classifier.embeddings": text.of(seen)})
    changed = with_vocabulary(trained, Vocabulary(swapped, text), "run")
    torch.testing.assert_close(changed.tensors["classifier.embeddings"], text.of(swapped))
    logits = _run(changed).logits
    torch.testing.assert_close(logits[..., 1], _run(trained).logits[..., 2], rtol=1e-5, atol=1e-5)
    # Names that mean nearly the same are found at nearly the same places, unlike names that do not.
    scores = {name: _run(with_vocabulary(trained, Vocabulary((name,), text), "run")).logits.flatten() for name in
              ("cat", "dog", "toaster")}  # fmt: skip
    centred = {name: value - value.mean() for name, value in scores.items()}
    near, far = (F.cosine_similarity(centred["cat"], centred[other], dim=0) for other in ("dog", "toaster"))
    assert near > far


def test_no_two_names_of_coco_are_as_near_as_one_name_and_itself(clip_embeddings: Path) -> None:
    rows = read_embeddings(clip_embeddings).of(COCO_NAMES)
    assert (rows @ rows.T).fill_diagonal_(0).max() < SAME


CLIP = Encoder("ViT-B-32", "a" * 64, ("a {}",))


@pytest.mark.parametrize(
    ("head", "options", "names", "text", "sentence"),
    [
        ("fcos", {}, ("vest",), _file(("vest",), 16), "fcos of run does not compare classes with embeddings"),
        ("split_tower", {"text_dim": 16}, ("vest", "cats"), None, "not trained on vest, cats, but on cat, dog, owl"),
        ("split_tower", {"text_dim": 16}, ("vest",), _file(("vest",), 8), "have 8 dimensions, those of run 16"),
        ("split_tower", {"text_dim": 16}, ("vest",), _file(("west",), 16), "no embedding for vest; it has those of we"),
        ("split_tower", {"text_dim": 16}, ("vest",), _file(("vest", "cat"), 16), "has another embedding of 'cat'"),
        ("split_tower", {"prototypes": "learned", "text_dim": 16}, ("vest",), _file(("vest",), 16), "from-boxes run"),
        ("prototype", {"text_dim": 16}, ("vest",), _file(("vest",), 16, Encoder(BOXES, "d" * 64)), "as another head"),
    ],
)  # fmt: skip
def test_what_says_nothing_to_the_head_is_refused(
    head: str, options: dict[str, Any], names: tuple[str, ...], text: Embeddings | None, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        with_vocabulary(_trained(head, **options), Vocabulary(names, text), "run")


def test_embeddings_of_another_encoder_than_that_of_the_training_are_refused() -> None:
    trained = replace(_trained("prototype", text_dim=16), encoder=CLIP)
    other = replace(CLIP, weights_sha256="b" * 64)
    with pytest.raises(UserError, match=r"made by ViT-B-32 \(bbbbbbbb\), and run was trained .* \(aaaaaaaa\)"):
        with_vocabulary(trained, Vocabulary(("vest",), _file(("vest",), 16, other)), "run")
    further_prompts = replace(CLIP, prompts=("the {}",))
    with_vocabulary(trained, Vocabulary(("vest",), _file(("vest",), 16, further_prompts)), "run")


@pytest.mark.parametrize("kind", ["learned", "image"])
def test_features_of_boxes_are_classes_of_heads_that_know_no_text(kind: str) -> None:
    trained = _trained("split_tower" if kind == "learned" else "prototype", prototypes=kind)
    dimension = next(value for name, value in trained.tensors.items() if name.endswith(".embeddings")).shape[1]
    text = _file(("vest",), dimension, Encoder(BOXES, trained.checkpoint_sha256))
    assert _run(with_vocabulary(trained, Vocabulary(("vest", "cat"), text), "run")).logits.shape[-1] == 2


def test_nameless_embeddings_need_names() -> None:
    text = replace(_file(("vest",), 16), names=None)
    with pytest.raises(UserError, match="say with --classes which classes they are"):
        with_vocabulary(_trained("prototype", text_dim=16), Vocabulary((), text), "run")


def test_a_checkpoint_remembers_what_made_its_embeddings() -> None:
    checkpoint = replace(_trained("prototype"), class_embeddings_sha256="e" * 64, encoder=CLIP)
    read = from_description(describe(checkpoint))
    assert (read.encoder, read.class_embeddings_sha256) == (CLIP, "e" * 64)
