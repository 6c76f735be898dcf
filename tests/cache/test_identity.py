"""What features depend on is the identity of a cache: pictures and settings. Boxes are put on and taken off again."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.cache import plan
from detheads.cache.manifest import read_manifest
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.foundation.errors import UserError
from tests.cache.conftest import HEIGHT, SIZES, VIT, WIDTH, contents, picture, write_dataset
from tests.cache.test_interrupted import SLOW_BUILD, written


@pytest.fixture
def cache(dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int) -> Path:
    """A finished cache of the dataset, in four shards."""
    assert build(dataset, tmp_path / "cache").code == 0
    return tmp_path / "cache"


def edit(dataset: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = dataset / "annotations" / "instances_train.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def move_a_box(document: dict[str, Any]) -> None:
    document["annotations"][0]["bbox"][2] *= 0.5
    document["categories"][0]["name"] = "lynx"


def replace_picture(dataset: Path, number: int = 4) -> None:
    width, height = SIZES[number]
    picture(99, width, height).save(dataset / "train" / f"plain-{number}.png")


def same_features(one: FeatureCache, other: FeatureCache) -> None:
    """Other batch sizes change the last bits of a sum."""
    assert [image.file_name for image in one.manifest.images] == [image.file_name for image in other.manifest.images]
    for index in range(len(one)):
        left, right = one.features([index])["last"], other.features([index])["last"]
        assert torch.allclose(left, right, atol=2e-3 * float(right.abs().max()))


def test_only_a_replaced_picture_is_extracted_again(
    dataset: Path, cache: Path, build: Callable[..., Any], detheads: Callable[..., Any], tmp_path: Path
) -> None:
    before, times = FeatureCache(cache), written(cache)
    old = before.features([4])["last"]
    assert detheads("cache", "verify", cache, "--data", dataset).code == 0
    replace_picture(dataset)
    told = detheads("cache", "verify", cache, "--data", dataset, "--json")
    assert (told.code, json.loads(told.out)["pictures"]) == (1, {"replaced": ["plain-4.png"], "new": [], "gone": []})
    again = build(dataset, cache)
    answer = json.loads(again.out)
    assert (answer["extracted"], answer["resumed"], answer["replaced"]) == (1, 9, ["plain-4.png"])
    assert "1 pictures were replaced since the cache was built: plain-4.png" in again.err
    assert {name: when for name, when in written(cache).items() if name in times} == times
    assert detheads("cache", "verify", cache, "--data", dataset).code == 0
    build(dataset, tmp_path / "afresh")
    after = FeatureCache(cache)
    same_features(after, FeatureCache(tmp_path / "afresh"))
    assert not torch.allclose(after.features([4])["last"], old, atol=0.1)
    assert after.features_sha256 != before.features_sha256


def test_new_boxes_on_old_features(dataset: Path, cache: Path, detheads: Callable[..., Any]) -> None:
    before, times = FeatureCache(cache), written(cache)
    whole = before.sha256
    edit(dataset, move_a_box)
    assert detheads("cache", "annotate", cache, dataset).code == 0
    after = FeatureCache(cache)
    assert after.dataset.coco_json() == read_dataset(dataset).coco_json()
    assert after.dataset.class_names == ["lynx", "Eule"]
    assert not torch.equal(after.targets(1).boxes, before.targets(1).boxes)
    assert (after.features_sha256, written(cache)) == (before.features_sha256, times)
    assert after.annotations_sha256 != before.annotations_sha256 and after.sha256 != whole
    assert len(list(cache.glob("annotations*"))) == 1


PICTURE_CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "replaced": (replace_picture, "1 replaced: plain-4.png"),
    "gone": (lambda dataset: edit(dataset, lambda document: document["images"].pop(0)), "1 gone: plain-0.png"),
    "new": (lambda dataset: (shutil.rmtree(dataset), write_dataset(dataset, 11)), "1 new: plain-10.png"),
    "missing": (lambda dataset: (dataset / "train" / "plain-2.png").unlink(), "plain-2.png"),
}


@pytest.mark.parametrize("case", PICTURE_CHANGES)
def test_boxes_of_other_pictures_are_refused(
    dataset: Path, cache: Path, detheads: Callable[..., Any], case: str
) -> None:
    before = contents(cache)
    change, sentence = PICTURE_CHANGES[case]
    change(dataset)
    refused = detheads("cache", "annotate", cache, dataset)
    assert (refused.code, sentence in refused.err) == (1, True), refused.err
    assert contents(cache) == before


def test_a_kill_while_boxes_are_exchanged_leaves_the_old_cache(
    dataset: Path, cache: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between annotations and manifest."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = FeatureCache(cache).dataset.coco_json()
    edit(dataset, move_a_box)
    with monkeypatch.context() as patch:
        patch.setattr("detheads.foundation.atomic.write_json", killed)
        detheads("cache", "annotate", cache, dataset)
    assert FeatureCache(cache).dataset.coco_json() == before
    assert detheads("cache", "annotate", cache, dataset).code == 0
    assert FeatureCache(cache).dataset.class_names == ["lynx", "Eule"]


def test_a_build_with_other_boxes_extracts_nothing(dataset: Path, cache: Path, build: Callable[..., Any]) -> None:
    times = written(cache)
    edit(dataset, move_a_box)
    assert json.loads(build(dataset, cache).out)["extracted"] == 0
    assert written(cache) == times
    assert FeatureCache(cache).dataset.class_names == ["lynx", "Eule"]


def grow(dataset: Path, count: int) -> None:
    """Further pictures, listed among the old ones."""
    shutil.rmtree(dataset)
    write_dataset(dataset, count)
    edit(dataset, lambda document: document["images"].sort(key=lambda image: image["id"] % 10))


@pytest.mark.parametrize("place", ["in place", "into another folder"])
def test_a_cache_grows(
    dataset: Path, cache: Path, build: Callable[..., Any], tmp_path: Path, place: str, detheads: Callable[..., Any]
) -> None:
    times = written(cache)
    grow(dataset, 14)
    target, options = (cache, ()) if place == "in place" else (tmp_path / "grown", ("--from", cache))
    answer = json.loads(build(dataset, target, *options).out)
    assert (answer["images"], answer["extracted"], answer["resumed"]) == (14, 4, 10)
    assert written(cache) == times if place != "in place" else times.items() <= written(cache).items()
    assert detheads("cache", "verify", target, "--data", dataset).code == 0
    build(dataset, tmp_path / "afresh")
    same_features(FeatureCache(target), FeatureCache(tmp_path / "afresh"))


def test_a_part_of_a_cache_goes_into_another_folder(
    dataset: Path, cache: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    edit(dataset, lambda document: document["images"].pop(0))
    edit(dataset, lambda document: document["annotations"].clear())
    answer = json.loads(build(dataset, tmp_path / "part", "--from", cache).out)
    assert (answer["images"], answer["extracted"]) == (9, 0)


def test_features_of_other_settings_are_not_taken(
    dataset: Path, cache: Path, build: Callable[..., Any], tmp_path: Path
) -> None:
    refused = build(dataset, tmp_path / "other", "--from", cache, "--dtype", "int8")
    assert (refused.code, "its dtype is fp16, not int8" in refused.err) == (1, True)
    assert not (tmp_path / "other").exists()


def test_a_kill_while_a_cache_grows_leaves_the_old_one(dataset: Path, cache: Path, build: Callable[..., Any]) -> None:
    before = [image.file_name for image in FeatureCache(cache).manifest.images]
    grow(dataset, 40)
    command = ["cache", "build", dataset, "-o", cache, "--random-weights", "--backbone", VIT, "--batch", 2]
    command += ["--size", f"{HEIGHT}x{WIDTH}"]
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(plan.SHARD_BYTES), *map(str, command)])
    deadline = time.monotonic() + 240
    while not (cache / "shard-00005.json").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    old = FeatureCache(cache)
    assert [image.file_name for image in old.manifest.images] == before
    assert len(list(old)) == 10
    answer = json.loads(build(dataset, cache).out)
    assert answer["images"] == 40 and answer["resumed"] >= 16
    assert len(list(FeatureCache(cache))) == 40


def test_a_swapped_shard_with_its_record_is_found_and_made_anew(
    dataset: Path, cache: Path, build: Callable[..., Any], detheads: Callable[..., Any]
) -> None:
    whole = contents(cache)
    names = ["shard-00000", "shard-00001"]
    for suffix in (".safetensors", ".json"):
        first, second = (cache / f"{name}{suffix}" for name in names)
        one, other = first.read_text("latin-1"), second.read_text("latin-1")
        if suffix == ".json":  # whoever swaps them may rename them, too
            one, other = one.replace(*names), other.replace(*names[::-1])
        second.write_text(one, "latin-1", newline="")
        first.write_text(other, "latin-1", newline="")
    verified = detheads("cache", "verify", cache, "--json")
    assert (verified.code, len(json.loads(verified.out)["damaged"])) == (1, 2)
    assert json.loads(build(dataset, cache).out)["resumed"] == 4
    assert detheads("cache", "verify", cache, "--data", dataset).code == 0
    assert contents(cache) == whole


def test_pictures_that_cannot_be_decoded_are_left_out_on_request(
    dataset: Path, tmp_path: Path, build: Callable[..., Any], detheads: Callable[..., Any], small_shards: int
) -> None:
    for name in ("plain-4.png", "größer/bild 7.png"):
        path = dataset / "train" / name
        path.write_bytes(path.read_bytes()[:60])
    cache = tmp_path / "cache"
    assert build(dataset, cache).code == 1
    finished = build(dataset, cache, "--skip-bad")
    answer = json.loads(finished.out)
    assert (finished.code, answer["images"], len(answer["left_out"])) == (0, 8, 2)
    assert "left out 2 that cannot be used" in finished.err and "plain-4.png" in finished.err
    assert sorted(read_manifest(cache).skipped) == ["größer/bild 7.png", "plain-4.png"]
    assert len(list(FeatureCache(cache))) == 8
    edit(dataset, move_a_box)
    assert detheads("cache", "annotate", cache, dataset).code == 0
    assert detheads("cache", "verify", cache, "--data", dataset).code == 0
    width, height = SIZES[4]
    picture(4, width, height).save(dataset / "train" / "plain-4.png")
    assert json.loads(build(dataset, cache, "--skip-bad").out)["images"] == 9


def as_schema_1(cache: Path) -> None:
    """What the version before wrote."""
    path = cache / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    (cache / manifest["annotations"]).rename(cache / "annotations.json")
    for key in ("annotations", "dropped", "skipped"):
        del manifest[key]
    manifest["settings"]["schema_version"] = 1
    for key in ("backbone_file_sha256", "pixel_rule"):
        del manifest["settings"][key]
    for image in manifest["images"]:
        del image["sha256"]
    for shard in manifest["shards"]:
        del shard["pictures"]
    path.write_text(json.dumps(manifest), encoding="utf-8")


def test_a_cache_of_the_version_before_is_read_and_says_why_it_cannot_grow(
    dataset: Path, cache: Path, build: Callable[..., Any], detheads: Callable[..., Any]
) -> None:
    expected = [sample.features["last"] for sample in FeatureCache(cache)]
    as_schema_1(cache)
    found = FeatureCache(cache)
    assert all(torch.equal(sample.features["last"], wanted) for sample, wanted in zip(found, expected, strict=True))
    assert detheads("cache", "verify", cache).code == 0
    before = contents(cache)
    for refused in (
        build(dataset, cache),
        detheads("cache", "annotate", cache, dataset),
        detheads("cache", "verify", cache, "--data", dataset),
    ):
        assert refused.code == 1
        assert "which kept no digests of the pictures: it can be read" in refused.err
    assert contents(cache) == before


def test_a_lost_manifest_is_written_anew(dataset: Path, cache: Path, build: Callable[..., Any]) -> None:
    whole = contents(cache)
    (cache / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is not readable JSON"):
        FeatureCache(cache)
    assert json.loads(build(dataset, cache).out)["extracted"] == 0
    assert contents(cache) == whole
