"""Heads that compare with text: where their prototypes come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.errors import UserError
from detheads.heads import registry
from detheads.text import save_class_embeddings
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.trainer import Trainer
from tests.training.world import World

TEXT_HEADS = [name for name, entry in registry.entries().items() if "prototypes" in registry.defaults(entry)]


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_given_embeddings_stay_what_they_are_through_training(
    head: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    names = world.cache("val").dataset.class_names
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(len(names), 24), dim=1)
    save_class_embeddings(tmp_path / "text.npz", names[::-1], embeddings.flip(0))
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    options = ("-O", "hidden=16", "-O", "standard_blocks=1", "-O", "depthwise_blocks=1", "--epochs", 1)
    finished = detheads(
        "train", head, *caches, *options, "--text", tmp_path / "text.npz", "-o", tmp_path / "run", "--json"
    )
    assert finished.code == 0, finished.err
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.head_config["prototypes"], checkpoint.head_config["text_dim"]) == ("text", 24)
    stored = dict(build_head(checkpoint).named_buffers())["classifier.embeddings"]
    torch.testing.assert_close(stored, embeddings)

    save_class_embeddings(tmp_path / "other.npz", names, embeddings.flip(0))
    again = detheads("train", head, *caches, *options, "--text", tmp_path / "other.npz", "-o", tmp_path / "run")
    assert again.code == 1
    assert again.err.splitlines()[-1].startswith(f"error: {tmp_path / 'run'} holds a run with another class_embeddings")


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_prototypes_are_learned_when_none_are_given(head: str, trainer: Callable[..., Trainer]) -> None:
    job = trainer(head, epochs=1, eval_every=1)
    assert job.identity.head_config["prototypes"] == "learned"
    before = dict(job.head.named_parameters())["classifier.embeddings"].detach().clone()
    job.fit()
    after = dict(build_head(load_checkpoint(job.run, "last")).named_parameters())["classifier.embeddings"]
    assert not torch.equal(before, after)


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_asking_for_text_without_a_file_is_one_sentence(
    head: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    finished = detheads("train", head, *caches, "-O", "prototypes=text", "-o", tmp_path / "run")
    assert finished.code == 1
    assert finished.err.splitlines()[-1].endswith("needs class embeddings; give a file with --text.")


def test_a_head_without_text_refuses_embeddings(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(UserError, match="does not compare classes with text"):
        trainer("fcos", class_embeddings=torch.eye(10))
