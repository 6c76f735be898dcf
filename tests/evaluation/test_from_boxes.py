"""Classes made of a few of their boxes, as a trained head sees them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detheads.backbones.text import BOXES, Encoder, read_embeddings
from detheads.data import read_dataset
from detheads.data.dataset import Dataset
from detheads.data.pictures import load_picture
from detheads.evaluation.from_boxes import embed_boxes
from detheads.export.source import Trained, load_trained
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.headkit import registry
from detheads.training.checkpoint import load_checkpoint, save_checkpoint
from tests.export.toy import CATEGORIES, Toy

NAMES = [category.name for category in CATEGORIES]


@pytest.fixture(scope="module")
def run(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head whose prototypes are learned, with random weights, for the pictures of the toy."""
    folder: Path = tmp_path_factory.mktemp("run")
    known = load_checkpoint(toy.run)
    entry = registry.entry("prototype")
    config = registry.config_dict(entry, {"prototypes": "text", "text_dim": 8, "width": 16, "assigner": "fcos"})
    torch.manual_seed(1)
    head = registry.build("prototype", known.feature_spec, len(CATEGORIES), config)
    made = replace(known, head_name="prototype", head_config=config, tensors=dict(head.state_dict()))
    save_checkpoint(folder / "best.safetensors", made)
    return folder


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_trained(run)


@pytest.fixture(scope="module")
def dataset(toy: Toy) -> Dataset:
    return read_dataset(toy.data, "val")


def _by_hand(trained: Trained, dataset: Dataset, image: int) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """The mean direction of the points of each object of an image, and of those of none."""
    head: Any = trained.head
    spec = trained.checkpoint.feature_spec
    pixels, letterbox = letterbox_image(load_picture(dataset.images[image]), spec.width, spec.height)
    boxes = torch.from_numpy(letterbox.to_input(dataset.objects[image].boxes)).float()
    with torch.inference_mode():
        features = trained.backbone(trained.backbone.normalise(torch.from_numpy(pixels).permute(2, 0, 1)[None]))
        maps = [head.class_tower(level) for level in head.levels(features)]
        rows = torch.cat([level[0].flatten(1).T for level in maps]) @ head.classes.cls_project.weight.T
    rows = rows / rows.norm(dim=1, keepdim=True)
    assigned = head.assign(boxes)
    objects = {}
    for place in range(len(boxes)):
        own = rows[assigned.positive[assigned.objects == place]]
        if len(own):
            objects[place] = own.mean(dim=0) / own.mean(dim=0).norm()
    free = np.setdiff1d(np.arange(len(rows)), assigned.positive.numpy())
    return objects, rows[free].mean(dim=0)


def test_a_class_is_the_mean_of_its_objects_points_less_that_of_the_points_of_none(
    trained: Trained, dataset: Dataset
) -> None:
    found = embed_boxes(trained.backbone, trained.head, trained.checkpoint.feature_spec, dataset, NAMES[:1], 1000)
    images = [image for image, known in enumerate(dataset.objects) if (known.labels == 0).any()]
    sums, ground = [], []
    for image in images:
        objects, others = _by_hand(trained, dataset, image)
        sums += [row for place, row in objects.items() if dataset.objects[image].labels[place] == 0]
        ground.append(others)
    expected = torch.stack(sums).mean(dim=0) - torch.stack(ground).mean(dim=0)
    torch.testing.assert_close(found.rows, F.normalize(expected[None], dim=1), rtol=1e-4, atol=1e-5)
    assert (found.boxes, found.pictures) == ((len(sums),), len(images))


def test_the_command_draws_boxes_by_a_seed_and_says_what_it_took(
    run: Path, toy: Toy, trained: Trained, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = ("text", "from-boxes", run, "--data", toy.data, "--split", "val", "--boxes", 2, "--json", "-o")
    finished = detheads(*line, tmp_path / "a.npz")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert answer["boxes"]["cat"] == 2
    assert set(answer["boxes"]) == set(NAMES)
    assert answer["dimension"] == 8
    file = read_embeddings(tmp_path / "a.npz")
    assert file.names == tuple(NAMES)
    assert file.encoder == Encoder(BOXES, trained.checkpoint.checkpoint_sha256)
    for seed, same in ((0, True), (5, False)):
        detheads(*line, tmp_path / "b.npz", "--seed", seed)
        assert torch.equal(read_embeddings(tmp_path / "b.npz").rows, file.rows) is same


def test_crowds_and_classes_without_boxes_are_no_prompts(trained: Trained, dataset: Dataset) -> None:
    crowds = tuple(replace(known, crowd=known.labels == 1) for known in dataset.objects)
    with pytest.raises(UserError, match="has no box of 'dog' that counts"):
        embed_boxes(
            trained.backbone,
            trained.head,
            trained.checkpoint.feature_spec,
            replace(dataset, objects=crowds),
            NAMES[:2],
            3,
        )


def test_objects_that_no_point_sees_are_no_prompts(trained: Trained, dataset: Dataset) -> None:
    outside = tuple(
        replace(known, boxes=known.boxes * 0 + np.array([0.0, 0.0, 1e-3, 1e-3])) for known in dataset.objects
    )
    with pytest.raises(UserError, match=r"none of the \d+ boxes of 'cat' covers a point"):
        embed_boxes(
            trained.backbone,
            trained.head,
            trained.checkpoint.feature_spec,
            replace(dataset, objects=outside),
            NAMES[:1],
            3,
        )


def test_a_head_without_directions_and_an_unknown_class_are_one_sentence(
    run: Path, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = ("--data", toy.data, "--split", "val", "-o", tmp_path / "a.npz")
    plain = detheads("text", "from-boxes", toy.run, *line)
    assert plain.code == 1
    assert "FCOS does not compare classes with embeddings, so boxes cannot become classes" in plain.err
    unknown = detheads("text", "from-boxes", run, *line, "--classes", "cats")
    assert unknown.code == 1
    assert f"has no class 'cats', but {', '.join(NAMES)}. Did you mean 'cat'?" in unknown.err
    assert not (tmp_path / "a.npz").exists()
