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
from detheads.training.config import TrainConfig
from detheads.training.only import chosen
from detheads.training.status import Status
from detheads.training.trainer import Trainer
from tests.training.world import NARROW, World

Make = Callable[..., Trainer]
CALIBRATED = {"classifier.cls_project.weight", "classifier.cls_bias", "classifier.logit_scale"}
TEXTS = torch.nn.functional.normalize(torch.randn(10, 16, generator=torch.Generator().manual_seed(3)), dim=1)


@pytest.fixture(scope="module")
def first(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained head that compares with text."""
    config, caches = TrainConfig(epochs=1, batch=4, lr=2e-3), (world.cache("train"), world.cache("val"))
    run = tmp_path_factory.mktemp("trained") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "plot_log", lambda run: None)
        Trainer("split_tower", NARROW["split_tower"], *caches, run, config, class_embeddings=TEXTS).fit()
    return run


@pytest.fixture
def calibrated(first: Path, trainer: Make) -> Callable[..., Trainer]:
    """A calibration of that head."""

    def make(**options: Any) -> Trainer:
        only = {"train_only": ("cls_calib",), "init": first, "narrow": {}, "epochs": 1, "eval_every": 1, "lr": 1e-2}
        return trainer("split_tower", **(only | options))

    return make


def _changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors that have another bit; -0 is not 0."""
    assert before.keys() == after.keys()
    pairs = {name: [each[name].reshape(-1).view(torch.uint8) for each in (before, after)] for name in before}
    return {name for name, (one, other) in pairs.items() if not torch.equal(one, other)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cls_calib_changes_three_parameters_and_no_other_bit(
    precision: str, first: Path, calibrated: Callable[..., Trainer]
) -> None:
    """Dropout, which the head has, would not let its frozen part compute as it did."""
    job = calibrated(precision=precision, head_options={"dropout": 0.4})
    source = load_checkpoint(first)
    before = source.tensors
    run = job.fit().run
    for which in ("best", "last", "live"):
        assert _changed(before, load_checkpoint(run, which).tensors) == CALIBRATED, which  # type: ignore[arg-type]
    moments = {name.split(".")[1] for name in load_tensors(run / "last.safetensors")[1] if "optimizer" in name}
    assert len(moments) == 3
    assert job.learning == 16 * 16 + 10 + 1
    assert job.parameters == sum(value.numel() for name, value in job.head.named_parameters())
    # The text comes with the weights; nobody gave it.
    assert job.identity.head_config["prototypes"] == "text"
    assert job.identity.class_embeddings_sha256 == source.class_embeddings_sha256 is not None


def test_an_interrupted_calibration_ends_as_one_that_was_not(
    calibrated: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)

    def stop(status: Status) -> None:
        if status.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrated(run="cut").fit(stop)
    cut, whole = (calibrated(run=run).fit().run for run in ("cut", "whole"))
    for which in ("best", "last"):
        files = [load_tensors(run / f"{which}.safetensors")[1] for run in (cut, whole)]
        assert _changed(*files) == set()


class Counting(nn.Module):
    """Counts, as no head should, how often it was computed, once it is told to."""

    counts = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count = self.count + self.counts
        return x


@pytest.fixture
def normalising() -> Iterator[str]:
    """A head with BatchNorm, dropout and :class:`Counting` of its own."""

    @register(PyramidConfig)
    class Normalising(FCOS):
        def __init__(self, spec: FeatureSpec, num_classes: int, config: PyramidConfig) -> None:
            super().__init__(spec, num_classes, config)
            self.norm = nn.Sequential(nn.BatchNorm2d(spec.layers[0].channels), nn.Dropout(0.3), Counting())

        def forward(self, features: Mapping[str, Tensor]) -> HeadOutput:
            first, *others = features
            return super().forward({first: self.norm(features[first]), **{name: features[name] for name in others}})

    name = __name__.rpartition(".")[2]
    yield name
    registry.forget(name)
    Counting.counts = False


def test_batch_statistics_stay_and_a_head_that_changes_by_itself_is_refused(normalising: str, trainer: Make) -> None:
    first = trainer(normalising, run="first", epochs=1, narrow=NARROW["fcos"]).fit().run
    before = load_checkpoint(first).tensors
    assert before["norm.0.num_batches_tracked"] > 0
    run = trainer(normalising, run="second", epochs=1, init=first, train_only=("classes",), narrow={}).fit().run
    assert _changed(before, load_checkpoint(run, "live").tensors) == {"classes.weight", "classes.bias"}
    Counting.counts = True
    job = trainer(normalising, run="third", epochs=1, init=first, train_only=("classes",), narrow={})
    with pytest.raises(UserError, match=r"the head changes its norm.2.count by itself while it is computed"):
        job.fit()
    assert not list(job.run.glob("*.safetensors"))


def test_means_of_features_are_left_alone(trainer: Make) -> None:
    """``prototype`` adds the features of every batch to the means of its classes, in training."""
    first = trainer("prototype", run="first", epochs=1, narrow={"width": 16, "prototypes": "image"}).fit().run
    run = trainer("prototype", run="second", epochs=1, init=first, train_only=("cls_calib",), narrow={}).fit().run
    changed = _changed(load_checkpoint(first).tensors, load_checkpoint(run).tensors)
    assert changed == {"classes.cls_project.weight", "classes.cls_bias", "classes.logit_scale"}


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
    fcos = trainer(run="fcos", cache="fewer", val="fewer", epochs=1).fit().run
    for name, sentence in {
        "clases": r"has no parameter 'clases' to train alone; it has .*classes.*\. Did you mean 'classes'\?",
        "cls_calb": r"Did you mean 'cls_calib'\?",
        "cls_calib": r"has no parameter cls_project, which --train-only cls_calib stands for",
    }.items():
        with pytest.raises(UserError, match=sentence):
            trainer(run="second", cache="fewer", val="fewer", init=fcos, train_only=(name,), narrow={})
    with pytest.raises(UserError, match=r"has another head \(fcos, here split_tower\)"):
        calibrated(init=fcos)
    with pytest.raises(UserError, match=r"first was trained with other class embeddings, and --train-only leaves"):
        calibrated(class_embeddings=TEXTS.flip(0))
    with pytest.raises(UserError, match=r"fcos does not know the class '.*', and --train-only leaves the rest"):
        trainer(run="more", init=fcos, train_only=("classes",), narrow={})


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
