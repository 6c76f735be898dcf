"""What a run is made of: learning rate, averaging, order of images, log and plot."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detheads.headkit import registry
from detheads.targets.objects import Targets
from detheads.training.batches import epoch_order, read_batches
from detheads.training.config import TrainConfig
from detheads.training.ema import Average
from detheads.training.log import RunLog, plot_log, read_log
from tests.training.world import NARROW, World


def test_the_learning_rate_warms_up_to_its_peak_and_ends_near_zero() -> None:
    config = TrainConfig(lr=0.01, warmup_steps=100)
    rates = [config.learning_rate(step, 2000) for step in range(2000)]
    assert rates[0] == pytest.approx(0.01 / 100)
    assert rates[49] == pytest.approx(0.005)
    assert rates[99] == pytest.approx(0.01)
    assert max(rates) == rates[100] == pytest.approx(0.01)
    assert rates[1050] == pytest.approx(0.005)  # halfway down the cosine
    assert 0 < rates[-1] < 1e-7
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize("total", [1, 2, 5, 40])
def test_short_runs_have_a_short_warm_up(total: int) -> None:
    config = TrainConfig(lr=1.0, warmup_steps=100)
    rates = [config.learning_rate(step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) <= max(1, total // 10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("decay", [0.9998, 0.5, 0.0])
def test_the_average_is_the_closed_form_of_the_warmed_up_decay(
    world: World, decay: float, dtype: torch.dtype, tolerance: float
) -> None:
    """After ``n`` updates the weights of update ``k`` count ``(1 - d_k) d_(k+1) ... d_(n-1)``; the first starts the
    average, so that of the initial weights nothing is left."""
    torch.manual_seed(0)
    head = registry.build("fcos", world.cache("val").feature_spec, 10, NARROW["fcos"]).to(dtype)
    average = Average(head, decay)
    parameter, seen = next(head.parameters()), []
    for _ in range(40):
        with torch.no_grad():
            parameter.copy_(torch.randn_like(parameter))
        average.update(head)
        seen.append(parameter.detach().flatten()[:50].double().numpy().copy())
    decays = np.minimum(decay, (1 + np.arange(40)) / (10 + np.arange(40)))
    decays[0] = 0.0
    shares = (1 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    assert shares.sum() == pytest.approx(1)
    found = next(average.head.parameters()).flatten()[:50].numpy()
    np.testing.assert_allclose(found, shares @ np.array(seen), rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("points", "stretches", "steps"),
    [
        (11, [118_288], [78_859, *range(82_802, 114_347, 3943), 118_288]),
        (4, [30], [20, 23, 27, 30]),
        (1, [30], [30]),
        (3, [30, 12], [20, 25, 30, 38, 40, 42]),
        (11, [2], [1, 2]),
        (0, [30], []),
    ],
)
def test_a_sweep_looks_evenly_over_the_last_third_of_each_stretch(
    points: int, stretches: list[int], steps: list[int]
) -> None:
    """The first is the source's: 16 epochs of COCO's 118,287 pictures, 16 a step; it swept steps 80,000 to 117,000."""
    found = list(TrainConfig(sweep=points).sweep_steps(stretches))
    assert found == pytest.approx(steps, abs=1)
    assert len(found) == len(steps)


@pytest.mark.parametrize("batch", [4, 5, 10, 16])
def test_an_epoch_takes_every_image_once(world: World, batch: int) -> None:
    cache = world.cache("train")
    order = epoch_order(TrainConfig(batch=batch), cache, 0)
    assert sorted(index for indices, _ in order for index in indices) == list(range(len(cache)))
    assert [len(indices) for indices, _ in order[:-1]] == [batch] * (math.ceil(len(cache) / batch) - 1)
    assert all(len(indices) == len(flips) for indices, flips in order)


def test_the_order_depends_on_seed_and_epoch_and_nothing_else(world: World) -> None:
    cache = world.cache("train")

    def order(seed: int, epoch: int) -> object:
        return epoch_order(TrainConfig(seed=seed), cache, epoch)

    first = order(1, 2)
    torch.manual_seed(99)
    torch.rand(5)
    assert order(1, 2) == first
    assert order(1, 3) != first != order(2, 2)


def test_half_of_the_images_are_mirrored_and_none_without_flips(world: World) -> None:
    cache = world.cache("train")
    flips = [flip for epoch in range(200) for _, flips in epoch_order(TrainConfig(), cache, epoch) for flip in flips]
    assert 900 < sum(flips) < 1100
    for config, name in ((TrainConfig(), "plain"), (TrainConfig(flips=0.0), "train")):
        assert not any(flip for _, flips in epoch_order(config, world.cache(name), 0) for flip in flips)


def test_batches_hold_the_features_and_boxes_of_their_images(world: World) -> None:
    cache = world.cache("train")
    order = [([3, 0], [False, True]), ([7], [True]), ([9, 8], [False, False]), ([1], [False])]
    batches = list(read_batches(cache, order))
    assert len(batches) == 4
    for (indices, flips), batch in zip(order, batches, strict=True):
        for row, (index, flip) in enumerate(zip(indices, flips, strict=True)):
            for name, values in cache.features([index], [flip]).items():
                assert torch.equal(batch.features[name][row], values[0])
            _assert_targets(batch.targets[row], cache.targets(index), flip, cache.feature_spec.width)


def _assert_targets(found: Targets, plain: Targets, flip: bool, width: int) -> None:
    left, top, right, bottom = plain.boxes.unbind(1)
    expected = torch.stack((width - right, top, width - left, bottom), 1) if flip else plain.boxes
    torch.testing.assert_close(found.boxes, expected)
    assert torch.equal(found.labels, plain.labels)


def test_a_resumed_log_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    first = RunLog(tmp_path, 0)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 1.0})
    with first.path.open("a") as stream:
        stream.write('{"step": 40, "lo')  # cut off by a kill
    resumed = RunLog(tmp_path, 20)
    resumed.write({"step": 30, "loss": 2.0})
    lines = [json.loads(line) for line in resumed.path.read_text("utf-8").splitlines()]
    assert lines == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 1.0}, {"step": 30, "loss": 2.0}]
    assert read_log(tmp_path) == lines
    assert RunLog(tmp_path, 0).path.read_text() == ""


def test_numbers_that_are_not_json_never_enter_the_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunLog(tmp_path, 0).write({"step": 1, "loss": math.nan})


def test_the_plot_is_a_picture_even_of_a_run_without_log_lines(tmp_path: Path) -> None:
    log = RunLog(tmp_path, 0)
    empty = plot_log(tmp_path).read_bytes()
    for step in (20, 40):
        log.write({"step": step, "loss": 3.0 / step, "loss_box": 1.0 / step})
    log.write({"step": 40, "AP": 0.1, "AP50": 0.3, "AP75": 0.05})
    with Image.open(plot_log(tmp_path)) as picture:
        assert picture.width > 600
        picture.load()
    assert (tmp_path / "plot.png").read_bytes() != empty
