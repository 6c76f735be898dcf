"""A bundle's files are listed with their digests, and every one that is not as listed is named."""

import shutil
from pathlib import Path

import pytest

from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.contents import compare, require_intact
from detheads.foundation.errors import UserError
from tests.foundation.test_bundle import change


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))


def test_an_exported_bundle_lists_all_its_files_but_the_manifest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    present = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert manifest.files.keys() == present - {"bundle.json"}
    assert all(atomic.sha256_of(bundle / name) == sha256 for name, sha256 in manifest.files.items())
    assert compare(bundle, manifest).intact


def test_altered_missing_and_extra_files_are_each_named(copy: Path) -> None:
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes() + b"\0")
    (copy / "report.md").unlink()
    (copy / "more").mkdir()
    (copy / "more" / "ü.bin").write_bytes(b"1")
    contents = compare(copy, read_manifest(copy))
    assert contents.told() == ["altered: model.onnx", "missing: report.md", "extra: more/ü.bin"]
    with pytest.raises(UserError, match=r"altered: model\.onnx, missing: report\.md, extra: more/ü\.bin"):
        require_intact(copy, read_manifest(copy))


def test_what_hubs_devices_and_signers_add_is_not_extra(copy: Path) -> None:
    for name in (".gitattributes", ".git/config", ".cache/huggingface/a", "bundle.sig.json", "device.json"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("{}")
    assert compare(copy, read_manifest(copy)).intact


def test_writing_a_manifest_again_does_not_make_an_altered_file_a_good_one(copy: Path) -> None:
    (copy / "report.json").write_text("{}")
    (copy / "new.txt").write_text("new")
    write_manifest(copy, read_manifest(copy))
    assert compare(copy, read_manifest(copy)).told() == ["altered: report.json"]
    write_manifest(copy, read_manifest(copy), rewritten=["report.json"])
    assert compare(copy, read_manifest(copy)).intact


def test_an_engine_that_no_manifest_names_is_extra(copy: Path) -> None:
    (copy / "engines").mkdir()
    (copy / "engines" / "old.engine").write_bytes(b"1")
    write_manifest(copy, read_manifest(copy))
    assert compare(copy, read_manifest(copy)).told() == ["extra: engines/old.engine"]


def test_a_bundle_of_an_earlier_version_is_compared_as_far_as_it_tells(copy: Path) -> None:
    change(copy, "files", {})
    (copy / "new.txt").write_text("new")
    contents = compare(copy, read_manifest(copy))
    assert (contents.intact, contents.checked, contents.whole) == (True, 1, False)


def test_a_manifest_cannot_have_files_elsewhere_looked_at(copy: Path) -> None:
    change(copy, "files", {"../secret": "0" * 64})
    with pytest.raises(UserError, match="leaves its folder"):
        compare(copy, read_manifest(copy))
