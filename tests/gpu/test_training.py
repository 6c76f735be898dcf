"""Training on a GPU: every head, the losses of the processor, checkpoints for any device, exact resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import predict_cache
from detheads.headkit import registry
from detheads.training import trainer as trainer_module
from detheads.training.batches import epoch_order, read_batches
from detheads.training.checkpoint import build_head, checkpoint_path, load_checkpoint, load_tensors
from detheads.training.config import TrainConfig
from detheads.training.status import Status
from detheads.training.trainer import Trainer

NARROW = {"width": 16, "tower_blocks": 1}
HEADS = [name for name, entry in registry.trainable().items() if not entry.head.blocks]
Make = Callable[..., Trainer]


@pytest.fixture
def trainer(cache: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """``trainer(device, run="a", epochs=2)``: a narrow head on the small cache."""
    monkeypatch.setattr(trainer_module, "plot_log", lambda run: None)

    def make(device: torch.device, *, head: str = "fcos", run: str = "run", **options: Any) -> Trainer:
        config = TrainConfig(**({"batch": 4, "lr": 2e-3, "epochs": 3, "eval_every": 3} | options))
        narrow = {key: value for key, value in NARROW.items() if key in registry.defaults(registry.entry(head))}
        return Trainer(head, narrow, cache, cache, tmp_path / run, config, device=device)

    return make


def _losses(job: Trainer, cache: FeatureCache, steps: int = 1) -> list[dict[str, float]]:
    config = replace(job.config, flips=0.0)
    order = [chunk for epoch in range(steps) for chunk in epoch_order(config, cache, epoch)][:steps]
    batches = read_batches(cache, order, matcher=job.head.matcher(), device=job.device)
    return [{name: float(value) for name, value in job.optimise(batch).items()} for batch in batches]


@pytest.mark.parametrize(
    ("place", "head"),
    [pytest.param("cpu", head) for head in ("fcos", "split_tower", "sparse_query")]
    + [pytest.param("cuda", head, marks=pytest.mark.gpu) for head in HEADS],
)
def test_a_head_trains_and_detects_where_its_device_is(
    place: str, head: str, trainer: Make, cache: FeatureCache
) -> None:
    device = torch.device(place)
    job = trainer(device, head=head)
    before = [parameter.detach().clone() for parameter in job.head.parameters()]
    for losses in _losses(job, cache, steps=2):
        assert all(torch.isfinite(torch.tensor(list(losses.values()))))
    assert any(not torch.equal(old, new) for old, new in zip(before, job.head.parameters(), strict=True))
    predict_cache(job.head.eval(), cache, batch_size=3)
    tensors = [*job.head.state_dict().values(), *job.averaged_head.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {place}


def test_the_first_losses_are_those_of_the_processor(
    device: torch.device, repeatable: None, trainer: Make, cache: FeatureCache
) -> None:
    first, second = (_losses(trainer(at, precision="fp32"), cache, steps=3) for at in (torch.device("cpu"), device))
    for one, other in zip(first, second, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_training_lowers_the_loss_and_the_checkpoint_is_for_any_device(
    precision: str, device: torch.device, repeatable: None, trainer: Make, cache: FeatureCache
) -> None:
    job = trainer(device, epochs=8, eval_every=8, precision=precision)
    losses: list[float] = []
    job.fit(lambda status: losses.append(status.loss))
    assert losses[-1] < 0.8 * losses[0]
    head, features = build_head(load_checkpoint(job.run, "last")), cache.features([0, 1])
    with torch.no_grad():
        here = head(features)
        there = job.averaged_head.eval()({name: values.to(device) for name, values in features.items()})
    torch.testing.assert_close(there.boxes.cpu(), here.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(there.logits.cpu(), here.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_an_interrupted_run_in_half_precision_ends_as_an_uninterrupted_one(
    precision: str, device: torch.device, repeatable: None, trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps. The scaler of fp16 doubles every two steps, so that one that began anew would end elsewhere."""
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", -1.0)
    scales: dict[str, list[float]] = {"whole": [], "cut": []}

    def job(run: str) -> Trainer:
        made = trainer(device, run=run, precision=precision)
        assert made.learner.scaler.is_enabled() == (precision == "fp16")
        return made

    def watch(job: Trainer, run: str, stop: int | None = None) -> Callable[[Status], None]:
        def on_step(status: Status) -> None:
            scales[run].append(float(job.learner.scaler.get_scale()))
            if status.step == stop:
                raise KeyboardInterrupt

        return on_step

    whole, cut = job("whole"), job("cut")
    for begun in (whole, cut):
        begun.learner.scaler.set_growth_interval(2)
    whole.fit(watch(whole, "whole"))
    with pytest.raises(KeyboardInterrupt):
        cut.fit(watch(cut, "cut", stop=4))
    scales["cut"].pop()  # the step at which it stopped was not saved, and runs again
    torch.rand(7)  # another process has drawn other random numbers before
    resumed = job("cut")
    resumed.fit(watch(resumed, "cut"))
    assert scales["cut"] == scales["whole"]
    assert len(set(scales["whole"])) > 1 or precision == "bf16"
    for which in ("last", "best"):
        (first, one), (second, other) = (load_tensors(checkpoint_path(at.run, which)) for at in (whole, resumed))
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
        assert first["progress"].get("scaler") == second["progress"].get("scaler")
