"""A step never waits for its device, and what was not finite changes nothing and is told afterwards."""

from collections import Counter
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from detheads.foundation.errors import UserError
from detheads.headkit.contract import HeadOutput
from detheads.training.batches import Batch, epoch_order, read_batches
from detheads.training.learner import Learner
from detheads.training.trainer import Trainer
from tests.training.world import World

Make = Callable[..., Trainer]

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")
"""Operations after which a program on a GPU goes on only when everything queued before is done."""


class Waits(TorchDispatchMode):
    """Counts operations that wait for their device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        self.found[name] += name in WAITS
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.found.values())


def simple_loss(self: object, output: HeadOutput, targets: object) -> dict[str, Tensor]:
    return {"boxes": output.boxes.square().mean(), "classes": output.logits.sigmoid().mean()}


def fed(job: Trainer) -> Batch:
    (batch, *_) = read_batches(job.train_cache, epoch_order(job.config, job.train_cache, 0))
    return batch


def spoilt(batch: Batch) -> Batch:
    return Batch({name: values * torch.nan for name, values in batch.features.items()}, batch.targets)


def weights(learner: Learner) -> dict[str, Tensor]:
    heads = {"live": learner.head, "averaged": learner.averaged_head}
    return {
        f"{kind}.{name}": value.clone() for kind, head in heads.items() for name, value in head.state_dict().items()
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(precision: str, trainer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the head's own loss does is counted elsewhere."""
    job = trainer(precision=precision)
    monkeypatch.setattr(job.head, "loss", MethodType(simple_loss, job.head))
    batch = fed(job)
    with Waits() as waits:
        for _ in range(2):
            losses = job.optimise(batch)
        assert waits.total == 0, waits.found
        float(losses["boxes"])
        assert waits.total == 1


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_after_a_loss_that_is_not_finite_no_step_changes_a_weight(precision: str, trainer: Make) -> None:
    """Nobody looks until later; three good batches come in between."""
    learner = trainer(precision=precision).learner
    batch = fed(trainer(run="other"))
    learner.optimise(batch)
    before = weights(learner)
    learner.optimise(batch)
    kept = weights(learner)
    assert not same(before, kept) or precision == "fp16"  # the first scales of fp16 may all overflow
    learner.optimise(spoilt(batch))
    for _ in range(3):
        learner.optimise(batch)
    assert same(kept, weights(learner))
    found = learner.divergence()
    assert found is not None
    assert found.step == 2
    assert found.sentence.startswith("the loss is not finite at step 2 (")
    assert " nan" in found.sentence


def test_a_gradient_of_fp16_that_overflows_lowers_the_scale_and_training_goes_on(trainer: Make) -> None:
    job = trainer(precision="fp16")
    learner, batch = job.learner, fed(job)
    learner.optimise(batch)
    scale = learner.scaler.get_scale()
    hook = next(learner.head.parameters()).register_hook(lambda gradient: gradient * torch.inf)
    before = {name: value.clone() for name, value in learner.head.state_dict().items()}
    learner.optimise(batch)
    hook.remove()
    assert learner.divergence() is None
    assert learner.scaler.get_scale() == scale / 2
    assert same(before, learner.head.state_dict())
    for _ in range(20):  # until the scale is low enough
        learner.optimise(batch)
        if not same(before, learner.head.state_dict()):
            return
    pytest.fail("no later step changed a weight")


def test_a_divergence_behind_a_resume_is_told_by_the_step_of_the_run(trainer: Make) -> None:
    job = trainer()
    batch = fed(job)
    job.optimise(batch)
    job.optimise(batch)
    again = trainer(run="again").learner
    again.restore(*job.learner.state())
    again.optimise(batch)
    assert again.divergence() is None
    again.optimise(spoilt(batch))
    found = again.divergence()
    assert found is not None and found.step == 3


def test_features_that_are_not_finite_are_told_with_their_picture(
    trainer: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = trainer(epochs=1)
    stored, bad = job.train_cache.stored, 6

    def read(indices: list[int], *arguments: Any, **options: Any) -> Any:
        rows = stored(indices, *arguments, **options)
        if bad in indices:
            rows.values[job.train_cache.feature_spec.main[0]][list(indices).index(bad), 0, 0, 0] = torch.nan
        return rows

    monkeypatch.setattr(job.train_cache, "stored", read)
    name = job.train_cache.manifest.images[bad].file_name
    with pytest.raises(UserError, match=rf"holds features of {name} that are not finite; build the cache again"):
        job.fit()
    assert not list(job.run.glob("*.safetensors"))


def test_channels_last_learns_the_same_and_goes_on_from_a_state_of_either_format(trainer: Make) -> None:
    jobs = {last: trainer(run=str(last), channels_last=last).learner for last in (False, True)}
    batch = fed(trainer(run="other"))
    for learner in jobs.values():
        for _ in range(3):
            learner.optimise(batch)
    kernels = [value for value in jobs[True].head.parameters() if value.ndim == 4 and value.shape[-1] > 1]
    assert kernels and all(value.is_contiguous(memory_format=torch.channels_last) for value in kernels)
    resumed = trainer(run="resumed", channels_last=True).learner
    tensors, values = jobs[False].state()
    resumed.restore({name: value.clone().contiguous() for name, value in tensors.items()}, values)  # as from a file
    for learner in (*jobs.values(), resumed):
        learner.optimise(batch)
    plain = weights(jobs[False])
    for other in (jobs[True], resumed):
        for name, value in weights(other).items():
            torch.testing.assert_close(
                value, plain[name], rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_another_memory_format_is_another_training(trainer: Make) -> None:
    trainer(epochs=1).fit()
    with pytest.raises(UserError, match=r"was trained without --channels-last; give the same"):
        trainer(epochs=1, channels_last=True)


@pytest.mark.slow
def test_a_compiled_head_learns_the_same(trainer: Make) -> None:
    """Takes minutes; needs a C++ compiler."""
    plain, compiled = (trainer(run=str(on), compile=on).learner for on in (False, True))
    batch = fed(trainer(run="other"))
    for _ in range(3):
        one, other = plain.optimise(batch), compiled.optimise(batch)
        assert {name: float(value) for name, value in one.items()} == pytest.approx(
            {name: float(value) for name, value in other.items()}, rel=1e-3
        )
    assert plain.head.state_dict().keys() == compiled.head.state_dict().keys()
    assert compiled.divergence() is None
