"""What reaches the weights in a step, and which weights are judged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detheads.training import trainer as trainer_module
from detheads.training.batches import epoch_order, read_batches
from detheads.training.checkpoint import checkpoint_path, load_tensors
from detheads.training.trainer import Trainer

Make = Callable[..., Trainer]


def _step(job: Trainer) -> None:
    (batch, *_) = read_batches(job.train_cache, epoch_order(job.config, job.train_cache, 0))
    job.optimise(batch)


def _weights(job: Trainer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in job.head.named_parameters()}


def test_losses_are_scaled_in_fp16_only(trainer: Make) -> None:
    scaled = {kind: trainer(precision=kind).learner.scaler.is_enabled() for kind in ("auto", "fp32", "bf16", "fp16")}
    assert scaled == {"auto": False, "fp32": False, "bf16": False, "fp16": True}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_gradient_longer_than_the_limit_reaches_the_optimiser(precision: str, trainer: Make) -> None:
    lengths = {}
    for limit in (0.01, 1e6):
        job = trainer(run=str(limit), clip_norm=limit, precision=precision)
        _step(job)
        gradients = [parameter.grad for parameter in job.head.parameters() if parameter.grad is not None]
        lengths[limit] = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert lengths[0.01] == pytest.approx(0.01, rel=1e-3)
    assert 0.01 < lengths[1e6] < 1e6


def test_weight_decay_shrinks_matrices_and_kernels_and_leaves_biases_norms_and_scalars(trainer: Make) -> None:
    """One step with decay less the same step without it is what the decay alone does: ``lr * decay * weight``."""
    plain, decayed = (trainer(run=f"decay {decay}", weight_decay=decay, lr=0.1) for decay in (0.0, 0.5))
    start = _weights(plain)
    for job in (plain, decayed):
        _step(job)
    rate = plain.learner.rate
    without, shrunk = _weights(plain), _weights(decayed)
    for name, before in start.items():
        share = 0.5 if before.ndim > 1 else 0.0
        torch.testing.assert_close(without[name] - shrunk[name], rate * share * before, rtol=1e-3, atol=1e-6)
        assert not torch.equal(without[name], before), f"{name} does not learn"
    assert {before.ndim for before in start.values()} >= {1, 4}


def test_the_averaged_weights_are_evaluated_and_kept_as_the_best(
    trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[dict[str, Tensor]] = []
    evaluate = trainer_module.evaluate_cache

    def spy(head: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        judged.append({name: value.clone() for name, value in head.state_dict().items()})
        return evaluate(head, *arguments, **options)

    monkeypatch.setattr(trainer_module, "evaluate_cache", spy)
    run: Path = trainer(epochs=1, eval_every=1).fit().run
    (weights,) = judged
    last, best = (load_tensors(checkpoint_path(run, which))[1] for which in ("last", "best"))
    assert all(
        torch.equal(value, best[name]) and torch.equal(value, last[f"ema.{name}"]) for name, value in weights.items()
    )
    assert any(not torch.equal(value, last[f"live.{name}"]) for name, value in weights.items())
