"""Weight files: only the right one is loaded, every other one is refused in one sentence, and nothing is downloaded
without saying so."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from detheads.backbones import weights as weights_module
from detheads.backbones.backbone import load_backbone
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

NAME = "timm:test_vit"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    model = load_backbone(NAME, random_weights=True).model
    return {key: values.clone() + 0.25 for key, values in model.state_dict().items()}


@pytest.mark.parametrize("form", ["safetensors", "pth", "pth with state_dict", "pt with model"])
def test_a_local_file_is_loaded_and_its_digest_kept(state: State, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"my weights ü.{form.split()[0]}"
    if form == "safetensors":
        save_file(state, path)
    else:
        key = form.split()[-1]
        torch.save(state if key == "pth" else {key: state, "epoch": 3}, path)
    backbone = load_backbone(NAME, weights=path)
    loaded = backbone.model.state_dict()
    assert all(torch.equal(values, loaded[key]) for key, values in state.items())
    assert backbone.weights_sha256 == atomic.sha256_of(path)


def _without(state: State) -> State:
    return {key: values for key, values in state.items() if key != "norm.weight"}


WRONG_STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "missing key": (_without, "1 keys missing, 0 extra (first missing norm.weight)"),
    "extra key": (lambda state: state | {"more": torch.zeros(1)}, "0 keys missing, 1 extra (first unexpected more)"),
    "wrong shape": (
        lambda state: state | {"norm.weight": torch.zeros(3)},
        "norm.weight has shape (3,), expected (64,)",
    ),
    "nothing": (lambda state: {"a": torch.zeros(1)}, "keys missing"),
}


@pytest.mark.parametrize("case", WRONG_STATES)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_file_that_does_not_fit_is_refused(state: State, tmp_path: Path, case: str, suffix: str) -> None:
    change, sentence = WRONG_STATES[case]
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(change(state), path)
    else:
        save_file(change(state), path)
    with pytest.raises(UserError) as refusal:
        load_backbone(NAME, weights=path)
    assert str(path) in str(refusal.value) and sentence in str(refusal.value)


@pytest.mark.parametrize("model", ["timm:test_efficientnet", "effnet_lite0", "eupe_vitt16", "dinov2_vits14"])
def test_another_models_file_is_refused(state: State, tmp_path: Path, model: str) -> None:
    save_file(state, tmp_path / "vit.safetensors")
    with pytest.raises(UserError, match=r"vit\.safetensors (does not fit the model|holds 80 tensors)") as refusal:
        load_backbone(model, weights=tmp_path / "vit.safetensors")
    assert "\n" not in str(refusal.value)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "cut in half": lambda content: content[: len(content) // 2],
    "cut in its header": lambda content: content[:40],
    "empty": lambda content: b"",
    "text": lambda content: b"<html>you need to log in</html>",
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_damaged_file_is_refused_in_one_sentence(state: State, tmp_path: Path, case: str, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(DAMAGED[case](path.read_bytes()))
    with pytest.raises(UserError, match=r"is damaged or not a weight file|is no PyTorch file") as refusal:
        load_backbone(NAME, weights=path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


class _Code:
    """Unpickled with trust, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("form", ["torch", "plain pickle", "beside tensors"])
def test_pickled_code_does_not_run(state: State, tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "it ran", tmp_path / "evil.pth"
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(_Code(proof), protocol=2))
        pickle.loads(path.read_bytes())
        assert proof.exists()  # the attack is real
        proof.unlink()
    else:
        torch.save({"a": _Code(proof)} | (state if form == "beside tensors" else {}), path)
    with pytest.raises(UserError, match="holds more than tensors"):
        load_backbone(NAME, weights=path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not hold a state dict of tensors"):
        load_backbone(NAME, weights=tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["none.safetensors", ""])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"there is no weight file {tmp_path / name}"):
        load_backbone(NAME, weights=tmp_path / name)


def test_changed_packaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.pth"
    shutil.copy(weights_module._packaged(), copy)
    monkeypatch.setattr(weights_module, "_packaged", lambda: copy)
    load_backbone("effnet_lite0", (64, 64))  # an untouched copy is fine
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(UserError, match=r"copy\.pth has SHA-256 .* expected 5793"):
        load_backbone("effnet_lite0", (64, 64))


@pytest.mark.parametrize("how", ["offline mode", "no network"])
def test_missing_weights_without_a_network_are_one_sentence(tmp_path: Path, how: str) -> None:
    """In a process of its own: the hub client reads its settings when it is imported."""
    offline = {"HF_HUB_OFFLINE": "1"} if how == "offline mode" else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    command = ["cache", "build", _dataset(tmp_path), "-o", "cache", "--backbone", "eupe_vitt16"]
    finished = subprocess.run(
        [sys.executable, "-c", "from detheads.cli.main import main; main()", *command],
        env=os.environ | {"HF_HOME": str(tmp_path / "hub")} | offline,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: the weights of eupe_vitt16 could not be downloaded from huggingface.co/")
    assert "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m" in finished.stderr
    assert "--weights" in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_weights_in_the_hub_cache_need_no_network(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "models--timm--test_vit.r160_in1k"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    save_file(state, model / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    loaded = load_backbone(NAME).model.state_dict()
    assert all(torch.equal(values, loaded[key]) for key, values in state.items())


def _dataset(folder: Path) -> Path:
    from PIL import Image

    (folder / "set" / "train").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(folder / "set" / "train" / "a.png")
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 20}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (folder / "set" / "annotations").mkdir()
    atomic.write_json(folder / "set" / "annotations" / "instances_train.json", document)
    return folder / "set"
