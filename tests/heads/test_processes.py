"""Two processes with half of a batch each learn what one learns from all of it, whatever their halves hold."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.multiprocessing import spawn

from detheads.backbones.features import FeatureSpec
from detheads.headkit import registry
from detheads.headkit.checks import random_features
from detheads.targets.objects import TargetBatch, Targets
from tests.heads.worlds import SPECS, no_objects, objects, small_config, with_blocks

SPEC = SPECS["vit-square"]


def _targets() -> list[Targets]:
    """Of four images; the second process has but one object."""
    every = objects(SPEC)
    one, three = (Targets(every.boxes[:count], every.labels[:count]) for count in (1, 3))
    return [every, no_objects(), three, one]


def _learned(name: str, rank: int, processes: int) -> dict[str, Tensor]:
    """Mean loss and gradients, and buffers, after this process's share of the batch."""
    entry = registry.entry(name)
    spec: FeatureSpec = with_blocks(entry, SPEC)
    torch.manual_seed(0)
    options = small_config(entry) | (
        {"prototypes": "image"} if "image" in registry.choices(entry, "prototypes") else {}
    )
    head = registry.build(name, spec, 5, options).train()
    own = slice(rank, None, processes)
    features = {layer: values[own] for layer, values in random_features(spec, 4).items()}
    losses = head.loss(head(features), TargetBatch.of(_targets()[own]))
    torch.stack(list(losses.values())).sum().backward()
    found = {f"loss {name}": value.detach() for name, value in losses.items()}
    found |= {name: value.grad for name, value in head.named_parameters() if value.grad is not None}
    for value in found.values() if processes > 1 else ():
        distributed.all_reduce(value)
        value /= processes
    return found | dict(head.named_buffers())


def _share(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    torch.save({name: _learned(name, rank, 2) for name in sorted(registry.trainable())}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_halves_of_a_batch_teach_every_head_what_the_whole_does(tmp_path: Path) -> None:
    spawn(_share, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in sorted(registry.trainable()):
        whole = _learned(name, 0, 1)
        for halves in (first[name], second[name]):
            assert halves.keys() == whole.keys()
            for key, value in whole.items():
                assert torch.allclose(halves[key], value, rtol=1e-3, atol=2e-5), f"{name}: {key}"
