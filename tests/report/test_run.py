"""``detheads eval -o``: the report of a trained run on real caches, and the mistakes of those who ask for it."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detheads.data import read_dataset
from detheads.evaluation.coco import NAMES, evaluate
from detheads.evaluation.scores import best_scores
from detheads.foundation.coco_results import read_results
from detheads.report.errors import WRONG, Kind
from detheads.report.files import write_document
from detheads.report.findings import draw_worst, findings, scores_section, verdict
from detheads.report.measured import measure
from detheads.report.sections import Document
from detheads.training.config import TrainConfig
from detheads.training.trainer import Trainer
from tests.report.browser import Elements
from tests.report.scenes import dataset, found
from tests.training.world import NARROW, World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "a run"
    config = TrainConfig(epochs=12, batch=5, lr=5e-3, eval_every=12, ema_decay=0.9)
    Trainer("fcos", NARROW["fcos"], world.cache("val"), world.cache("val"), folder, config).fit()
    return folder


def test_eval_writes_a_report_whose_figures_are_those_of_its_detections(
    world: World, run: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    target, results = tmp_path / "deep" / "report", tmp_path / "results.json"
    options = ("--data", world.data, "--pictures", 2, "--results", results, "-o", target, "--json")
    finished = detheads("eval", run, "--cache", world.caches / "val", *options)
    assert finished.code == 0, finished.err
    printed = json.loads(finished.out)
    assert printed["report"] == str(target / "index.html")
    answer = json.loads((target / "report.json").read_text("utf-8"))
    plain = detheads("eval", run, "--cache", world.caches / "val", "--json")
    assert json.loads(plain.out) == {key: value for key, value in printed.items() if key != "report"}
    truth = world.cache("val").dataset.coco_json()
    statistics = evaluate(truth, read_results(results)).to_dict()
    for name in NAMES:
        assert printed[name] == statistics[name]
        assert answer["statistics"][name] == statistics[name]
    assert answer["precision_recall"][0]["average_precision"] == pytest.approx(statistics["AP50"])
    assert {name: each and each["score"] for name, each in answer["scores"]["per_class"].items()} == {
        name: best_scores(truth, read_results(results)).get(name) for name in printed["per_class"]
    }
    objects = sum(1 for entry in truth["annotations"] if not entry["iscrowd"])
    assert answer["errors"]["objects"] == objects
    assert answer["errors"]["found"]["all"] + answer["errors"]["missed"]["all"] <= objects
    assert sum(each["objects"] for each in answer["classes"]) == objects
    assert (answer["head"], answer["dataset"]["images"]) == ("fcos", 5)
    strips = Counter(path.name.partition("-")[0] for path in (target / "pictures").iterdir())
    assert strips == {"strip": 2, "false": 2, "missed": 2}
    elements = Elements(target / "index.html")
    assert len(elements.all("img")) == 3 + 6 * 2  # three plots, six strips of two panels
    for name in NAMES:
        assert name in elements.text
    assert {path.name for path in target.iterdir()} == {
        "index.html",
        "report.md",
        "report.json",
        "precision_recall.png",
        "scores.png",
        "errors.png",
        "pictures",
    }


def test_without_the_image_files_the_report_says_how_to_get_pictures(
    world: World, run: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    finished = detheads("eval", run, "--cache", world.caches / "val", "-o", tmp_path)
    assert finished.code == 0, finished.err
    assert f"report {tmp_path / 'index.html'}" in finished.out
    for name in ("index.html", "report.md"):
        assert "--data FOLDER" in (tmp_path / name).read_text("utf-8")
    assert not (tmp_path / "pictures").exists()


def test_mistakes_are_one_sentence_and_leave_no_report(
    world: World, run: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    (tmp_path / "file").write_text("mine")
    other = Path(shutil.copytree(world.data, tmp_path / "other"))
    for changed in sorted((other / "val").iterdir()):
        Image.new("RGB", (64, 64)).save(changed)
    cases = [
        ((run, "--cache", world.caches / "val", "-o", tmp_path / "file"), "file is not a folder"),
        ((run, "--cache", world.caches / "val", "-o", tmp_path / "file" / "below"), "file is not a folder"),
        ((run, "--cache", world.caches / "val", "--data", world.data), "give a folder for them with -o or --failures"),
        ((tmp_path, "--cache", world.caches / "val", "-o", tmp_path / "r"), "best.safetensors does not exist"),
        ((run, "--cache", world.caches / "fewer", "-o", tmp_path / "r"), "differs in its number of classes"),
        ((run, "--cache", world.caches / "val", "-o", tmp_path / "r", "--data", tmp_path), "is not a dataset folder"),
        ((run, "--cache", world.caches / "val", "-o", tmp_path / "r", "--data", other), "has 64x64 pixels, but"),
        ((run, "--cache", world.caches / "val", "--failures", tmp_path / "f"), "name their dataset with --data"),
        ((), "nothing to evaluate: give a training run and --cache CACHE, or --detections"),
        ((run,), "give the feature cache to evaluate on with --cache"),
        ((run, run, "--cache", world.caches / "val", "-o", tmp_path / "r"), "are for one run"),
        ((run, "--detections", tmp_path / "file", "--data", world.data), "leave the runs and --cache out"),
        (("--detections", tmp_path / "file"), "need the dataset that they are of"),
        (("--detections", tmp_path / "file", "--data", world.data, "--split", "val"), "is not readable JSON"),
    ]
    for arguments, sentence in cases:
        finished = detheads("eval", *arguments)
        assert finished.code == 1
        (line,) = [line for line in finished.err.splitlines() if line.startswith("error: ")]
        assert sentence in line
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "r").exists()


def _written(folder: Path, known: Any, results: list[dict[str, Any]], data: Path | None = None) -> dict[str, Any]:
    statistics = evaluate(known.coco_json(), results)
    measured = measure(known, results, statistics)
    examples = draw_worst(measured, data, 3)
    sections = [scores_section({"value": statistics}), *findings(measured, examples, "how to get pictures")]
    write_document(Document("a report", verdict(measured), {}, sections, measured.to_dict()), folder)
    text = (folder / "report.json").read_text("utf-8")
    assert "NaN" not in text
    answer: dict[str, Any] = json.loads(text)
    return answer


BOX = (10.0, 10.0, 60.0, 60.0)


def test_a_dataset_without_objects_defines_nothing_and_one_without_detections_misses_everything(tmp_path: Path) -> None:
    bare = dataset([[], []])
    answer = _written(tmp_path, bare, [found(bare, 0, 1, BOX, 0.9)])
    assert answer["statistics"]["AP"] is None
    assert answer["precision_recall"][0]["precision"] is None
    assert answer["errors"]["background"] == {"all": 1, "at_score": 1, "ap50_gained": None}
    assert "AP is undefined" in (tmp_path / "report.md").read_text("utf-8")

    silent = dataset([[(0, BOX)], [(0, BOX)]])
    answer = _written(tmp_path, silent, [])
    assert answer["statistics"]["AP"] == 0
    assert answer["errors"]["missed"] == {"all": 2, "at_score": 2, "ap50_gained": 1.0}
    assert answer["working_point"] is None
    assert [each["AP"] for each in answer["classes"]] == [0, None]  # the class without objects comes last
    assert "| class 1 | 0 | undefined | undefined |" in (tmp_path / "report.md").read_text("utf-8")


def test_one_class_has_no_table_of_classes_and_perfect_detections_no_worst_image(tmp_path: Path) -> None:
    known = dataset([[(0, BOX)]], classes=1)
    answer = _written(tmp_path, known, [found(known, 0, 0, BOX, 0.9)])
    assert answer["images"] == []
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "No image has an error" in text
    assert "Classes" not in text
    assert "how to get pictures" not in text


def test_what_a_class_is_taken_for_is_counted_on_its_objects(tmp_path: Path) -> None:
    known = dataset([[(0, BOX)], [(0, BOX)], [(1, BOX)]], classes=3)
    results = [found(known, 0, 2, BOX, 0.9), found(known, 1, 2, BOX, 0.8), found(known, 2, 1, BOX, 0.7)]
    answer = _written(tmp_path, known, results)
    taken = {each["name"]: each["taken_for"] for each in answer["classes"]}
    assert taken == {"class 0": ["class 2", 2], "class 1": None, "class 2": None}


def test_photographs_show_misplaced_and_missed_objects_in_their_colours(photographs: Path, tmp_path: Path) -> None:
    """Detections made from the annotations of real photographs: some left out, some shifted, some twice."""
    data = photographs / "raccoon"
    known = read_dataset(data, "val")
    results, expected = [], dict.fromkeys(Kind, 0)
    number, fates = 0, (Kind.FOUND, Kind.MISPLACED, Kind.MISSED, Kind.DUPLICATE)
    for image, objects in enumerate(known.objects):
        for box, label in zip(objects.boxes, objects.labels, strict=True):
            # Where another object is near, a shifted box could find that one.
            fate = fates[number % 4] if len(objects.boxes) == 1 else Kind.FOUND
            number += 1
            shifted = box + np.array([0.5, 0, 0.5, 0]) * (box[2] - box[0])  # IoU 1/3
            if fate is not Kind.MISSED:
                drawn = shifted if fate is Kind.MISPLACED else box
                results.append(found(known, image, int(label), tuple(drawn.tolist()), 0.9))
            if fate is Kind.DUPLICATE:
                results.append(found(known, image, int(label), tuple(box.tolist()), 0.85))
                expected[Kind.FOUND] += 1
            expected[fate] += 1
    answer = _written(tmp_path, known, results, data)
    for kind in Kind:
        assert answer["errors"][kind.label]["all"] == expected[kind]
    assert all(expected[kind] > 0 for kind in (Kind.MISSED, Kind.MISPLACED, Kind.DUPLICATE))
    gains = {kind: answer["errors"][kind.label]["ap50_gained"] for kind in WRONG}
    assert gains[Kind.MISPLACED] > 0.1 and gains[Kind.MISSED] > 0.05 and gains[Kind.CONFUSED] == 0
    assert len(list((tmp_path / "pictures").iterdir())) == 3
