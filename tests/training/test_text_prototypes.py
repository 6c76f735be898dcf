"""Heads that compare with text: where their prototypes come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.backbones.text import save_class_embeddings
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.trainer import Trainer
from tests.heads.worlds import small_config
from tests.training.world import World

TEXT_HEADS = [name for name, entry in registry.entries().items() if "text" in registry.choices(entry, "prototypes")]


def _embeddings(head: Head) -> torch.Tensor:
    (found,) = (value for name, value in head.state_dict().items() if name.endswith(".embeddings"))
    return found


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_given_embeddings_stay_what_they_are_through_training(
    head: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    names = world.cache("val").dataset.class_names
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(len(names), 24), dim=1)
    save_class_embeddings(tmp_path / "text.npz", names[::-1], embeddings.flip(0))
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    narrow = [f"-O{name}={value}" for name, value in small_config(registry.entry(head)).items() if name != "text_dim"]
    options = (*narrow, "--epochs", 1)
    finished = detheads(
        "train", head, *caches, *options, "--text", tmp_path / "text.npz", "-o", tmp_path / "run", "--json"
    )
    assert finished.code == 0, finished.err
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.head_config["prototypes"], checkpoint.head_config["text_dim"]) == ("text", 24)
    built = build_head(checkpoint)
    torch.testing.assert_close(_embeddings(built), embeddings)
    assert not any(name.endswith(".embeddings") for name, _ in built.named_parameters())

    save_class_embeddings(tmp_path / "other.npz", names, embeddings.flip(0))
    again = detheads("train", head, *caches, *options, "--text", tmp_path / "other.npz", "-o", tmp_path / "run")
    assert again.code == 1
    assert again.err.splitlines()[-1].startswith(
        f"error: {tmp_path / 'run'} was trained with other class embeddings (--text)"
    )


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_prototypes_come_from_training_when_none_are_given(head: str, trainer: Callable[..., Trainer]) -> None:
    job = trainer(head, epochs=1, eval_every=1)
    assert job.identity.head_config["prototypes"] in {"learned", "image"}
    before = _embeddings(job.head).clone()
    job.fit()
    assert not torch.equal(before, _embeddings(build_head(load_checkpoint(job.run, "last"))))


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_asking_for_text_without_a_file_is_one_sentence(
    head: str, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "plain", "--val", world.caches / "val")
    finished = detheads("train", head, *caches, "-O", "prototypes=text", "-o", tmp_path / "run")
    assert finished.code == 1
    assert finished.err.splitlines()[-1].endswith("needs class embeddings; give a file with --text.")


@pytest.mark.parametrize("head", TEXT_HEADS)
def test_embeddings_do_not_change_what_was_asked_for(head: str, trainer: Callable[..., Trainer]) -> None:
    """A head without its idea, in an arena with ``--text``, is not silently the head with it."""
    for kind in registry.choices(registry.entry(head), "prototypes"):
        if kind != "text":
            with pytest.raises(UserError, match=f"-O prototypes={kind} compares with no text; leave that option or"):
                trainer(head, class_embeddings=torch.eye(10), head_options={"prototypes": kind})


def test_a_head_without_text_refuses_embeddings(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(UserError, match="does not compare classes with text"):
        trainer("fcos", class_embeddings=torch.eye(10))
