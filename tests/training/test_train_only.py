"""Some parameters of a trained head learn, and all else of it stays as it is, bit for bit."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import HeadOutput
from detheads.headkit.dense import PyramidConfig
from detheads.headkit.registry import register
from detheads.heads.fcos import FCOS
from detheads.training import trainer as trainer_module
from detheads.training.checkpoint import load_checkpoint, load_tensors
from detheads.training.only import chosen
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from tests.training.world import World

Make = Callable[..., Trainer]
CALIBRATED = {"classifier.cls_project.weight", "classifier.cls_bias", "classifier.logit_scale"}
TEXTS = torch.nn.functional.normalize(torch.randn(10, 16, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.fixture
def calibrated(trainer: Make) -> Callable[..., Trainer]:
    """A calibration of a head that compares with text: the head is trained first, and is called ``first``."""

    def make(**options: Any) -> Trainer:
        first = trainer("split_tower", run="first", epochs=1, class_embeddings=TEXTS).fit().run
        only = {"train_only": ("cls_calib",), "init": first, "narrow": {}, "epochs": 2, "lr": 1e-2}
        return trainer("split_tower", run="calibrated", **(only | options))

    return make


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that have another bit; -0 is not 0."""
    assert before.keys() == after.keys()
    pairs = {name: [each[name].reshape(-1).view(torch.uint8) for each in (before, after)] for name in before}
    return {name for name, (one, other) in pairs.items() if not torch.equal(one, other)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cls_calib_changes_three_parameters_and_no_other_bit(
    precision: str, calibrated: Callable[..., Trainer]
) -> None:
    """Dropout, which the head has, would not let its frozen part compute as it did."""
    job = calibrated(precision=precision, head_options={"dropout": 0.4})
    before = load_checkpoint(job.run.parent / "first").tensors
    run = job.fit().run
    for which in ("best", "last", "live"):
        assert _changed(before, load_checkpoint(run, which).tensors) == CALIBRATED, which  # type: ignore[arg-type]
    moments = {name.split(".")[1] for name in load_tensors(run / "last.safetensors")[1] if "optimizer" in name}
    assert len(moments) == 3
    assert job.learning == 16 * 16 + 10 + 1
    assert job.parameters == sum(value.numel() for name, value in job.head.named_parameters())


def test_an_interrupted_calibration_ends_as_one_that_was_not(
    calibrated: Callable[..., Trainer], trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)

    def stop(status: Status) -> None:
        if status.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated().fit(stop)
    only = {"train_only": ("cls_calib",), "init": calibrated().run.parent / "first", "epochs": 2, "lr": 1e-2}
    cut = calibrated().fit().run
    whole = trainer("split_tower", run="whole", narrow={}, **only).fit().run
    for which in ("best", "last"):
        files = [load_tensors(run / f"{which}.safetensors")[1] for run in (cut, whole)]
        assert _changed(*files) == set()


class Counting(nn.Module):
    """Counts, as no head should, how often it was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + 1
        return x


@pytest.fixture
def normalising() -> Iterator[str]:
    """A head with BatchNorm and dropout of its own; with ``tower_blocks=2`` it also counts how often it computes."""

    @register(PyramidConfig)
    class Normalising(FCOS):
        def __init__(self, spec: FeatureSpec, num_classes: int, config: PyramidConfig) -> None:
            super().__init__(spec, num_classes, config)
            self.norm = nn.Sequential(nn.BatchNorm2d(spec.layers[0].channels), nn.Dropout(0.3))
            if config.tower_blocks == 2:
                self.norm.append(Counting())

        def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
            first, *others = features
            return super().forward({first: self.norm(features[first]), **{name: features[name] for name in others}})

    name = __name__.rpartition(".")[2]
    yield name
    registry.forget(name)


def test_batch_statistics_stay_and_a_head_that_changes_by_itself_is_refused(normalising: str, trainer: Make) -> None:
    options = {"width": 16, "tower_blocks": 1}
    first = trainer(normalising, run="first", epochs=1, narrow=options).fit().run
    before = load_checkpoint(first).tensors
    assert before["norm.0.num_batches_tracked"] > 0
    run = trainer(normalising, run="second", epochs=1, init=first, train_only=("classes",), narrow={}).fit().run
    assert _changed(before, load_checkpoint(run, "live").tensors) == {"classes.weight", "classes.bias"}
    restless = trainer(normalising, run="third", epochs=1, narrow={"width": 16, "tower_blocks": 2}).fit().run
    job = trainer(normalising, run="fourth", epochs=1, init=restless, train_only=("classes",), narrow={})
    with pytest.raises(UserError, match=r"the head changes its norm.2.count by itself while it is computed"):
        job.fit()
    assert not list(job.run.glob("*.safetensors"))


def test_means_of_features_are_left_alone(trainer: Make) -> None:
    """``prototype`` adds the features of every batch to the means of its classes, in training."""
    first = trainer("prototype", run="first", epochs=1, narrow={"width": 16, "prototypes": "image"}).fit().run
    run = trainer("prototype", run="second", epochs=1, init=first, train_only=("cls_calib",), narrow={}).fit().run
    changed = _changed(load_checkpoint(first).tensors, load_checkpoint(run).tensors)
    assert changed == {"classes.cls_project.weight", "classes.cls_bias", "classes.logit_scale"}


def test_text_embeddings_come_with_the_weights(calibrated: Callable[..., Trainer]) -> None:
    job = calibrated()
    assert job.identity.head_config["prototypes"] == "text"
    assert job.identity.class_embeddings_sha256 == load_checkpoint(job.run.parent / "first").class_embeddings_sha256
    assert job.identity.class_embeddings_sha256 is not None


@pytest.mark.parametrize(
    ("names", "parameters"),
    [
        (("classes",), ["classes.weight", "classes.bias"]),
        (("level_scales",), ["level_scales"]),
        (("classes.bias", "centerness"), ["classes.bias", "centerness.weight", "centerness.bias"]),
        (("classes.bias", "classes.bias"), ["classes.bias"]),
    ],
)
def test_a_name_is_a_parameter_a_module_or_a_step_of_one(
    names: tuple[str, ...], parameters: list[str], trainer: Make
) -> None:
    assert sorted(chosen(trainer().head, names)) == sorted(parameters)


def test_what_cannot_be_trained_alone_is_one_sentence(trainer: Make, calibrated: Callable[..., Trainer]) -> None:
    with pytest.raises(UserError, match=r"say with --init RUN which one"):
        trainer(train_only=("classes",))
    fcos = trainer(run="fcos", epochs=1).fit().run
    for name, sentence in {
        "clases": r"has no parameter 'clases' to train alone; it has .*classes.*\. Did you mean 'classes'\?",
        "cls_calib": r"has no parameter cls_project, which --train-only cls_calib stands for",
    }.items():
        with pytest.raises(UserError, match=sentence):
            trainer(run="second", init=fcos, train_only=(name,), narrow={})
    with pytest.raises(UserError, match=r"has another head \(fcos, here split_tower\)"):
        calibrated(init=fcos)
    with pytest.raises(UserError, match=r"first was trained with other class embeddings, and --train-only leaves"):
        calibrated(class_embeddings=TEXTS.flip(0))
    few = trainer(run="few", cache="fewer", val="fewer", epochs=1).fit().run
    with pytest.raises(UserError, match=r"few has other classes \(.*\) than the cache, and --train-only leaves"):
        trainer(run="more", init=few, train_only=("classes",), narrow={})


def test_the_command_calibrates_and_says_how_much_learns(
    world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = ("--cache", world.caches / "train", "--val", world.caches / "val", "--batch", 4)
    small = [f"-O{name}={value}" for name, value in {"hidden": 16, "standard_blocks": 1, "text_dim": 16}.items()]
    first = ("train", "split_tower", *caches, *small, "-O", "depthwise_blocks=0", "--epochs", 1, "-o", tmp_path / "a")
    assert detheads(*first).code == 0
    line = (
        "train",
        "split_tower",
        *caches,
        "--init",
        tmp_path / "a",
        "--epochs",
        1,
        "-o",
        tmp_path / "b",
        "--train-only",
    )
    finished = detheads(*line, "cls_project, cls_bias", "--train-only", "logit_scale", "--json")
    assert finished.code == 0, finished.err
    assert f"{16 * 16 + 10 + 1} of {json.loads(finished.out)['parameters']:,} parameters learn" in finished.err
    before, after = (load_checkpoint(tmp_path / run).tensors for run in "ab")
    assert f"the other {len(before) - 3} tensors are, bit for bit, those of {tmp_path / 'a'}" in finished.err
    assert _changed(before, after) == CALIBRATED
    assert (
        "was trained with --train-only cls_project,cls_bias,logit_scale, now cls_bias"
        in detheads(*line, "cls_bias").err
    )
    assert "--train-only takes names" in detheads(*line, "cls_bias,").err
