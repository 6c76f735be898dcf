"""A backbone in a user's own file: trained on and exported like a known one, refused where it does not hold."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from detheads.backbones import own, spec
from detheads.backbones.backbone import load_backbone, require_rebuildable
from detheads.backbones.own import load_backbone_file, require_backbone_file
from detheads.backbones.spec import SPECS
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

FILE = '''
"""Two strided convolutions."""

from torch import nn

from detheads.backbones.spec import BackboneSpec

spec = BackboneSpec(
    "mine", "", "MIT", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 64, 16, channels=(4, 6), strides=(8, 16), weights="built"
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 6, 2, 2)

    def forward(self, images):
        fine = self.fine(images)
        return fine, self.coarse(fine)


def build(height, width):
    return Net()
'''


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """A file is known for the rest of a process."""
    before = dict(own._LOADED), dict(spec._OWN)
    yield
    for table, known in zip((own._LOADED, spec._OWN), before, strict=True):
        table.clear()
        table.update(known)  # type: ignore[arg-type]


def write(folder: Path, text: str = FILE, name: str = "mine") -> Path:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_backbone_of_ones_own_gives_its_maps_and_digests(tmp_path: Path) -> None:
    path = write(tmp_path)
    load_backbone_file(str(path))
    backbone = load_backbone("mine", (32, 48))
    images = torch.rand(2, 3, 32, 48)
    maps = backbone(images)
    assert {name: tuple(values.shape) for name, values in maps.items()} == {
        "stride8": (2, 4, 4, 6),
        "stride16": (2, 6, 2, 3),
    }
    assert torch.equal(maps["stride8"], backbone.model.fine(images))  # type: ignore[operator]
    assert backbone.file_sha256 == atomic.sha256_of(path)
    assert load_backbone("mine", (64, 64)).weights_sha256 == backbone.weights_sha256 is not None
    assert load_backbone("mine", random_weights=True).weights_sha256 is None
    state = {name: values + 1 for name, values in backbone.model.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    other = load_backbone("mine", weights=tmp_path / "w.safetensors")
    assert other.weights_sha256 == atomic.sha256_of(tmp_path / "w.safetensors")
    assert torch.equal(other.model.state_dict()["fine.bias"], state["fine.bias"])


def test_a_file_may_give_another_specification_to_a_model_of_timm(tmp_path: Path) -> None:
    text = FILE[: FILE.index("class Net")].replace('"mine", ""', '"mine", "test_vit"').replace(', weights="built"', "")
    text = text.replace("(4, 6)", "(64,)").replace("(8, 16)", "(16,)")
    load_backbone_file(write(tmp_path, text))
    backbone = load_backbone("mine", (32, 48), random_weights=True)
    assert (backbone.spec.mean, backbone.feature_spec.names) == ((0.5, 0.5, 0.5), ("last",))
    assert torch.equal(
        backbone(torch.zeros(1, 3, 32, 48))["last"],
        load_backbone("timm:test_vit", (32, 48), random_weights=True)(torch.zeros(1, 3, 32, 48))["last"],
    )


FAULTS: dict[str, tuple[str, str]] = {
    "no spec": ("x = 1", "defines no spec"),
    "an error": ("\n\nimport nowhere", "mine.py, line 3 fails with ModuleNotFoundError"),
    "no Python": ("def", "fails with SyntaxError"),
    "another name": (FILE.replace('"mine"', '"yours"'), "a backbone is called like its file"),
    "no build": (FILE[: FILE.index("class Net")], "says that its weights are built and defines no build"),
    "strides": (FILE.replace("strides=(8, 16)", "strides=(8,)"), "channels and strides are no pairs"),
    "multiple": (FILE.replace("64, 16, channels", "64, 24, channels"), "multiple does not fit its strides"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_file_that_does_not_hold_is_refused_when_it_is_read(tmp_path: Path, case: str) -> None:
    text, sentence = FAULTS[case]
    with pytest.raises(UserError) as refusal:
        load_backbone_file(write(tmp_path, text))
    assert sentence in str(refusal.value) and "mine.py" in str(refusal.value)
    with pytest.raises(UserError, match="unknown backbone 'mine'"):
        load_backbone("mine")


BROKEN_BUILDS: dict[str, tuple[str, str]] = {
    "fails": (FILE.replace("return Net()", "raise RuntimeError('no network')"), "build fails with RuntimeError: no n"),
    "no module": (FILE.replace("return Net()", "return 3"), "build returns int, not a torch.nn.Module"),
    "another map": (FILE.replace("nn.Conv2d(3, 4, 8, 8)", "nn.Conv2d(3, 4, 4, 4)"), "of shape (1, 4, 16, 16) where"),
    "one map": (FILE.replace("return fine, self", "return self"), "gives no feature maps at 64x64 pixels"),
    "a forward that fails": (FILE.replace("fine = self.fine(images)", "1 / 0"), "ZeroDivisionError"),
}


@pytest.mark.parametrize("case", BROKEN_BUILDS)
def test_a_backbone_that_is_not_what_it_says_is_refused_before_any_long_work(tmp_path: Path, case: str) -> None:
    text, sentence = BROKEN_BUILDS[case]
    load_backbone_file(write(tmp_path, text))
    with pytest.raises(UserError) as refusal:
        load_backbone("mine")
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    load_backbone_file(write(tmp_path))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="there is a backbone 'mine' already"):
        load_backbone_file(write(tmp_path / "other", FILE + "\n"))
    with pytest.raises(UserError, match="there is a backbone 'effnet_lite0' already"):
        load_backbone_file(write(tmp_path, FILE, "effnet_lite0"))
    with pytest.raises(UserError, match="is not a Python file"):
        load_backbone_file(tmp_path / "nowhere.py")


def test_what_a_name_does_not_give_again_is_not_cached(tmp_path: Path) -> None:
    load_backbone_file(write(tmp_path))
    for name in ("mine", "timm:test_vit", "effnet_lite0"):
        backbone = load_backbone(name, random_weights=True)
        require_rebuildable(backbone)
        backbone.spec = replace(backbone.spec, mean=(0.1, 0.1, 0.1))
        with pytest.raises(UserError, match=r"made by hand.*--backbone-file"):
            require_rebuildable(backbone)
    with pytest.raises(TypeError):
        SPECS["another"] = SPECS["effnet_lite0"]  # type: ignore[index]


def test_features_are_tied_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    sha256 = atomic.sha256_of(path)
    require_backbone_file("effnet_lite0", None)
    with pytest.raises(UserError, match=r"give it with --backbone-file mine\.py"):
        require_backbone_file("mine", sha256)
    load_backbone_file(path)
    require_backbone_file("mine", sha256)
    with pytest.raises(UserError, match="give the file as it was then"):
        require_backbone_file("mine", "0" * 64)


def test_from_the_file_to_the_bundle(
    tmp_path: Path, detheads: Callable[..., Any], toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, cache = write(tmp_path), tmp_path / "run", tmp_path / "cache"
    build = ("cache", "build", toy.data, "-o", cache, "--size", 64, "--backbone-file", path)
    assert "say --backbone mine, too" in detheads(*build).err
    built = detheads(*build, "--backbone", "mine")
    assert built.code == 0, built.err
    options = ("-O", "width=8", "--epochs", 1, "--device", "cpu")
    trained = detheads("train", "slim_fcos", "--cache", cache, "--val", cache, "-o", run, *options)
    assert trained.code == 0, trained.err
    own._LOADED.clear()
    export = ("export", run, "--data", toy.data, "-o", tmp_path / "mine.detheads", "--onnx-only")
    refused = detheads(*export)
    assert (refused.code, "give it with --backbone-file mine.py" in refused.err) == (1, True), refused.err
    moved = shutil.move(path, tmp_path.parent / "mine.py")
    exported = detheads(*export, "--backbone-file", moved, "--json")
    assert '"backbone_file"' in (tmp_path / "mine.detheads" / "bundle.json").read_text(encoding="utf-8"), exported.err
