"""``detheads analytical`` as a user types it: models, refusals in one sentence, and the way to a running bundle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from detheads.analytical import ablation
from detheads.evaluation.coco import NAMES
from detheads.foundation import atomic
from tests.analytical.conftest import QUICK, files, fitted, refused, repeatable
from tests.training.conftest import world
from tests.training.world import World

__all__ = ["fitted", "refused", "repeatable", "world"]

SMALL = ("--threads", 1, *(part for name, value in asdict(QUICK).items() for part in ("-O", f"{name}={value}")))
"""Every option is said, so that the presets may change."""


@pytest.fixture(scope="module")
def train(world: World) -> Path:
    return world.caches / "train"


@pytest.fixture(scope="module")
def parts(train: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The statistics of both halves of the training cache."""
    from detheads.cli.main import run

    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{index} von 2" for index in (1, 2)]
    for index, path in enumerate(paths):
        command = ("analytical", "collect", "--cache", train, "-o", path, "--part", f"{index + 1}/2", *SMALL)
        assert run([str(each) for each in command]) == 0
    return paths


# What works


def test_fit_prints_one_json_object_and_progress_elsewhere(
    train: Path, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    model = tmp_path / "a model with spaces, größer"
    line = ("--cache", train, "--val", world.caches / "val", "-o", model, "--class", "crescent", *SMALL)
    finished = detheads("analytical", "fit", *line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer) == {"model", "parameters", "images", "rows", "seconds", "remarks", *NAMES}
    assert (answer["model"], answer["images"], answer["rows"]) == (str(model), 10, 660)
    assert all(f"note: {line}" in finished.err.replace("\n", " ") for line in answer["remarks"])
    assert any("fewer than the 15 anchors" in line for line in answer["remarks"])
    assert "survey" in finished.err
    assert answer == json.loads(detheads("analytical", "fit", *line, "--json").out) | {"seconds": answer["seconds"]}

    for cache in ("val", "train"):  # of all ten classes
        evaluated = detheads("eval", model, "--cache", world.caches / cache, "--json")
        assert evaluated.code == 0, evaluated.err
        statistics = json.loads(evaluated.out)
        assert list(statistics["per_class"]) == ["crescent"]
        if cache == "val":
            assert {name: statistics[name] for name in NAMES} == {name: answer[name] for name in NAMES}


def test_fit_for_the_human_is_a_line(train: Path, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    finished = detheads("analytical", "fit", "--cache", train, "-o", tmp_path / "model", *SMALL)
    assert finished.code == 0, finished.err
    assert finished.out.startswith(f"{tmp_path / 'model'}: 10,445 parameters from 10 images (660 rows); statistics ")
    assert "AP" not in finished.out


def test_parts_are_collected_and_merged(
    parts: list[Path], train: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    collected = detheads(
        "analytical", "collect", "--cache", train, "-o", parts[0], "--part", "1/2", *SMALL, "--json"
    )  # a finished part is kept
    answer = json.loads(collected.out)
    assert (answer["images"], answer["rows"], answer["part"]) == (5, 330, "1/2")
    assert answer["bytes"] == parts[0].stat().st_size
    merged = detheads(
        "analytical", "fit", "--cache", train, "-o", tmp_path / "model", "--statistics", parts[1], "--statistics",
        parts[0], *SMALL, "--json",
    )  # fmt: skip
    assert merged.code == 0, merged.err
    assert json.loads(merged.out)["images"] == 10


def test_the_evaluation_of_a_model_of_one_class_counts_only_that_class(
    train: Path, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    model = tmp_path / "model"
    assert detheads("analytical", "fit", "--cache", train, "-o", model, "--class", "star", *SMALL).code == 0
    finished = detheads("analytical", "eval", model, "--cache", world.caches / "val", "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    plain = json.loads(detheads("eval", model, "--cache", world.caches / "val", "--json").out)
    assert {name: answer[name] for name in NAMES} == {name: plain[name] for name in NAMES}
    assert Path(answer["report"]).is_file()


def test_a_sweep_lists_every_combination(fitted: Any, train: Path, detheads: Callable[..., Any]) -> None:
    line = ("analytical", "sweep", fitted.model, "--cache", train, "--alphas", "10,100", "--shrinkages", "0.01,0.3")
    answer = json.loads(detheads(*line, "--json").out)
    points = {(point["alpha"], point["shrinkage"]): point["AP"] for point in answer["points"]}
    assert set(points) == {(10, 0.01), (100, 0.01), (10, 0.3), (100, 0.3)}
    assert points[100, 0.01] == pytest.approx(fitted.metrics["AP"], abs=1e-9)
    assert len(detheads(*line).out.splitlines()) == 5


def test_ablate_writes_its_table(
    train: Path, tmp_path: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "ROWS", {"quick": QUICK})
    line = ("analytical", "ablate", "--cache", train, "--val", train, "-o", tmp_path / "table", "--row", "quick")
    answer = json.loads(detheads(*line, "--json").out)
    assert atomic.read_json(tmp_path / "table" / "ablation.json") == answer
    assert [row["row"] for row in answer["rows"]] == ["quick"]
    assert answer["rows"][0]["parameters"] == 10_445
    assert json.loads(detheads(*line, "--json").out) == answer


# What is refused


def test_training_a_closed_form_names_the_command_that_fits_it(
    train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    sentence = refused("train", "closed_form", "--cache", train, "--val", train, "-o", tmp_path / "run")
    assert "fit it with 'detheads analytical fit'" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--class", "person"), "has no class 'person'; it has disc, ring, triangle"),
        (("--preset", "best"), "unknown preset 'best'; there are reference, refined."),
        (("-O", "componets=3"), "head closed_form has no option 'componets'; it has anchor"),
        (("-O", "view=sideways"), "must be one of bands, context, not sideways"),
        (("-O", "rounds"), "a head option reads NAME=VALUE, not 'rounds'"),
        (("-O", "components=593"), "the features have 592 channels, too few for 593 components"),
        (("-O", "components=0"), "components belong to view=context or rounds"),
        (("--shrinkage", 1.5), "--shrinkage must be between 0 and 1, not 1.5"),
        (("--alpha", -1), "--alpha must be 0 or more, not -1"),
        (("--region-alpha", "nan"), "--region-alpha must be 0 or more, not nan"),
        (("--val", "CACHES/square"), "differs in its input size (96x96)"),
        (("--val", "CACHES/other"), "differs in its backbone (timm:test_vit)"),
        (("--val", "CACHES/fewer"), "differs in its number of classes (3)"),
        (("--class", "star", "--val", "CACHES/fewer"), "fewer has no class 'star'"),
        (("--statistics", "CACHES/nothing"), "nothing does not exist"),
        (("--statistics", "CACHES/train/manifest.json"), "manifest.json is damaged"),
    ],
)
def test_a_fit_that_cannot_be_is_one_sentence_and_leaves_no_folder(
    arguments: tuple[object, ...], sentence: str, world: World, train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    given = [str(each).replace("CACHES", str(world.caches)) for each in arguments]
    assert sentence in refused("analytical", "fit", "--cache", train, "-o", tmp_path / "model", *given)
    assert not (tmp_path / "model").exists()


def test_a_class_without_an_object_is_one_sentence(
    world: World, tmp_path: Path, detheads: Callable[..., Any], refused: Callable[..., str]
) -> None:
    """The validation images hold no cross."""
    line = ("--cache", world.caches / "val", "-o", tmp_path / "model", *SMALL)
    assert "holds no object of cross; there is nothing to fit" in refused(
        "analytical", "fit", *line, "--class", "cross"
    )
    both = refused("analytical", "fit", *line, "--class", "cross", "--class", "heart")
    assert "no cell stands for an object of cross; name other classes with --class" in both


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("0/3", "--part 0/3 does not exist for 10 images"),
        ("4/3", "--part 4/3 does not exist for 10 images"),
        ("1/0", "--part 1/0 does not exist"),
        ("1/11", "--part 1/11 does not exist for 10 images"),
        ("half", "--part reads I/N, such as 2/4, not 'half'"),
        ("1/2/3", "--part reads I/N, such as 2/4, not '1/2/3'"),
        ("-1/3", "--part reads I/N, such as 2/4, not '-1/3'"),
    ],
)
def test_a_part_that_does_not_exist_is_one_sentence(
    part: str, sentence: str, train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert sentence in refused("analytical", "collect", "--cache", train, "-o", tmp_path / "x", "--part", part, *SMALL)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("cache", "options", "sentence"),
    [
        ("other", (), "was collected with another backbone: timm:test_vit, not effnet_lite0"),
        ("square", (), "was collected with another input size: 96x96, not 96x128"),
        ("fewer", (), "was collected with another classes: ['disc', 'ring', 'triangle'], not"),
        ("val", (), "was collected with other anchors, which come from a cache's images and boxes"),
        ("train", ("-O", "components=5"), "was collected with another components: 5, not 6"),
        ("train", ("-O", "levels=4"), "was collected with another levels: 4, not 5"),
        (
            "train",
            ("-O", "view=bands", "-O", "components=0"),
            "was collected with another view: bands, not context",
        ),
    ],
)
def test_statistics_of_something_else_are_not_merged(
    cache: str,
    options: tuple[object, ...],
    sentence: str,
    world: World,
    train: Path,
    tmp_path: Path,
    detheads: Callable[..., Any],
    refused: Callable[..., str],
) -> None:
    other = tmp_path / "other"
    line = ("--cache", world.caches / cache, "-o", other, "--part", "1/5", *SMALL, *options)
    collected = detheads("analytical", "collect", *line)
    assert collected.code == 0, collected.err
    before = other.read_bytes()
    given = ("--cache", train, "-o", tmp_path / "model", "--statistics", other, *SMALL)
    assert sentence in refused("analytical", "fit", *given)
    assert not (tmp_path / "model").exists()
    refused("analytical", "collect", "--cache", train, "-o", other, *SMALL)  # nor overwritten
    assert other.read_bytes() == before


def test_the_same_part_twice_is_one_sentence(
    parts: list[Path], train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    given = ("--statistics", parts[0], "--statistics", parts[0])
    sentence = refused("analytical", "fit", "--cache", train, "-o", tmp_path / "model", *given, *SMALL)
    assert "both statistics hold images" in sentence
    assert "give each part once" in sentence


def test_a_part_is_not_overwritten_by_another(
    parts: list[Path], train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    own = Path(shutil.copy(parts[0], tmp_path / "part"))
    line = ("analytical", "collect", "--cache", train, *SMALL)
    assert "holds statistics of other images" in refused(*line, "-o", own, "--part", "2/2")
    assert own.read_bytes() == parts[0].read_bytes()
    assert "is a folder" in refused(*line, "-o", tmp_path)


@pytest.mark.parametrize("damage", ["header", "truncated"])
def test_a_damaged_part_is_one_sentence(
    damage: str, parts: list[Path], train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    data, broken = parts[0].read_bytes(), tmp_path / "broken"
    broken.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:] if damage == "header" else data[:-1000])
    given = ("--statistics", broken, "--statistics", parts[1])
    sentence = refused("analytical", "fit", "--cache", train, "-o", tmp_path / "model", *given, *SMALL)
    assert f"{broken} is damaged" in sentence
    assert "detheads analytical collect" in sentence


def test_a_folder_that_holds_something_else_is_left_alone(
    train: Path, tmp_path: Path, fitted: Any, refused: Callable[..., str]
) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"irreplaceable")
    line = ("analytical", "fit", "--cache", train, *SMALL)
    assert "is not empty and holds no fit" in refused(*line, "-o", foreign)
    assert files(foreign) == {"holiday.jpg": b"irreplaceable"}
    model = Path(shutil.copytree(fitted.model, tmp_path / "model"))
    before = files(model)
    assert "holds a fit with another strengths" in refused(*line, "-o", model, "--alpha", 7)
    assert "holds a fit with another options" in refused(*line, "-o", model, "-O", "anchor=soft")
    assert "holds a fit with another classes" in refused(*line, "-o", model, "--class", "star")
    assert files(model) == before


def test_sweeps_that_cannot_be_are_one_sentence(
    fitted: Any, world: World, train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = ("analytical", "sweep", fitted.model, "--cache")
    assert "--alphas takes numbers separated by commas, not '1,many'" in refused(*line, train, "--alphas", "1,many")
    assert "--alpha must be 0 or more" in refused(*line, train, "--alphas=-1")
    assert "--shrinkage must be between 0 and 1" in refused(*line, train, "--shrinkages", "2")
    assert "differs in its backbone" in refused(*line, world.caches / "other")
    nothing = refused("analytical", "sweep", tmp_path, "--cache", train)
    assert f"{tmp_path / 'statistics.safetensors'} does not exist" in nothing


def test_an_unknown_row_is_one_sentence_before_anything_is_done(
    train: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    line = ("analytical", "ablate", "--cache", train, "--val", train, "-o", tmp_path / "table")
    assert "unknown ablation row 'magic'; there are reference, " in refused(
        *line, "--row", "reference", "--row", "magic"
    )
    assert not (tmp_path / "table").exists()


# All the way


@pytest.mark.slow
@pytest.mark.parametrize("classes", [(), ("star", "crescent")], ids=["all", "two"])
def test_a_fitted_model_becomes_a_proven_bundle_that_runs(
    classes: tuple[str, ...], world: World, train: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    model, bundle = tmp_path / "model", tmp_path / "x.detheads"
    chosen = [part for name in classes for part in ("--class", name)]
    options = ("-O", "components=16", "-O", "rounds=1", "-O", "voting=0.7", "--threads", 1)
    caches = ("--cache", train, "--val", world.caches / "val")
    fit = detheads("analytical", "fit", *caches, "-o", model, *options, *chosen)
    assert fit.code == 0, fit.err
    exported = detheads("export", model, "--data", world.data, "-o", bundle, "--onnx-only", "--json")
    assert exported.code == 0, exported.err
    report = atomic.read_json(bundle / "report.json")
    assert report["passed"] is True
    assert abs(report["map_drop"]) <= 0.001
    ran = detheads("deploy", "run", bundle, world.data, "--split", "val", "-o", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    found = atomic.read_json(tmp_path / "out" / "detections.json")
    ids = {entry["name"]: entry["id"] for entry in world.annotations("val")["categories"]}
    assert found
    assert {entry["category_id"] for entry in found} <= {ids[name] for name in (classes or ids)}
