"""A trained head shipped with other classes: its detections, and what the proof may say of them."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detheads.backbones.text import Encoder, save_class_embeddings
from detheads.data import read_dataset
from detheads.deploy import Detector
from detheads.export.source import load_trained
from detheads.foundation import atomic
from detheads.foundation.images import load_image
from detheads.foundation.manifest import Thresholds
from detheads.headkit import registry
from detheads.training.checkpoint import load_checkpoint, save_checkpoint
from tests.export.toy import CATEGORIES, Toy, live_detector, write_dataset

DIMENSION = 8
NAMES = [category.name for category in CATEGORIES]
CLIP = Encoder("ViT-B-32", "a" * 64, ("a {}",))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of the classes of the toy, and of two that it does not know."""
    rows = np.random.default_rng(3).normal(size=(5, DIMENSION)).astype(np.float32)
    path: Path = tmp_path_factory.mktemp("text") / "text.npz"
    save_class_embeddings(path, [*NAMES, "helmet", "vest"], F.normalize(torch.from_numpy(rows), dim=1), CLIP)
    return path


@pytest.fixture(scope="module")
def world(toy: Toy, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """The toy with a head that compares with text, and boxes that it finds."""
    folder = tmp_path_factory.mktemp("world")
    found = Toy(folder / "run", folder / "pictures of it")
    known = load_checkpoint(toy.run)
    config = {"prototypes": "text", "text_dim": DIMENSION, "width": 16, "tower_blocks": 1, "assigner": "fcos"}
    torch.manual_seed(1)
    head = registry.build("prototype", known.feature_spec, len(CATEGORIES), config)
    head.set_class_embeddings(torch.from_numpy(np.load(text)["embeddings"][: len(CATEGORIES)]))
    state = dict(head.state_dict())
    state["classes.cls_bias"] = torch.tensor([-0.4, -0.2, 0.1])
    state["classes.logit_scale"] = torch.tensor(1.0)
    for name in ("distances.weight", "centerness.weight"):
        torch.nn.init.normal_(state[name], std=0.02)
    options = registry.config_dict(registry.entry("prototype"), config)
    made = replace(known, head_name="prototype", head_config=options, tensors=state, encoder=CLIP)
    found.run.mkdir()
    save_checkpoint(found.run / "best.safetensors", made)
    write_dataset(found, seed=0)
    return found


@pytest.fixture
def export(world: Toy, text: Path, tmp_path: Path, detheads: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Export with small tables; the answer."""

    def exported(*options: object, name: str = "a", code: int = 0) -> dict[str, Any]:
        fast = ("--onnx-only", "--max-detections", 20, "--batch-sizes", 1, "--probes", 0, "--json")
        finished = detheads("export", world.run, *options, *fast, "-o", tmp_path / f"{name}.detheads")
        assert finished.code == code, finished.err
        answer: dict[str, Any] = json.loads(finished.out)
        return answer

    return exported


def _by_class(found: Iterable[tuple[Sequence[str], Any, Any]]) -> dict[str, list[tuple[float, ...]]]:
    """Names, boxes and scores of each picture: for each class its boxes and scores with the picture's number."""
    rows: dict[str, list[tuple[float, ...]]] = {}
    for number, one in enumerate(found):
        for name, box, score in zip(*one, strict=True):
            rows.setdefault(name, []).append((number, float(score), *box.tolist()))
    return {name: sorted(each) for name, each in rows.items()}


@pytest.mark.slow
def test_classes_in_another_order_and_left_out_are_found_as_before(
    export: Callable[..., Any], world: Toy, tmp_path: Path
) -> None:
    table = ("--max-detections", 40, "--score", 0.7)
    answer = export("--data", world.data, "--classes", f"{NAMES[2]}, {NAMES[0]}", *table)
    assert (answer["state"], answer["passed"]) == ("verified", True)
    pictures = [load_image(record.path) for record in read_dataset(world.data, "val").images]
    live = live_detector(world.run, Thresholds(score=0.7, max_detections=40))
    before = _by_class(
        ([NAMES[label] for label in one.labels], one.boxes, one.scores) for one in map(live.detect, pictures)
    )
    shipped = Detector(tmp_path / "a.detheads")
    after = _by_class((one.names, one.boxes, one.scores) for one in map(shipped, pictures))
    assert set(before) == set(NAMES)
    assert set(after) == {NAMES[0], NAMES[2]}
    for name, rows in after.items():
        alike = sum(any(np.allclose(row, other, rtol=1e-4, atol=1e-2) for other in before[name]) for row in rows)
        # Rounding decides between near-equal boxes of a head with random weights, here as in any export.
        assert alike >= 0.95 * max(len(rows), len(before[name]))
    assert sum(map(len, after.values())) > 20
    manifest = atomic.read_json(tmp_path / "a.detheads" / "bundle.json")
    assert [entry["id"] for entry in manifest["heads"][0]["classes"]] == [90, 3]


@pytest.mark.slow
def test_classes_without_labels_are_named_and_the_bundle_is_verified_again_with_its_embeddings_alone(
    export: Callable[..., Any], world: Toy, text: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    answer = export("--data", world.data, "--classes", f"vest,{NAMES[1]}", "--text", text)
    assert answer["state"] == "verified"
    assert 0 < answer["map_live"] < 1
    assert answer["map_cache"] is None
    report = atomic.read_json(tmp_path / "a.detheads" / "report.json")
    assert report["dataset"]["own_labels"] is False
    assert any("the pictures are not labelled with vest: of these classes" in one for one in report["remarks"])
    assert set(report["best_scores"]) == {NAMES[1]}

    line = ("verify", tmp_path / "a.detheads", "--run", world.run, "--data", world.data, "--batch-sizes", 1, "--text")
    finished = detheads(*line, text)
    assert finished.code == 0, finished.err
    rows = F.normalize(torch.randn(1, DIMENSION, generator=torch.Generator().manual_seed(9)), dim=1)
    save_class_embeddings(tmp_path / "other.npz", ["vest"], rows, CLIP)
    other = detheads(*line, tmp_path / "other.npz")
    assert other.code == 1
    assert "was exported with other embeddings of its classes; give their file with --text." in other.err
    without = detheads(*line[:-1])
    assert without.code == 1
    assert "was not trained on vest, but on" in without.err


def test_without_any_label_the_proof_is_that_both_sides_find_the_same_and_says_so(
    export: Callable[..., Any], world: Toy, text: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    answer = export("--data", world.data, "--classes", "helmet,vest", "--text", text)
    bundle = tmp_path / "a.detheads"
    assert answer["state"] == "verified"
    assert answer["map_live"] == pytest.approx(1, abs=0.02)
    report = atomic.read_json(bundle / "report.json")
    assert report["dataset"]["own_labels"] is True
    assert report["best_scores"] == {}
    note = "the pictures have no labels of these classes, so mAP tells how far both sides agree, not how well"
    assert note in (bundle / "report.md").read_text()
    assert note in detheads("bundle", "inspect", bundle).out.replace("\n", " ")
    card = (bundle / "README.md").read_text()
    assert "metric_value" not in card


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--classes", "helmet,helmet"), "--classes has the class 'helmet' twice; give each class once."),
        (("--classes", "helmet"), "give embeddings of the new classes with --text."),
        (("--classes", "boot", "--text", "TEXT"), "has no embedding for boot; it has those of cat, dog"),
    ],
)
def test_classes_that_cannot_be_had_are_refused_before_anything_is_made(
    options: Sequence[str], sentence: str, world: Toy, text: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = [text if option == "TEXT" else option for option in options]
    finished = detheads("export", world.run, "--no-verify", "--onnx-only", *line, "-o", tmp_path / "a.detheads")
    assert finished.code == 1
    assert sentence in finished.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_other_classes_are_for_one_run(world: Toy, toy: Toy, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    line = ("--head-name", "a", "--head-name", "b", "--no-verify", "--onnx-only", "--classes", "cat")
    finished = detheads("export", world.run, toy.run, *line, "-o", tmp_path / "a.detheads")
    assert finished.code == 1
    assert "other classes are for one head, and there are 2 runs; export each by itself." in finished.err


def test_the_head_keeps_its_weights(world: Toy, text: Path) -> None:
    from detheads.backbones.text import read_embeddings
    from detheads.training.vocabulary import Vocabulary

    changed = load_trained(world.run, vocabulary=Vocabulary(("vest",), read_embeddings(text)))
    own = load_trained(world.run)
    for name, value in own.head.state_dict().items():
        if not name.startswith("classes.") or name.endswith(("cls_project.weight", "logit_scale")):
            assert torch.equal(value, changed.head.state_dict()[name]), name
