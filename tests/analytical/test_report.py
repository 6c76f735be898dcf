"""The report's numbers are those that slow loops and the evaluator give, and its files hang together."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detheads.analytical import diagnosis
from detheads.analytical.assignment import assign_cells
from detheads.analytical.closed_form import ClosedForm
from detheads.analytical.config import Config
from detheads.analytical.fit import FIT_NAME, STATISTICS_NAME, fit
from detheads.analytical.report import Report, write_report
from detheads.backbones.backbone import load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation.errors import UserError
from detheads.training.checkpoint import build_head, load_checkpoint

SIDE = 128
CLASSES = {4: "red | round", 9: "green $x$y_{", 11: "blue"}
COLOURS = {4: (230, 30, 30), 9: (20, 200, 40), 11: (30, 60, 240)}
ABSENT = 11
"""Only training images show this class."""


def _write_split(data: Path, split: str, count: int, shown: list[int], seed: int) -> None:
    """Grey noise with rectangles in the colours of their classes; the first is a crowd."""
    random = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (data / split).mkdir(parents=True)
    for number in range(count):
        pixels = random.integers(90, 150, (SIDE, SIDE, 3), dtype=np.uint8)
        for place in range(2):
            category = shown[(number + place) % len(shown)]
            width, height = random.integers(24, 60, 2)
            x, y = place * 62, random.integers(0, SIDE - height)
            pixels[y : y + height, x : x + width] = COLOURS[category]
            box = [float(x), float(y), float(width), float(height)]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box}
            annotations.append(entry | {"area": box[2] * box[3], "iscrowd": int(not annotations)})
        Image.fromarray(pixels).save(data / split / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": number, "name": name} for number, name in CLASSES.items()]
    path = data / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches, ``train`` and ``val``, and ``model``, fitted to the first."""
    folder = tmp_path_factory.mktemp("report")
    _write_split(folder / "data", "train", 24, list(CLASSES), seed=1)
    _write_split(folder / "data", "val", 9, [4, 9], seed=2)
    torch.manual_seed(0)
    encoder = load_backbone("timm:test_vit", (SIDE, SIDE), random_weights=True)
    for split in ("train", "val"):
        build_cache(read_dataset(folder / "data", split), encoder, folder / split)
    fit(FeatureCache(folder / "train"), Config(levels=3), folder / "model")
    return folder


@pytest.fixture(scope="module")
def written(world: Path) -> tuple[Report, Path]:
    """The report and its folder."""
    caches = [FeatureCache(world / split) for split in ("val", "train")]
    folder = world / "deep" / "report"
    return write_report(world / "model", caches[0], folder, train=caches[1], alphas=(1e6, 1e-2, 1.0)), folder


@pytest.fixture(scope="module")
def answer(written: tuple[Report, Path]) -> dict[str, Any]:
    """What stands in ``report.json``; NaN and infinity are refused, as other readers of JSON do."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found: dict[str, Any] = json.loads((written[1] / "report.json").read_text("utf-8"), parse_constant=refuse)
    return found


def _head(world: Path) -> ClosedForm:
    head = build_head(load_checkpoint(world / "model"))
    assert isinstance(head, ClosedForm)
    return head


def test_every_picture_that_the_markdown_links_is_there_and_nothing_else(written: tuple[Report, Path]) -> None:
    links = re.findall(r"!\[[^]]*]\(([^)]+)\)", (written[1] / "report.md").read_text("utf-8"))
    assert set(links) == {
        "score_histogram.png",
        "precision_recall.png",
        "scores.png",
        "errors.png",
        "anchor_coverage.png",
        "lambda_curve.png",
    }
    assert {path.name for path in written[1].iterdir()} == {*links, "index.html", "report.md", "report.json"}
    for link in links:
        with Image.open(written[1] / link) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # something is drawn


def test_the_statistics_are_those_of_the_evaluator(
    world: Path, written: tuple[Report, Path], answer: dict[str, Any]
) -> None:
    for split, found in (("val", answer["statistics"]), ("train", answer["training_statistics"])):
        expected = evaluate_cache(_head(world), FeatureCache(world / split)).to_dict()
        assert expected["AP50"] > 0.05  # the world is learnable, so the curves below are not empty
        assert found == expected
    assert answer["statistics"]["APl"] is None  # no object is that large
    assert answer["statistics"]["per_class"]["blue"] == {"AP": None, "AP50": None}
    assert written[0].statistics == evaluate_cache(_head(world), FeatureCache(world / "val")).to_dict()


def test_the_markdown_tells_the_numbers_of_the_json(written: tuple[Report, Path], answer: dict[str, Any]) -> None:
    text = (written[1] / "report.md").read_text("utf-8")
    for name in ("AP", "AP50", "AP75", "AR100"):
        row = f"| {name} | {answer['statistics'][name]:.4f} | {answer['training_statistics'][name]:.4f} |"
        assert row in text.splitlines()
    assert f"| parameters | {answer['parameters']:,} |" in text
    assert "| red \\| round |" in text
    assert "levels 3" in text
    assert all(f"- {remark}" in text for remark in answer["fit"]["remarks"])
    assert answer["fit"]["remarks"]  # the coarsest level has no object


@torch.inference_mode()
def test_the_auc_is_the_share_of_pairs_in_the_right_order(world: Path, answer: dict[str, Any]) -> None:
    head, cache = _head(world), FeatureCache(world / "val")
    background: list[list[float]] = []
    objects: dict[int, list[float]] = {label: [] for label in range(3)}
    for index in range(len(cache)):
        logits = head.proposals(cache.features([index]))[1][0]
        target = cache.targets(index)
        for cell, owner in enumerate(assign_cells(head.points, head.strides, target.boxes).tolist()):
            if owner < 0:
                background.append(logits[cell].tolist())
            else:
                label = int(target.labels[owner])
                objects[label].append(float(logits[cell, label]))
    found = answer["separation"]["classes"]
    assert answer["separation"]["background_share"] == 1
    for label, name in enumerate(CLASSES.values()):
        others = np.array(background)[:, label]
        assert (found[label]["name"], sum(found[label]["background"])) == (name, len(others))
        assert sum(found[label]["objects"]) == len(objects[label])
        if objects[label]:
            own = np.array(objects[label])[:, None]
            assert found[label]["auc"] == pytest.approx(float(((own > others) + 0.5 * (own == others)).mean()))
            assert 0.5 < found[label]["auc"] < 1
            assert found[label]["above_median"] == pytest.approx(float((others > np.median(own)).mean()))
    assert found[2]["auc"] is None


def test_a_part_of_many_background_cells_gives_about_the_same_auc(
    world: Path, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = sum(answer["separation"]["classes"][0]["background"])
    monkeypatch.setattr(diagnosis, "BACKGROUND_VALUES", cells * 3 // 2)  # of three classes: half the cells
    found, share = diagnosis.measure_separation(_head(world), FeatureCache(world / "val"), lambda *state: None)
    assert share == pytest.approx(0.5, abs=0.05)
    for few, all_cells in zip(found, answer["separation"]["classes"], strict=True):
        assert 0.4 * cells < sum(few.background) < 0.6 * cells
        assert few.auc == pytest.approx(all_cells["auc"], abs=0.05)


def test_log_odds_of_a_class_that_a_level_does_not_have_leave_the_histogram_readable() -> None:
    impossible = np.full(500, -1e9, dtype=np.float32)
    random = np.random.default_rng(0)
    ordinary = random.normal(-3, 1, 500).astype(np.float32)
    found = diagnosis._separation("a", random.normal(3, 1, 50).astype(np.float32), np.r_[impossible, ordinary])
    assert -10 < found.edges[0] < found.edges[-1] < 10
    assert sum(found.background) == 1000
    assert found.background[0] >= 500  # the outermost bin takes them


def test_the_mean_of_each_precision_recall_curve_is_the_average_precision(answer: dict[str, Any]) -> None:
    for curve, name in zip(answer["precision_recall"], ("AP50", "AP75"), strict=True):
        assert len(curve["precision"]) == len(curve["recall"]) == 101
        assert np.mean(curve["precision"]) == pytest.approx(answer["statistics"][name])
        assert curve["average_precision"] == pytest.approx(answer["statistics"][name])
        assert 0 <= curve["highest_recall"] <= 1
        assert all(np.diff(curve["precision"]) <= 1e-12)
    assert answer["precision_recall"][0]["average_precision"] > 0


def test_anchor_coverage_is_that_of_a_loop_over_objects_and_anchors(world: Path, answer: dict[str, Any]) -> None:
    cache, anchors = FeatureCache(world / "val"), _head(world).anchors.tolist()
    best, taken = [], [0] * len(anchors)
    for index in range(len(cache)):
        for x1, y1, x2, y2 in cache.targets(index).boxes.tolist():
            overlaps = []
            for width, height in anchors:
                common = min(width, x2 - x1) * min(height, y2 - y1)
                overlaps.append(common / (width * height + (x2 - x1) * (y2 - y1) - common))
            best.append(max(overlaps))
            taken[overlaps.index(max(overlaps))] += 1
    found = answer["anchor_coverage"]
    assert found["objects"] == len(best) == 2 * len(cache) - 1  # one is a crowd
    assert found["at_half"] == pytest.approx(sum(iou >= 0.5 for iou in best) / len(best))
    assert found["at_seven_tenths"] == pytest.approx(sum(iou >= 0.7 for iou in best) / len(best))
    assert [anchor["objects"] for anchor in found["anchors"]] == taken
    low, high = found["edges"][:-1], found["edges"][1:]
    assert found["counts"] == [sum(a <= iou < b for iou in best) for a, b in zip(low, high, strict=True)]


def test_r2_and_degrees_of_freedom_fall_as_the_penalty_grows(answer: dict[str, Any]) -> None:
    curve = answer["lambda_curve"]
    assert curve["rows"] == "training"
    assert curve["alphas"] == [1e-2, 1.0, 100.0, 1e6]  # ascending, with the fit's own
    assert curve["levels"][0]["cells"] > 15
    for level in curve["levels"]:
        assert len(level["r2"]) == len(level["degrees_of_freedom"]) == 4
        assert all(np.diff(level["degrees_of_freedom"]) < 0)
        if level["r2"][0] is not None:
            assert all(np.diff(level["r2"]) < 0)
            assert 0 <= level["r2"][-1] < level["r2"][0] <= 1


def test_a_report_without_objects_says_so_and_without_statistics_drops_the_old_curve(world: Path) -> None:
    train, val = (FeatureCache(world / split) for split in ("train", "val"))
    blue = [category for category in train.dataset.categories if category.id == ABSENT]
    model, folder = world / "blue", world / "blue-report"
    fit(train.restricted(blue), Config(levels=3), model)
    (model / STATISTICS_NAME).unlink()
    folder.mkdir()
    (folder / "lambda_curve.png").write_bytes(b"of an earlier report")
    report = write_report(model, val, folder)  # whose other classes, which the model does not know, are left out
    assert not (folder / "lambda_curve.png").exists()
    answer, text = (folder / "report.json").read_text("utf-8"), (folder / "report.md").read_text("utf-8")
    assert "NaN" not in answer
    found = json.loads(answer)
    assert found["lambda_curve"] is None and found["training_statistics"] is None
    assert found["statistics"]["AP"] is None and found["precision_recall"][0]["precision"] is None
    assert found["separation"]["classes"][0]["auc"] is None
    assert found["anchor_coverage"]["at_half"] is None
    assert "| AP | undefined |" in text and "lambda_curve.png" not in text
    assert report.statistics["AP"] is None and list(report.statistics["per_class"]) == ["blue"]


def test_with_the_dataset_folder_the_worst_images_are_drawn(world: Path, tmp_path: Path) -> None:
    write_report(world / "model", FeatureCache(world / "val"), tmp_path, data=world / "data", pictures=2)
    answer = json.loads((tmp_path / "report.json").read_text("utf-8"))
    worst = [image["id"] for image in answer["images"][:2]]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"strip-{place:02d}-{image}.jpg" for place, image in enumerate(worst, start=1)
    }
    assert "--data FOLDER" not in (tmp_path / "index.html").read_text("utf-8")


@pytest.mark.parametrize("alphas", [(0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_a_penalty_that_is_not_positive_is_refused(world: Path, tmp_path: Path, alphas: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="positive"):
        write_report(world / "model", FeatureCache(world / "val"), tmp_path / "report", alphas=alphas)
    assert not (tmp_path / "report").exists()


def test_a_fit_that_was_stopped_is_refused(world: Path, tmp_path: Path) -> None:
    model = shutil.copytree(world / "model", tmp_path / "model")
    described = json.loads((model / FIT_NAME).read_text("utf-8"))
    del described["seconds"]
    (model / FIT_NAME).write_text(json.dumps(described))
    with pytest.raises(UserError, match="not finished"):
        write_report(model, FeatureCache(world / "val"), tmp_path / "report")
