"""Parts of a build, made anywhere and in any order, become the cache that one build makes, to the byte."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from detheads.backbones.backbone import Backbone
from detheads.cache import plan
from detheads.cache.builder import build_cache, settings_for
from detheads.cache.merge import merge_parts
from detheads.cache.parts import Part
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.foundation.errors import UserError
from tests.cache.conftest import VIT, contents
from tests.cache.test_refusals import one_sentence


def small_shards_of(backbone: Backbone, patch: pytest.MonkeyPatch) -> None:
    """Shards of three images, so that ten make four."""
    patch.setattr(plan, "SHARD_BYTES", 3 * settings_for(backbone).bytes_per_image)


@pytest.fixture(scope="module")
def three_parts(
    shared_dataset: Path, tmp_path_factory: pytest.TempPathFactory, backbones: dict[str, Backbone]
) -> tuple[Path, Path]:
    """A folder of three parts, two of which were built at the same time, and the cache of one build."""
    folder = tmp_path_factory.mktemp("divided")
    with pytest.MonkeyPatch.context() as patch:
        small_shards_of(backbones[VIT], patch)
        data = read_dataset(shared_dataset)
        build_cache(data, backbones[VIT], folder / "whole", batch_size=2)

        def build(number: int) -> None:
            build_cache(data, backbones[VIT], folder / "parts", part=Part(number, 3), batch_size=2)

        with ThreadPoolExecutor(2) as builders:
            list(builders.map(build, (3, 1)))
        build(2)
    return folder / "parts", folder / "whole"


@pytest.fixture
def parts(three_parts: tuple[Path, Path], tmp_path: Path) -> Path:
    """The three parts, to be broken."""
    shutil.copytree(three_parts[0], tmp_path / "parts")
    return tmp_path / "parts"


def test_parts_make_the_bytes_of_one_build(
    three_parts: tuple[Path, Path], tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    parts, whole = three_parts
    assert [len(FeatureCache(parts / f"part-{number}-of-3")) for number in (1, 2, 3)] == [3, 3, 4]
    merged = detheads("cache", "merge", parts, "-o", tmp_path / "cache", "--json")
    assert (merged.code, json.loads(merged.out)["images"]) == (0, 10)
    assert contents(tmp_path / "cache") == contents(whole)


def test_parts_of_several_folders_are_merged_in_their_order(three_parts: tuple[Path, Path], tmp_path: Path) -> None:
    parts, whole = three_parts
    shutil.copytree(parts / "part-1-of-3", tmp_path / "here" / "part-1-of-3")
    merge_parts([parts / "part-3-of-3", tmp_path / "here", parts / "part-2-of-3"], tmp_path / "cache")
    assert contents(tmp_path / "cache") == contents(whole)


def test_a_merge_that_was_killed_goes_on(parts: Path, three_parts: tuple[Path, Path], tmp_path: Path) -> None:
    cache, whole = tmp_path / "cache", three_parts[1]
    merge_parts([parts], cache)
    (cache / "manifest.json").unlink()
    for name in ("shard-00002.json", "shard-00003.json", "shard-00003.safetensors"):
        (cache / name).unlink()
    merge_parts([parts], cache)
    assert contents(cache) == contents(whole)
    merge_parts([parts], cache)
    assert contents(cache) == contents(whole)


def test_damaged_pictures_are_left_out_of_parts_as_of_one_build(
    dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int
) -> None:
    (dataset / "train" / "plain-4.png").write_bytes(b"no picture")
    build(dataset, tmp_path / "whole", "--skip-bad")
    for number in (1, 2):
        assert build(dataset, tmp_path / "parts", "--skip-bad", "--part", f"{number}/2").code == 0
    merged = merge_parts([tmp_path / "parts"], tmp_path / "cache")
    assert len(merged.images) == 9
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def test_boxes_that_changed_between_the_parts_are_noticed(
    dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int
) -> None:
    build(dataset, tmp_path / "parts", "--part", "1/2")
    file = dataset / "annotations" / "instances_train.json"
    document = json.loads(file.read_text())
    document["annotations"][-1]["bbox"][2] /= 2
    file.write_text(json.dumps(document))
    build(dataset, tmp_path / "parts", "--part", "2/2")
    with pytest.raises(UserError, match="has other boxes or classes than"):
        merge_parts([tmp_path / "parts"], tmp_path / "cache")
    again = json.loads(build(dataset, tmp_path / "parts", "--part", "1/2").out)
    assert (again["extracted"], again["resumed"]) == (0, 6)
    merge_parts([tmp_path / "parts"], tmp_path / "cache")
    build(dataset, tmp_path / "whole")
    assert contents(tmp_path / "cache") == contents(tmp_path / "whole")


def _settings(parts: Path) -> None:
    edit(parts / "part-2-of-3", lambda manifest: manifest["settings"].update(weights_sha256="0" * 64))


def _pictures(parts: Path) -> None:
    edit(parts / "part-3-of-3", lambda manifest: manifest["part"].update(plan_sha256="0" * 64))


def _twice(parts: Path) -> None:
    shutil.copytree(parts / "part-2-of-3", parts / "copy" / "part-2-of-3")


def _damaged(parts: Path) -> None:
    shard = parts / "part-3-of-3" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another build": (_settings, "part-1-of-3: its weights_sha256 is 0000"),
    "other pictures": (_pictures, "the dataset listed other pictures"),
    "twice": (_twice, "part 2 of 3 is there twice, as"),
    "missing": (lambda parts: shutil.rmtree(parts / "part-2-of-3"), "part 2 of 3 is missing; 'detheads cache build"),
    "two missing": (
        lambda parts: [shutil.rmtree(parts / f"part-{number}-of-3") for number in (1, 3)],
        "part 1 of 3 and 1 more is missing",
    ),
    "unfinished": (
        lambda parts: (parts / "part-3-of-3" / "manifest.json").unlink(),
        "part-3-of-3 holds no finished feature cache; run the same 'detheads cache build' again",
    ),
    "damaged": (_damaged, "part-3-of-3/shard-00001.safetensors is missing or damaged"),
    "no annotations": (
        lambda parts: next((parts / "part-1-of-3").glob("annotations*")).unlink(),
        "is missing or was changed; run that part's",
    ),
    "none": (lambda parts: [shutil.rmtree(folder) for folder in parts.iterdir()], "holds no part of a cache"),
    "a whole cache": (
        lambda parts: edit(parts / "part-1-of-3", lambda manifest: manifest.pop("part")),
        "is a cache of its own and no part of one",
    ),
}


def edit(part: Path, change: Callable[[Any], object]) -> None:
    document = json.loads((part / "manifest.json").read_text())
    change(document)
    (part / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("case", REFUSED)
def test_parts_that_make_no_cache_are_refused(
    parts: Path, tmp_path: Path, detheads: Callable[..., Any], case: str
) -> None:
    spoil, sentence = REFUSED[case]
    spoil(parts)
    sources = [parts, parts / "copy"] if case == "twice" else [parts]
    assert sentence in one_sentence(detheads("cache", "merge", *sources, "-o", tmp_path / "cache", "--json"))
    assert not (tmp_path / "cache" / "manifest.json").exists()


def test_another_cache_is_not_merged_into(
    parts: Path, tmp_path: Path, build: Callable[..., Any], dataset: Path
) -> None:
    build(dataset, tmp_path / "cache", "--layers", "1", "--limit", 3)
    before = contents(tmp_path / "cache")
    with pytest.raises(UserError, match="is a finished cache of other pictures than the parts"):
        merge_parts([parts], tmp_path / "cache")
    assert contents(tmp_path / "cache") == before


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("2", "a part reads I/N, such as 2/4, not '2'"),
        ("0/4", "part 0 of 4 does not exist"),
        ("5/4", "part 5 of 4 does not exist"),
        ("1/5", "fill 4 shards of 3 images, which cannot be divided into 5 parts; give at most 4"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int, part: str, sentence: str
) -> None:
    assert sentence in one_sentence(build(shared_dataset, tmp_path / "parts", "--part", part))
    assert not (tmp_path / "parts").exists()


def test_parts_and_whole_caches_do_not_share_a_folder(
    parts: Path,
    three_parts: tuple[Path, Path],
    shared_dataset: Path,
    build: Callable[..., Any],
    backbones: dict[str, Backbone],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_shards_of(backbones[VIT], monkeypatch)
    whole = three_parts[1]
    options = ("--layers", "1")
    refused = one_sentence(build(shared_dataset, parts / "part-1-of-3", *options))
    assert "is part 1 of 3 of a divided build; choose another folder" in refused
    refused = one_sentence(build(shared_dataset, whole, "--part", "1/3", *options))
    assert "is a feature cache; parts go into a folder of their own" in refused
    refused = one_sentence(build(shared_dataset, parts, "--part", "1/3", "--from", whole, *options))
    assert "a part takes no features of other caches" in refused
