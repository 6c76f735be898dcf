"""How heads are trained where nothing is asked for."""

import pytest
import torch

from detheads.make.contenders import FEWEST_EPOCHS, MOST_EPOCHS, USEFUL_STEPS, batch_for, useful_epochs
from detheads.make.rates import faster_precision


@pytest.mark.parametrize(("device", "precision"), [("cpu", "bf16"), ("meta", "auto")])
def test_a_cpu_takes_the_cheaper_precision_and_a_gpu_its_own(device: str, precision: str) -> None:
    seconds = {"fp32": 2.0, "bf16": 1.0}
    assert faster_precision(seconds.__getitem__, torch.device(device)) == precision


@pytest.mark.parametrize("pictures", [10, 63, 64, 1000, 100_000])
def test_epochs_make_enough_steps_within_their_bounds(pictures: int) -> None:
    epochs = useful_epochs(pictures)
    steps = epochs * -(-pictures // batch_for(pictures))
    assert FEWEST_EPOCHS <= epochs <= MOST_EPOCHS
    assert steps >= USEFUL_STEPS or epochs == MOST_EPOCHS
