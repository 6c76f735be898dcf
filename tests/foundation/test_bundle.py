"""Bundles read back: whole ones however they are stored, and every other one in one sentence."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from detheads.foundation import atomic
from detheads.foundation.bundle import onnx_file, read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import SCHEMA_VERSION
from detheads.foundation.onnx_files import external_files


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))


def change(bundle: Path, key: str, value: Any) -> None:
    """Set ``key``, such as ``onnx.file``, of the manifest."""
    manifest = atomic.read_json(bundle / "bundle.json")
    *path, last = key.split(".")
    inner = manifest
    for name in path:
        inner = inner[int(name) if name.isdecimal() else name]
    inner[last] = value
    atomic.write_json(bundle / "bundle.json", manifest)


def test_a_bundle_of_links_is_the_bundle_that_they_point_at(bundle: Path, tmp_path: Path) -> None:
    """As a cache of downloads stores it: the files lie elsewhere under their digests."""
    links = tmp_path / "links.detheads"
    links.mkdir()
    (tmp_path / "blobs").mkdir()
    for name in ("bundle.json", "model.onnx"):
        blob = tmp_path / "blobs" / hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        shutil.copy(bundle / name, blob)
        (links / name).symlink_to(Path("..") / "blobs" / blob.name)
    path = onnx_file(links, read_manifest(links))
    assert path.read_bytes() == (bundle / "model.onnx").read_bytes()
    blob.write_bytes(b"\x08\x0a" + blob.read_bytes())
    with pytest.raises(UserError, match="SHA-256 differs"):
        onnx_file(links, read_manifest(links))
    blob.unlink()
    with pytest.raises(UserError, match=r"is a link to .* which does not exist; copy the whole bundle again"):
        onnx_file(links, read_manifest(links))


def older(manifest: dict[str, Any], schema: int) -> dict[str, Any]:
    """The manifest of a bundle with one head as earlier versions wrote it."""
    (head,) = manifest["heads"]
    parity = head.pop("parity")
    if schema == 1:
        for name in ("best_scores", "best_scores_rule"):
            del head[name]
        for name in ("training_pictures", "full_tables"):
            del head["verification"][name]
        del manifest["onnx"]["external"]
    later = {"heads", "profiles", "calibration"}
    kept = {key: value for key, value in manifest.items() if key not in later}
    return kept | head | {"name": "toy", "onnx": manifest["onnx"] | {"parity": parity}, "schema_version": schema}


@pytest.mark.parametrize("schema", [1, 2])
def test_a_bundle_of_an_earlier_schema_is_read_without_what_was_not_yet_measured(copy: Path, schema: int) -> None:
    now = read_manifest(copy)
    atomic.write_json(copy / "bundle.json", older(atomic.read_json(copy / "bundle.json"), schema))
    read = read_manifest(copy)
    assert read.state == "verified"
    assert read.name == "toy"
    assert (read.thresholds, read.classes, read.first.parity) == (now.thresholds, now.classes, now.first.parity)
    assert read.best_scores == (None if schema == 1 else now.best_scores)
    assert read.graph_metadata() == now.graph_metadata()


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("schema_version", SCHEMA_VERSION + 1, r"newer detheads .* pip install -U detheads"),
        ("schema_version", "2", "schema_version: Input should be 1, 2 or 3"),
        ("heads.0.best_scores", {"cat": 1.5}, "heads.0.best_scores.cat: Input should be less than or equal to 1"),
        (
            "heads.0.thresholds.max_detections",
            0,
            "heads.0.thresholds.max_detections: Input should be greater than or equal to 1",
        ),
        ("heads.0.thresholds.score", "NaN", "heads.0.thresholds.score"),
        ("input.height", 10**400, "a number of 401 digits"),
        ("heads.0.classes", [], "heads.0.classes: List should have at least 1 item"),
        ("heads", [], "heads: List should have at least 1 item"),
        ("heads.0.name", "../a", "heads.0.name: String should match pattern"),
        ("onnx.file", 7, "onnx.file: Input should be a valid string"),
        ("onnx.further", 1, "onnx.further: Extra inputs are not permitted"),
    ],
)
def test_an_altered_manifest_is_one_sentence_that_names_the_entry(
    copy: Path, key: str, value: Any, sentence: str
) -> None:
    change(copy, key, value)
    with pytest.raises(UserError, match=sentence) as raised:
        read_manifest(copy)
    assert "\n" not in str(raised.value)


def test_a_file_given_as_a_bundle_names_the_bundle_that_it_lies_in(copy: Path) -> None:
    with pytest.raises(UserError, match=r"model\.onnx is a file.* give the folder that holds it, .*copy\.detheads"):
        read_manifest(copy / "model.onnx")
    with pytest.raises(UserError, match=r"missing\.detheads does not exist"):
        read_manifest(copy.parent / "missing.detheads")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", r"Git LFS pointer .* 'git lfs pull'"),
        (b"half", r"has 4 of its .* bytes: it was copied in part; copy it again"),
        (b"", r"has 0 of its .* bytes"),
    ],
)
def test_a_file_that_arrived_in_part_is_to_be_copied_again(copy: Path, content: bytes, sentence: str) -> None:
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        onnx_file(copy, read_manifest(copy))


def test_weights_in_another_file_count_only_with_their_digest(copy: Path) -> None:
    model = onnx.load(str(copy / "model.onnx"))
    onnx.save_model(model, str(copy / "model.onnx"), save_as_external_data=True, location="w.bin", size_threshold=64)
    change(copy, "onnx.sha256", atomic.sha256_of(copy / "model.onnx"))
    change(copy, "onnx.bytes", (copy / "model.onnx").stat().st_size)
    with pytest.raises(UserError, match=r"reads weights from 'w\.bin', whose digest"):
        onnx_file(copy, read_manifest(copy))
    change(copy, "onnx.external", {"w.bin": atomic.sha256_of(copy / "w.bin")})
    onnx_file(copy, read_manifest(copy))
    (copy / "w.bin").write_bytes(b"\1" + (copy / "w.bin").read_bytes()[1:])
    with pytest.raises(UserError, match=r"w\.bin is not the file"):
        onnx_file(copy, read_manifest(copy))


def test_weights_inside_inner_graphs_are_found(tmp_path: Path) -> None:
    def weights(location: str) -> onnx.TensorProto:
        tensor = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [0.0])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        return tensor

    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["w"], value=weights("ü.bin"))], "in", [], [])
    outer = onnx.helper.make_graph(
        [onnx.helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)], "out", [], [],
        [weights("first.bin")],
    )  # fmt: skip
    path = tmp_path / "a.onnx"
    path.write_bytes(onnx.helper.make_model(outer).SerializeToString())
    assert external_files(path) == {"ü.bin", "first.bin"}


@pytest.mark.parametrize("content", [b"\x3a\xff\xff\xff\x7f", b"\x07", b"\xff" * 20, b"\x3a\x02\x2a\x7f", b"GIF89a"])
def test_what_is_no_onnx_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.onnx is not an ONNX file"):
        external_files(tmp_path / "a.onnx")
