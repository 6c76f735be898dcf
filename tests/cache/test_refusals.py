"""What does not fit together is refused in one sentence, and nothing is lost or left half."""

import errno
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.foundation import atomic
from detheads.foundation.atomic import sized
from detheads.foundation.errors import UserError
from tests.cache.conftest import CNN, HEIGHT, VIT, WIDTH, contents


@pytest.fixture
def cache(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], small_shards: int) -> Path:
    """A finished cache of four shards, to be broken."""
    assert build(shared_dataset, tmp_path / "cache").code == 0
    return tmp_path / "cache"


def one_sentence(finished: Any) -> str:
    """The error that a command ended with, after checking that it is all the user has to read."""
    assert finished.code == 1
    assert finished.result == ""
    assert "Traceback" not in finished.err
    errors = [line for line in finished.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return str(errors[0])


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--backbone", CNN), "backbone (timm:test_vit, not timm:test_efficientnet)"),
        (("--size", "64x64"), f"width ({WIDTH}, not 64)"),
        (("--dtype", "int8"), "dtype (fp16, not int8)"),
        (("--flips",), "flips (False, not True)"),
        (("--layers", "1"), "layers"),
    ],
)
def test_a_folder_holds_features_of_one_kind(
    cache: Path, shared_dataset: Path, build: Callable[..., Any], options: tuple[str, ...], key: str
) -> None:
    before = contents(cache)
    assert f"{cache} holds a feature cache with another settings.{key}" in one_sentence(
        build(shared_dataset, cache, *options)
    )
    assert contents(cache) == before


def test_a_folder_holds_features_of_one_weight_file(cache: Path, shared_dataset: Path, tmp_path: Path) -> None:
    weights = tmp_path / "the same numbers.safetensors"
    save_file(load_backbone(VIT, random_weights=True).model.state_dict(), weights)
    other = load_backbone(VIT, (HEIGHT, WIDTH), weights=weights)
    with pytest.raises(UserError, match=rf"another settings\.weights_sha256 \(None, not {atomic.sha256_of(weights)}\)"):
        build_cache(read_dataset(shared_dataset), other, cache)


def test_a_folder_holds_one_dataset(cache: Path, build: Callable[..., Any], shared_dataset: Path) -> None:
    before = contents(cache)
    error = one_sentence(build(shared_dataset, cache, "--limit", 9))
    assert f"{cache} was built of another dataset" in error and "1 pictures that it does not have" in error
    assert contents(cache) == before


def test_foreign_files_are_left_alone(shared_dataset: Path, tmp_path: Path, build: Callable[..., Any]) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "annotations.json").write_text("mine")
    assert f"{folder} is not empty and holds no feature cache" in one_sentence(build(shared_dataset, folder))
    assert contents(folder) == {"annotations.json": b"mine"}


@pytest.mark.parametrize("case", ["a file", "below a file", "a read-only system"])
def test_a_folder_that_cannot_be_written_is_named(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], case: str
) -> None:
    (tmp_path / "file").write_text("mine")
    folder = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "cache"}.get(case, Path("/proc/cache"))
    assert str(folder) in one_sentence(build(shared_dataset, folder))
    assert (tmp_path / "file").read_text() == "mine"


def _edit(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def apply(cache: Path) -> None:
        path = next(cache.glob(name))
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return apply


BROKEN_CACHES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda cache: (cache / "manifest.json").unlink(), "holds no finished feature cache"),
    "no cache": (lambda cache: shutil.rmtree(cache), "holds no feature cache; make one"),
    "cut manifest": (lambda cache: (cache / "manifest.json").write_text('{"set'), "manifest.json is not readable JSON"),
    "list": (lambda cache: (cache / "manifest.json").write_text("[]"), "manifest.json is not a valid cache manifest"),
    "newer schema": (
        _edit("manifest.json", lambda manifest: manifest["settings"].update(schema_version=3)),
        "is not a valid cache manifest (settings.schema_version",
    ),
    "unknown key": (_edit("manifest.json", lambda manifest: manifest.update(more=1)), "(more: "),
    "wrong type": (
        _edit("manifest.json", lambda manifest: manifest["images"][0].update(width="wide")),
        "(images.0.width: ",
    ),
    "other count": (
        _edit("manifest.json", lambda manifest: manifest["shards"][1].update(count=2)),
        "a shard does not name the picture of each row",
    ),
    "an image without features": (
        _edit("manifest.json", lambda manifest: manifest["images"][3].update(sha256="0")),
        "no shard has the features of größer/bild 3.png",
    ),
    "fewer images": (_edit("manifest.json", lambda manifest: manifest["images"].pop()), "lists other images"),
    "annotations elsewhere": (
        _edit("manifest.json", lambda manifest: manifest.update(annotations="../a.json")),
        "leaves its folder",
    ),
    "layers of one name": (
        _edit("manifest.json", lambda manifest: manifest["settings"].update(layers=2 * manifest["settings"]["layers"])),
        "layers have one name twice",
    ),
    "a stride that does not fit": (
        _edit("manifest.json", lambda manifest: manifest["settings"]["layers"][0].update(stride=7)),
        "no multiples of a layer's stride",
    ),
    "changed annotations": (
        _edit("annotations-*.json", lambda document: document["annotations"].pop()),
        ".json is missing or was changed",
    ),
    "no annotations": (
        lambda cache: next(cache.glob("annotations-*.json")).unlink(),
        ".json is missing or was changed",
    ),
}


@pytest.mark.parametrize("case", BROKEN_CACHES)
def test_a_broken_cache_is_refused(cache: Path, detheads: Callable[..., Any], case: str) -> None:
    change, sentence = BROKEN_CACHES[case]
    change(cache)
    error = one_sentence(detheads("cache", "verify", cache, "--json"))
    assert sentence in error and str(cache) in error
    with pytest.raises(UserError):
        FeatureCache(cache)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda document: document["images"].reverse(), "lists other images than the manifest"),
        (lambda document: document["images"][2].update(width=77), r"plain-2\.png has 77x64 pixels, the manifest 64x64"),
        (lambda document: document["images"][2].update(file_name="other.png"), "lists other images than the manifest"),
    ],
)
def test_annotations_with_a_right_checksum_and_other_images_are_refused(
    cache: Path, change: Callable[[Any], object], sentence: str
) -> None:
    _edit("annotations-*.json", change)(cache)
    digest = atomic.sha256_of(next(cache.glob("annotations-*.json")))
    _edit("manifest.json", lambda manifest: manifest.update(annotations_sha256=digest))(cache)
    with pytest.raises(UserError, match=sentence):
        FeatureCache(cache)


@pytest.mark.parametrize(("key", "value"), [("scale", [0.25, 0.25]), ("pad_left", 3), ("pad_top", 5)])
def test_features_of_another_letterbox_are_not_used(cache: Path, key: str, value: object) -> None:
    """Boxes would be off by the difference."""
    _edit("manifest.json", lambda manifest: manifest["images"][2].update({key: value}))(cache)
    reader = FeatureCache(cache)
    reader.targets(1)
    for use in (reader.targets, reader.letterbox):
        with pytest.raises(UserError, match="letterboxed in another way than this version does"):
            use(2)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", ""])
def test_a_manifest_does_not_lead_out_of_its_folder(
    cache: Path, detheads: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(cache / "shard-00000.safetensors", cache.parent / "secret.safetensors")
    _edit("manifest.json", lambda manifest: manifest["shards"][0].update(file=name))(cache)
    with pytest.raises(UserError, match="leaves its folder"):
        FeatureCache(cache).features([0])
    verified = detheads("cache", "verify", cache, "--json")
    assert (verified.code, "leaves its folder" in verified.out) == (1, True)


def _header(shard: Path) -> tuple[dict[str, Any], bytes]:
    content = shard.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _headed(header: bytes, data: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def _with(**entry: object) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda header, data: _headed(json.dumps({"last": header["last"] | entry}).encode(), data)


ALTERED_SHARDS: dict[str, Callable[[dict[str, Any], bytes], bytes]] = {
    "fewer rows": lambda header, data: _with(shape=[2, 64, 4, 6], data_offsets=[0, 6144])(header, data[:6144]),
    "another grid": _with(shape=[3, 64, 6, 4]),
    "another type": _with(dtype="BF16"),
    "an unknown type": _with(dtype="Q7"),
    "no rows": _with(shape=[0, 64, 4, 6]),
    "a shape that is none": _with(shape="wide"),
    "negative": _with(shape=[-3, -64, 4, 6]),
    "offsets outside": _with(data_offsets=[2**60, 2**61]),
    "offsets that are none": _with(data_offsets=None),
    "another layer": lambda header, data: _headed(json.dumps({"other": header["last"]}).encode(), data),
    "a list": lambda header, data: _headed(b"[]", data),
    "no JSON": lambda header, data: _headed(b"{", data),
    "not UTF-8": lambda header, data: _headed(b'{"\xff": 1}', data),
    "deep": lambda header, data: _headed(b"[" * 100_000, data),
    "a long number": lambda header, data: _headed(b'{"a": ' + b"1" * 5000 + b"}", data),
    "a huge header": lambda header, data: (2**62).to_bytes(8, "little") + data,
    "cut": lambda header, data: b"\x05",
    "nothing": lambda header, data: b"",
    "not finite": lambda header, data: _headed(json.dumps(header).encode(), b"\x00\x7e" + data[2:]),
}


@pytest.mark.parametrize("case", ALTERED_SHARDS)
def test_an_altered_shard_with_a_right_checksum_is_one_sentence(cache: Path, case: str) -> None:
    shard = cache / "shard-00001.safetensors"
    shard.write_bytes(ALTERED_SHARDS[case](*_header(shard)))
    digest = atomic.sha256_of(shard)
    _edit("manifest.json", lambda manifest: manifest["shards"][1].update(sha256=digest))(cache)
    with pytest.raises(UserError, match=r"shard-00001\.safetensors|bild 3\.png that are not finite") as refusal:
        FeatureCache(cache).features([3])
    assert "\n" not in str(refusal.value) and "build" in str(refusal.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_an_unreadable_plan_is_named(
    cache: Path, shared_dataset: Path, build: Callable[..., Any], content: str
) -> None:
    (cache / "build.json").write_text(content)
    assert f"{cache / 'build.json'} " in one_sentence(build(shared_dataset, cache))


@pytest.mark.parametrize("name", ["/data/p.png", "../p.png", "a/../../p.png"])
def test_names_that_a_cache_could_not_be_read_with_are_refused_before_the_extraction(
    shared_dataset: Path, tmp_path: Path, backbones: dict[str, Backbone], name: str
) -> None:
    data = read_dataset(shared_dataset)
    data = replace(data, images=(*data.images[:9], replace(data.images[9], file_name=name)))
    with pytest.raises(UserError, match="leads out of a cache's folder"):
        build_cache(data, backbones[CNN], tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_mirrored_features_that_were_not_stored_are_refused(cache: Path) -> None:
    with pytest.raises(UserError, match="holds no mirrored images; build it with --flips"):
        FeatureCache(cache).features([0, 1], [False, True])


def test_a_backbone_that_gives_nan_stores_nothing(shared_dataset: Path, tmp_path: Path) -> None:
    backbone = load_backbone(CNN, (HEIGHT, WIDTH), random_weights=True)
    next(iter(backbone.model.parameters())).fill_(float("nan"))
    with pytest.raises(
        UserError,
        match=r"plain-0\.png: .* not finite in layer stride8; check its",
    ):
        build_cache(read_dataset(shared_dataset), backbone, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*shard*"))


def test_a_cache_larger_than_the_disk_is_refused_before_it_is_begun(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    needed = 10 * 64 * (HEIGHT // 16) * (WIDTH // 16) * 2
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=needed - 1))
        error = one_sentence(build(shared_dataset, folder))
        assert f"make it smaller (with --dtype int8: {sized(10 * (64 * 24 + 4 * 64))}; the largest --size that" in error
        assert not folder.exists()
        assert build(shared_dataset, folder, "--dtype", "int8").code == 0  # the cure works in the same folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_is_one_sentence_and_the_build_goes_on_later(
    tiny_disk: Path,
    shared_dataset: Path,
    build: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    small_shards: int,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**12))
    cache = tiny_disk / "cache"
    error = one_sentence(build(shared_dataset, cache))
    assert f"the disk of {cache} is full; free some space" in error
    names = {path.name for path in cache.iterdir()}
    assert not any("partial" in name for name in names)
    assert "shard-00000.safetensors" in names and "shard-00003.safetensors" not in names
    subprocess.run(["mount", "-o", "remount,size=2m", str(tiny_disk)], check=True)
    resumed = build(shared_dataset, cache)
    assert (resumed.code, json.loads(resumed.out)["resumed"] >= small_shards) == (0, True)
    FeatureCache(cache).features(range(10))


def test_a_full_disk_is_one_sentence_without_a_mount(
    shared_dataset: Path, tmp_path: Path, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name.startswith("shard"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, data)

    original = atomic.write_bytes
    monkeypatch.setattr(atomic, "write_bytes", full)
    assert "cache is full; free some space" in one_sentence(build(shared_dataset, tmp_path / "cache"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--layers", "a"), "--layers takes block numbers such as 2,5,8, not 'a'"),
        (("--layers", "99"), "has no transformer block 99"),
        (("--size", "wide"), "--size takes pixels such as 512 or 384x640"),
        (("--size", "65"), "multiples of 16"),
        (("--backbone", "eupe"), "unknown backbone 'eupe'; did you mean eupe_vit"),
        (("--device", "cuda:77"), "the device 'cuda:77' cannot be used here"),
        (("--device", "abacus"), "the device 'abacus' cannot be used here"),
        (("--weights", "none.pth"), "none.pth does not exist"),
    ],
)
def test_an_unusable_option_is_one_sentence(
    shared_dataset: Path, tmp_path: Path, detheads: Callable[..., Any], options: tuple[str, ...], sentence: str
) -> None:
    defaults = [] if "--backbone" in options else ["--backbone", VIT]
    defaults += [] if "--weights" in options else ["--random-weights"]
    finished = detheads("cache", "build", shared_dataset, "-o", tmp_path / "cache", *defaults, *options)
    assert sentence in one_sentence(finished)
    assert not (tmp_path / "cache").exists()


def test_info_says_what_a_cache_was_made_with(cache: Path, detheads: Callable[..., Any]) -> None:
    answer = json.loads(detheads("cache", "info", cache, "--json").out)
    expected = {"backbone": VIT, "weights_sha256": None, "height": HEIGHT, "width": WIDTH, "dtype": "fp16"}
    assert {key: answer[key] for key in expected} == expected
    assert (answer["images"], answer["shards"], answer["split"]) == (10, 4, "train")
    assert answer["bytes"] == 10 * 2 * 64 * 4 * 6
