"""What is given instead of a whole bundle gets the advice for its own case."""

import shutil
from pathlib import Path

import pytest

from detheads.deploy import Detector
from detheads.foundation.errors import UserError


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))


def test_a_bundle_of_links_runs(copy: Path, tmp_path: Path) -> None:
    (copy / "model.onnx").rename(tmp_path / "blob")
    (copy / "model.onnx").symlink_to(tmp_path / "blob")
    assert len(Detector(copy).class_names) == 3


def test_a_manifest_that_is_a_git_lfs_pointer_is_to_be_fetched(copy: Path) -> None:
    (copy / "bundle.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    with pytest.raises(UserError, match=r"bundle\.json is a pointer of Git LFS .*git lfs pull"):
        Detector(copy)


def test_a_folder_without_its_manifest_is_half_a_copy(copy: Path) -> None:
    (copy / "bundle.json").unlink()
    with pytest.raises(UserError, match=r"has a graph but no bundle\.json: it was copied in part"):
        Detector(copy)


def test_other_things_than_a_bundle_are_called_what_they_are(copy: Path, tmp_path: Path) -> None:
    lone = Path(shutil.copy(copy / "model.onnx", tmp_path / "lone.onnx"))
    with pytest.raises(UserError, match="is a graph alone"):
        Detector(lone)
    (tmp_path / "model.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"is a file, and a bundle is a folder .* unpack it first"):
        Detector(tmp_path / "model.zip")
    shutil.copytree(copy, tmp_path / "outer" / "model.detheads")
    with pytest.raises(UserError, match=r"give the one inside, .*model\.detheads"):
        Detector(tmp_path / "outer")
