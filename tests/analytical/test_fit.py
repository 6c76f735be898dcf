"""The whole fit: rounds help, a killed one goes on, parts add up, classes are chosen, tables keep what is finished."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detheads.analytical import ablation, passes, rounds
from detheads.analytical.ablation import ablate
from detheads.analytical.config import Config
from detheads.analytical.fit import FitResult, collect_part, fit
from detheads.analytical.plan import select_classes
from detheads.analytical.solve import Strengths
from detheads.analytical.sweep import sweep
from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache, predict_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.progress import silent
from detheads.headkit import registry
from detheads.training.checkpoint import build_head, load_checkpoint, matching_cache
from tests.analytical.conftest import QUICK, files
from tests.training.world import World

ROUND = replace(QUICK, rounds=1, grid=3, proposals=40, hidden=6)


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


@pytest.fixture
def often_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five batches of two images, and a save after each."""
    monkeypatch.setattr(passes, "BATCH", 2)
    monkeypatch.setattr(passes, "SAVE_SECONDS", -1.0)


# What a fit leaves


def test_a_fit_leaves_a_model_and_says_what_it_did(fitted: FitResult, world: World) -> None:
    assert set(files(fitted.model)) == {
        "best.safetensors",
        "estimators.safetensors",
        "fit.json",
        "statistics.safetensors",
    }
    record = atomic.read_json(fitted.model / "fit.json")
    train = world.cache("train")
    assert record["options"]["components"] == 6
    assert (record["images"], record["rows"], record["classes"]) == (10, 660, train.dataset.class_names)
    assert record["metrics"] == fitted.metrics
    assert set(record["seconds"]) == {"statistics", "solve", "rounds", "evaluation"}
    assert record["remarks"] == fitted.remarks
    assert 0.05 < fitted.metrics["AP"] <= 1
    head = build_head(load_checkpoint(fitted.model))
    assert fitted.parameters == sum(parameter.numel() for parameter in head.parameters())
    assert fitted.metrics["AP"] == pytest.approx(evaluate_cache(head, train).AP, abs=1e-9)


def test_a_round_raises_ap_on_the_images_fitted_on(fitted: FitResult, world: World, tmp_path: Path) -> None:
    train = world.cache("train")
    refined = fit(train, replace(QUICK, rounds=1), tmp_path / "model", val=train)
    assert refined.metrics["AP"] > fitted.metrics["AP"] + 0.01
    assert refined.metrics["AP75"] > fitted.metrics["AP75"]


def test_a_finished_fit_run_again_gives_the_same_model_without_a_pass(world: World, tmp_path: Path) -> None:
    train = world.cache("train")
    fit(train, ROUND, tmp_path / "model")
    before = files(tmp_path / "model")
    seen: set[str] = set()
    fit(train, ROUND, tmp_path / "model", on_progress=lambda step, done, total: seen.add(step))
    after = files(tmp_path / "model")
    assert seen == {"survey"}
    assert {name for name in before if before[name] != after[name]} <= {"fit.json"}  # it holds wall times


def test_a_round_without_a_box_to_learn_from_is_one_sentence(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "MATCHED", 1.1)
    with pytest.raises(UserError, match=r"round 1 has nothing to learn from; fit with .*rounds"):
        fit(world.cache("train"), ROUND, tmp_path / "model")


# A fit that was killed


@pytest.mark.usefixtures("often_saved")
@pytest.mark.parametrize(("step", "survives"), [("statistics", 4), ("round 1", 8), ("round 2", 6)])
def test_a_killed_fit_goes_on_and_gives_the_same_model(step: str, survives: int, world: World, tmp_path: Path) -> None:
    train, config = world.cache("train"), replace(ROUND, rounds=2)
    fit(train, config, tmp_path / "whole")

    def kill(name: str, done: int, total: int) -> None:
        if name == step and done > survives:
            raise KilledError

    with pytest.raises(KilledError):
        fit(train, config, tmp_path / "killed", on_progress=kill)
    assert not (tmp_path / "killed" / "best.safetensors").exists()
    steps: list[tuple[str, int]] = []
    fit(train, config, tmp_path / "killed", on_progress=lambda name, done, total: steps.append((name, done)))
    assert [done for name, done in steps if name == step] == list(range(survives + 2, 11, 2))
    if step != "statistics":
        assert "statistics" not in {name for name, _ in steps}
    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert {name for name in whole if whole[name] != killed[name]} <= {"fit.json"}


@pytest.mark.usefixtures("often_saved")
def test_a_damaged_round_is_made_again(world: World, tmp_path: Path) -> None:
    train = world.cache("train")
    fit(train, ROUND, tmp_path / "model")
    path = tmp_path / "model" / "round0.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-100] + bytes([sound[-100] ^ 0x10]) + sound[-99:])
    steps: set[str] = set()
    fit(train, ROUND, tmp_path / "model", on_progress=lambda step, done, total: steps.add(step))
    assert "round 1" in steps
    assert path.read_bytes() == sound


SLOW_FIT = """
import sys, time
from detheads.analytical import fit, passes  # the survey, imported with the fit, keeps its batches
from detheads.cache.reader import FeatureCache
from detheads.cli.main import run

read = FeatureCache.features

def slowly(*arguments, **options):
    time.sleep(0.1)
    return read(*arguments, **options)

FeatureCache.features = slowly
passes.BATCH, passes.SAVE_SECONDS = 2, -1.0
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.usefixtures("often_saved")
@pytest.mark.parametrize(
    "saved", ["statistics.safetensors", pytest.param("round0.safetensors", marks=pytest.mark.slow)]
)
def test_a_process_killed_for_good_loses_nothing(saved: str, world: World, tmp_path: Path) -> None:
    model = tmp_path / "a model, größer"
    config = replace(ROUND, hidden=0)
    options = [f"{name}={value}" for name, value in asdict(config).items()]
    command = ["analytical", "fit", "--cache", str(world.caches / "train"), "-o", str(model), "--threads", "1"]
    command += [part for option in options for part in ("-O", option)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_FIT, *command],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not (model / saved).exists():
        assert process.poll() is None, "the fit ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (model / "best.safetensors").exists()
    steps: list[tuple[str, int]] = []
    fit(world.cache("train"), config, model, on_progress=lambda step, done, total: steps.append((step, done)))
    resumed = "statistics" if saved.startswith("statistics") else "round 1"
    assert min(done for step, done in steps if step == resumed) > 2
    fit(world.cache("train"), config, tmp_path / "whole")
    for name in ("best.safetensors", saved):
        assert (model / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


# Parts


@pytest.fixture(scope="module")
def parts(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Statistics of three parts of the training cache."""
    folder = tmp_path_factory.mktemp("parts")
    for index in (1, 2, 3):
        collect_part(world.cache("train"), QUICK, folder / f"part {index}", (index, 3), silent)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_fit_from_parts_equals_the_fit_of_one_pass(
    order: Sequence[int], parts: list[Path], fitted: FitResult, world: World, tmp_path: Path
) -> None:
    train = world.cache("train")
    steps: set[str] = set()
    given = [parts[index] for index in order]
    merged = fit(
        train, QUICK, tmp_path / "model", val=train, parts=given, on_progress=lambda step, done, total: steps.add(step)
    )
    assert "statistics" not in steps
    assert (merged.images, merged.rows, merged.remarks) == (fitted.images, fitted.rows, fitted.remarks)
    assert merged.metrics["AP"] == pytest.approx(fitted.metrics["AP"], abs=1e-3)
    own, wanted = (load_file(folder / "best.safetensors") for folder in (merged.model, fitted.model))
    for name, value in wanted.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(own[name], value, rtol=0, atol=1e-3 * scale, msg=name)


def test_parts_that_leave_images_out_are_refused_and_leave_nothing(
    parts: list[Path], world: World, tmp_path: Path
) -> None:
    for given in (parts[:2], parts[1:]):
        with pytest.raises(UserError, match=r"of the 10 of .*; give every part once"):
            fit(world.cache("train"), QUICK, tmp_path / "model", parts=given)
        assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("often_saved")
def test_a_part_that_was_stopped_is_refused_until_it_is_finished(
    parts: list[Path], world: World, tmp_path: Path
) -> None:
    def kill(step: str, done: int, total: int) -> None:
        if (step, done) == ("statistics", 4):
            raise KilledError

    train, stopped = world.cache("train"), tmp_path / "part 3"
    with pytest.raises(KilledError):
        collect_part(train, QUICK, stopped, (3, 3), kill)
    with pytest.raises(UserError, match="finish a stopped one"):
        fit(train, QUICK, tmp_path / "model", parts=[*parts[:2], stopped])
    collect_part(train, QUICK, stopped, (3, 3), silent)
    assert fit(train, QUICK, tmp_path / "model", parts=[*parts[:2], stopped]).images == 10


# Classes


@pytest.mark.parametrize("names", [("crescent",), ("star", "triangle")])
def test_a_model_of_some_classes_keeps_their_ids_and_counts_only_them(
    names: tuple[str, ...], world: World, tmp_path: Path
) -> None:
    everything = world.cache("train")
    ids = {category.name: category.id for category in everything.dataset.categories}
    chosen = select_classes(everything, names)
    result = fit(chosen, QUICK, tmp_path / "model", val=everything)
    checkpoint = load_checkpoint(tmp_path / "model")
    in_order = [name for name in everything.dataset.class_names if name in names]
    assert [(category.name, category.id) for category in checkpoint.categories] == [
        (name, ids[name]) for name in in_order
    ]
    assert set(result.metrics["per_class"]) == set(names)
    matched = matching_cache(checkpoint, everything)
    found = predict_cache(build_head(checkpoint), matched)
    assert {entry["category_id"] for entry in found} == {ids[name] for name in names}
    counted = [entry["category_id"] for entry in matched.dataset.coco_json()["annotations"]]
    wanted = [entry["category_id"] for entry in world.annotations("train")["annotations"]]
    assert sorted(counted) == sorted(each for each in wanted if each in {ids[name] for name in names})
    assert result.metrics["AP50"] > 0.2


def test_a_dataset_of_fewer_classes_keeps_ids_crowds_and_areas(world: World) -> None:
    whole = world.cache("train").dataset
    crowded = replace(
        whole,
        objects=tuple(
            replace(each, crowd=np.arange(len(each.crowd)) % 2 == 1, area=each.area + 0.5) for each in whole.objects
        ),
    )
    categories = [whole.categories[7], whole.categories[2]]
    part = crowded.restricted(categories)
    kept = {category.id for category in categories}
    assert part.images == whole.images
    assert part.categories == tuple(categories)
    found, wanted = (
        [
            {key: entry[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")}
            for entry in dataset.coco_json()["annotations"]
            if entry["category_id"] in kept
        ]
        for dataset in (part, crowded)
    )
    assert found == wanted
    assert len(part.coco_json()["annotations"]) == len(wanted) > 4
    assert {entry["iscrowd"] for entry in wanted} == {0, 1}
    assert len(whole.objects[4].labels) == 6  # nothing was taken from the whole


def test_an_unknown_class_is_answered_with_the_known_ones(world: World) -> None:
    with pytest.raises(UserError, match="has no class 'person'; it has disc, ring, triangle, square"):
        select_classes(world.cache("train"), ["disc", "person"])


def test_without_names_all_classes_are_taken(world: World) -> None:
    train = world.cache("train")
    assert select_classes(train, []) is train


# Sweep


def test_a_sweep_at_the_fit_s_own_strengths_reaches_what_the_fit_reaches(fitted: FitResult, world: World) -> None:
    points = sweep(fitted.model, world.cache("train"), [1.0, 100.0, 1e6], [0.01], silent)
    assert [point.strengths.alpha for point in points] == [1.0, 100.0, 1e6]
    assert fitted.metrics["AP"] == pytest.approx(points[1].statistics.AP, abs=1e-9)
    assert len({point.statistics.AP for point in points}) == 3


@pytest.mark.parametrize("config", [ROUND, Config(components=6, rounds=1, grid=3)], ids=["context", "bands"])
def test_a_sweep_of_a_model_with_rounds_is_that_of_its_first_stage(
    config: Config, narrow: FeatureCache, tmp_path: Path
) -> None:
    fit(narrow, config, tmp_path / "rounds")
    components = config.components if config.view == "context" else 0
    first = fit(narrow, replace(config, rounds=0, components=components), tmp_path / "first", val=narrow)
    seen: list[tuple[str, int, int]] = []
    (_, point) = sweep(tmp_path / "rounds", narrow, [100.0], [0.5, 0.01], lambda *state: seen.append(state))
    assert point.strengths == Strengths(shrinkage=0.01, alpha=100.0)
    assert first.metrics["AP"] == pytest.approx(point.statistics.AP, abs=1e-9)
    assert seen == [("sweep", 1, 2), ("sweep", 2, 2)]


def test_a_sweep_needs_the_statistics_of_the_model(fitted: FitResult, world: World, tmp_path: Path) -> None:
    model = Path(shutil.copytree(fitted.model, tmp_path / "model"))
    (model / "statistics.safetensors").unlink()
    with pytest.raises(UserError, match=r"statistics\.safetensors does not exist"):
        sweep(model, world.cache("train"), [1.0], [0.01], silent)


# Ablation


@pytest.fixture
def quick_rows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    rows = {"one": QUICK, "two": replace(QUICK, anchor="soft"), "three": replace(ROUND, hidden=0)}
    monkeypatch.setattr(ablation, "ROWS", rows)
    return list(rows)


def test_rows_share_a_pass_and_finished_ones_are_kept(quick_rows: list[str], world: World, tmp_path: Path) -> None:
    train, val = world.cache("train"), world.cache("val")
    steps: list[str] = []

    def watch(step: str, done: int, total: int) -> None:
        steps.append(step)

    first = ablate(train, val, tmp_path, quick_rows[:2], Strengths(), watch)
    assert steps.count("statistics") == 2  # ten images in batches of eight, once
    assert [row.name for row in first] == ["one", "two"]
    before = {name: files(tmp_path / name) for name in quick_rows[:2]}
    steps.clear()
    again = ablate(train, val, tmp_path, quick_rows, Strengths(), watch)
    assert "statistics" not in steps
    assert {step.partition(":")[0] for step in steps if ":" in step} == {"three"}
    assert {name: files(tmp_path / name) for name in quick_rows[:2]} == before
    assert [row.to_dict() for row in again[:2]] == [row.to_dict() for row in first]
    assert again[2].result.parameters > again[0].result.parameters
    assert set(again[2].to_dict()) == {"row", "parameters", "AP", "AP50", "AP75", "AR100", "seconds"}


def test_finished_rows_of_other_strengths_are_not_passed_off_as_these(
    quick_rows: list[str], world: World, tmp_path: Path
) -> None:
    train = world.cache("train")
    ablate(train, train, tmp_path, quick_rows[:1], Strengths(), silent)
    with pytest.raises(UserError, match=r"one holds a fit with another strengths.alpha \(100.0, not 5\); choose"):
        ablate(train, train, tmp_path, quick_rows[:1], Strengths(alpha=5), silent)


def test_every_row_of_the_table_is_a_head_that_can_be_built(world: World) -> None:
    spec = world.cache("train").feature_spec
    for name, config in ablation.ROWS.items():
        head = registry.build("closed_form", spec, 1, asdict(config))
        assert sum(parameter.numel() for parameter in head.parameters()) > 50_000, name
        assert config != ablation.ROWS["reference"] or name == "reference"
