"""From a head's boxes on cached features to COCO results in the dataset's own frame and ids."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detheads.cache.reader import FeatureCache
from detheads.evaluation import predict
from detheads.evaluation.coco import NAMES
from detheads.evaluation.predict import evaluate_cache, predict_cache
from detheads.foundation import atomic
from detheads.foundation.coco_results import to_coco_results
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import Thresholds
from detheads.headkit.contract import Head, HeadOutput
from detheads.ops.nms import hard_nms
from detheads.ops.scores import detection_scores
from detheads.targets.objects import Targets
from detheads.training.checkpoint import build_head, load_checkpoint, matching_cache
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.training.world import HEIGHT, NARROW, WIDTH, World, make_world

CLASSES = 10
CANDIDATES = 40


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained for a moment on the images it is evaluated on, so that its statistics are not all zero."""
    run = tmp_path_factory.mktemp("run") / "run"
    config = TrainConfig(epochs=60, batch=5, lr=5e-3, eval_every=60, ema_decay=0.9)
    Trainer("fcos", NARROW["fcos"] | {"width": 32}, world.cache("val"), world.cache("val"), run, config).fit()
    return run


class Oracle(Head):
    """Answers with the annotated boxes, letterboxed by hand, image after image; copies are shifted and less sure."""

    def __init__(self, document: Mapping[str, Any], copies: int = 0) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))
        self.labels = {category["id"]: label for label, category in enumerate(document["categories"])}
        self.document, self.copies = document, copies
        self.images: Iterator[Mapping[str, Any]] = iter(document["images"])

    def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
        batch = len(next(iter(features.values())))
        boxes, logits = torch.zeros(batch, CANDIDATES, 4), torch.full((batch, CANDIDATES, CLASSES), -30.0)
        for row in range(batch):
            slot = 0
            image = next(self.images)
            scale = min(WIDTH / image["width"], HEIGHT / image["height"])
            width, height = round(image["width"] * scale), round(image["height"] * scale)
            left, top = (WIDTH - width) // 2, (HEIGHT - height) // 2
            for entry in self.document["annotations"]:
                if entry["image_id"] != image["id"]:
                    continue
                x, y, w, h = entry["bbox"]
                fx, fy = width / image["width"], height / image["height"]
                box = torch.tensor([x * fx + left, y * fy + top, (x + w) * fx + left, (y + h) * fy + top])
                for copy in range(self.copies + 1):
                    boxes[row, slot] = box + copy
                    logits[row, slot, self.labels[entry["category_id"]]] = 4.0 - copy
                    slot += 1
        return HeadOutput(boxes, logits, None, {})

    def loss(self, output: HeadOutput, targets: Sequence[Targets]) -> dict[str, Tensor]:
        return {}  # nothing to learn


def _sorted(results: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((entry["image_id"], entry["category_id"], *map(float, entry["bbox"])) for entry in results)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_boxes_come_back_in_original_pixels_with_the_datasets_own_ids(world: World, batch_size: int) -> None:
    document = world.annotations("val")
    results = predict_cache(Oracle(document), world.cache("val"), batch_size=batch_size)
    wanted = _sorted(document["annotations"])
    assert len(results) == len(wanted) >= 8
    assert {entry["category_id"] for entry in results} <= {10, 17, 24, 31, 38, 45, 52, 59, 66, 73}
    for found, expected in zip(_sorted(results), wanted, strict=True):
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_head_that_knows_everything_has_full_marks(world: World) -> None:
    statistics = evaluate_cache(Oracle(world.annotations("val")), world.cache("val"), batch_size=2)
    assert statistics.AP == statistics.AP75 == statistics.AR100 == pytest.approx(1.0)


def test_wrong_classes_have_no_marks(world: World) -> None:
    oracle = Oracle(world.annotations("val"))
    oracle.labels = {key: (label + 1) % CLASSES for key, label in oracle.labels.items()}
    assert evaluate_cache(oracle, world.cache("val")).AP < 0.05


def test_hard_suppression_drops_copies_and_soft_suppression_lowers_their_scores(world: World) -> None:
    document = world.annotations("val")
    boxes = len(document["annotations"])
    hard = predict_cache(Oracle(document, copies=1), world.cache("val"))
    soft = predict_cache(Oracle(document, copies=1), world.cache("val"), use_soft_nms=True)
    assert len(hard) == boxes
    assert len(soft) > boxes
    sure, unsure = (1 / (1 + pow(2.718281828, -logit)) for logit in (4.0, 3.0))
    assert {round(entry["score"], 4) for entry in hard} == {round(sure, 4)}
    assert all(entry["score"] < 0.6 * unsure for entry in soft if entry["score"] < sure - 0.01)


def test_thresholds_bound_number_and_score(world: World) -> None:
    document = world.annotations("val")
    one = predict_cache(Oracle(document), world.cache("val"), thresholds=Thresholds(max_detections=1))
    pictured = {entry["image_id"] for entry in document["annotations"]}
    assert sorted(entry["image_id"] for entry in one) == sorted(pictured)
    assert predict_cache(Oracle(document), world.cache("val"), thresholds=Thresholds(score=0.999)) == []


def test_progress_counts_images_and_the_mode_of_the_head_is_restored(world: World) -> None:
    seen: list[tuple[str, int, int]] = []
    head = Oracle(world.annotations("val")).train()
    predict_cache(head, world.cache("val"), batch_size=2, on_progress=lambda *progress: seen.append(progress))
    assert seen == [("evaluation", done, 5) for done in (2, 4, 5)]
    assert head.training


def _eval(detheads: Callable[..., Any], run: Path, cache: Path, *options: object) -> dict[str, Any]:
    finished = detheads("eval", run, "--cache", cache, *options, "--json")
    assert finished.code == 0, finished.err
    answer: dict[str, Any] = json.loads(finished.out)
    return answer


def test_eval_prints_the_twelve_statistics_and_those_of_each_class(
    run: Path, world: World, detheads: Callable[..., Any]
) -> None:
    answer = _eval(detheads, run, world.caches / "val")
    assert list(answer) == [*NAMES, "per_class", "scores", "errors", "remarks"]
    assert [each["score"] for each in answer["scores"]["table"]] == [tenth / 10 for tenth in range(1, 10)]
    objects, reached = len(world.annotations("val")["annotations"]), answer["scores"]["at_recall"]
    assert answer["errors"]["objects"] == objects  # this world has no crowds
    kept = answer["errors"]["found"]["all"]
    assert (reached["score"] is None) == (kept < objects / 2)
    assert ["the head was trained on" in remark for remark in answer["remarks"]] == [True]
    assert list(answer["per_class"]) == [category["name"] for category in world.annotations("val")["categories"]]
    assert 0.05 < answer["AP"] < 1
    assert all(answer[name] is None or 0 <= answer[name] <= 1 for name in NAMES)


def test_hotcoco_gives_the_same_statistics(run: Path, world: World, detheads: Callable[..., Any]) -> None:
    pytest.importorskip("hotcoco", reason="needs the hotcoco package")
    judge, fast = (
        _eval(detheads, run, world.caches / "val", "--evaluator", name) for name in ("pycocotools", "hotcoco")
    )
    assert fast.pop("per_class") == {name: pytest.approx(values) for name, values in judge.pop("per_class").items()}
    assert {name: fast[name] for name in NAMES} == pytest.approx({name: judge[name] for name in NAMES}, abs=1e-9)
    assert fast["scores"] == judge["scores"]


def test_the_results_file_holds_the_detections_of_the_chosen_suppression(
    run: Path, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    head = build_head(load_checkpoint(run))
    hard, soft = (predict_cache(head, world.cache("val"), use_soft_nms=kind) for kind in (False, True))
    assert hard != soft
    for options, wanted in (((), hard), (("--soft-nms", "--force"), soft)):
        _eval(detheads, run, world.caches / "val", *options, "--results", tmp_path / "a.json")
        assert json.loads((tmp_path / "a.json").read_text("utf-8")) == wanted
    (tmp_path / "a.json").write_text("mine")
    refused = detheads("eval", run, "--cache", world.caches / "val", "--results", tmp_path / "a.json")
    assert refused.code == 1 and "a.json exists; choose another file for --results, or replace it" in refused.err
    assert (tmp_path / "a.json").read_text() == "mine"


def test_best_and_last_weights_can_be_asked_for(run: Path, world: World, detheads: Callable[..., Any]) -> None:
    best, last = (_eval(detheads, run, world.caches / "val", "--which", which) for which in ("best", "last"))
    assert best == last  # one evaluation, after the last step


def test_eval_for_the_human_names_statistics_and_classes(
    run: Path, world: World, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    finished = detheads("eval", run, "--cache", world.caches / "val")
    assert all(name in finished.out for name in NAMES)
    assert all(category["name"] in finished.out for category in world.annotations("val")["categories"])
    assert all(kind in finished.out for kind in ("missed", "misplaced", "confused", "duplicate", "background"))
    assert "recall of 0.5" in finished.out


@pytest.mark.parametrize(
    ("cache", "sentence"),
    [
        ("square", "differs in its input size (96x96) from the cache the head was trained on (96x128)"),
        ("other", "differs in its backbone (timm:test_vit)"),
        ("fewer", "differs in its number of classes (3) from the cache the head was trained on (10)"),
    ],
)
def test_a_cache_of_another_kind_is_one_sentence(
    cache: str, sentence: str, run: Path, world: World, detheads: Callable[..., Any]
) -> None:
    finished = detheads("eval", run, "--cache", world.caches / cache)
    assert (finished.code, finished.result) == (1, "")
    assert sentence in finished.err.splitlines()[-1]


def test_other_class_names_are_one_sentence(run: Path, world: World) -> None:
    cache = FeatureCache(world.caches / "val")
    first, *others = load_checkpoint(run).categories
    checkpoint = load_checkpoint(run)
    renamed = type(first)(first.id, "heptagon")
    object.__setattr__(checkpoint, "categories", (renamed, *others))
    with pytest.raises(UserError, match=f"has the class '{first.name}' .* trained on 'heptagon'"):
        matching_cache(checkpoint, cache)


def test_a_cache_in_which_nothing_counts_is_refused_before_any_work(run: Path, world: World, tmp_path: Path) -> None:
    usable, cache = world.cache("val"), world.cache("val")
    crowds = [replace(objects, crowd=np.ones_like(objects.crowd)) for objects in cache.dataset.objects]
    cache.dataset = replace(cache.dataset, objects=tuple(crowds))
    with pytest.raises(UserError, match=r"nothing to evaluate on: all its \d+ boxes are crowd regions"):
        evaluate_cache(build_head(load_checkpoint(run)), cache)
    with pytest.raises(UserError, match="nothing to train on"):
        Trainer("fcos", NARROW["fcos"], cache, usable, tmp_path, TrainConfig())
    with pytest.raises(UserError, match="nothing to evaluate on"):
        Trainer("fcos", NARROW["fcos"], usable, cache, tmp_path, TrainConfig())


def test_features_that_are_not_finite_are_refused_with_their_image(run: Path, world: World, tmp_path: Path) -> None:
    shutil.copytree(world.caches / "val", tmp_path / "val")
    shard, manifest = tmp_path / "val" / "shard-00000.safetensors", tmp_path / "val" / "manifest.json"
    tensors = load_file(shard)
    next(iter(tensors.values()))[-1, 0, 0, 0] = torch.nan
    digest = atomic.sha256_of(shard)
    save_file(tensors, shard)
    manifest.write_text(manifest.read_text("utf-8").replace(digest, atomic.sha256_of(shard)))
    cache = FeatureCache(tmp_path / "val")
    with pytest.raises(UserError, match=rf"features of {cache.dataset.images[-1].file_name} .*not finite"):
        predict_cache(build_head(load_checkpoint(run)), cache, batch_size=2)


def test_weights_that_are_not_finite_are_refused_and_the_mode_of_the_head_is_restored(run: Path, world: World) -> None:
    head = build_head(load_checkpoint(run)).train()
    next(head.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"for \S+ of .*: its weights are damaged or diverged"):
        predict_cache(head, world.cache("val"))
    assert head.training


def test_reading_and_the_head_go_on_while_detections_are_suppressed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first suppression ends when the third image was read and the head has seen the second."""
    head, cache = Oracle(world.annotations("val")), world.cache("val")
    read, ran, both = set[int](), count(1), {"third read": Event(), "second seen": Event()}
    known, forward, suppress = cache.features, head.forward, predict.suppress

    def features(indices: Sequence[int], *options: Any) -> dict[str, Tensor]:
        read.update(indices)
        if 2 in read:
            both["third read"].set()
        return known(indices, *options)

    def look(given: Mapping[str, Tensor]) -> HeadOutput:
        if next(ran) == 2:
            both["second seen"].set()
        return forward(given)

    def wait(*arguments: Any) -> Any:
        assert all(event.wait(20) for event in both.values())
        return suppress(*arguments)

    monkeypatch.setattr(cache, "features", features)
    monkeypatch.setattr(head, "forward", look)
    monkeypatch.setattr(predict, "suppress", wait)
    monkeypatch.setattr(predict, "available_cores", lambda: 1)
    assert len(predict_cache(head, cache, batch_size=1)) == len(world.annotations("val")["annotations"])


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_detections_are_the_same_to_the_bit_on_any_number_of_cores(
    cores: int, run: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, cache = build_head(load_checkpoint(run)), world.cache("val")
    monkeypatch.setattr(predict, "available_cores", lambda: cores)
    assert predict_cache(head, cache, batch_size=2) == _in_turn(head, cache, 2)


def _in_turn(head: Head, cache: FeatureCache, batch_size: int) -> list[dict[str, Any]]:
    """One image after another."""
    results, thresholds, spec = [], Thresholds(), cache.feature_spec
    ids = [category.id for category in cache.dataset.categories]
    for start in range(0, len(cache), batch_size):
        indices = range(len(cache))[start : start + batch_size]
        with torch.no_grad():
            output = head(cache.features(indices))
            scores = detection_scores(output.logits, output.quality)
        for row, index in enumerate(indices):
            found = hard_nms(output.boxes[row], scores[row], thresholds, size=(spec.height, spec.width))
            boxes, values, labels = (part.numpy() for part in found)
            original = cache.letterbox(index).to_original(boxes)
            results += to_coco_results(cache.dataset.images[index].id, original, values, labels, ids)
    return results
