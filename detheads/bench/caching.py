"""Speed of caching against the bare forward passes of its backbone, and the share of time in which that one waits."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from detheads.backbones.backbone import Backbone
from detheads.bench.memory import peak_memory_mb
from detheads.cache.builder import build_cache
from detheads.data.dataset import Dataset
from detheads.foundation.progress import Progress
from detheads.foundation.timing import Contender, take_turns
from detheads.ops.devices import described

PARTS = 5
"""Into how many parts the images are divided, so that caching and the bare backbone take turns."""


@dataclass(frozen=True)
class CacheBench:
    """Caching in turns with the bare backbone, part by part of a dataset.

    Attributes:
        device: where the backbone computes, in words.
        precision: what it computes in.
        images: those that were measured, up to four fewer than the dataset's because all parts have one size.
        caching, bare_forward: images a second, medians over the parts. The baseline are forward passes on as many
            images that lie on the device.
        ratio: ``caching / bare_forward``.
        waiting: share of the time of caching in which the backbone waited for decoded pictures.
    """

    device: str
    precision: str
    images: int
    batch: int
    caching: float
    bare_forward: float
    ratio: float
    waiting: float
    peak_memory_mb: float


@torch.inference_mode()
def bench_cache(dataset: Dataset, backbone: Backbone, batch: int, on_progress: Progress) -> CacheBench:
    """Cache a dataset part by part into temporary folders, in turns with bare forward passes over as many images."""
    spec, count = backbone.feature_spec, len(dataset.images)
    parts = min(PARTS, count // batch) or 1
    size = count // parts
    memory_format = torch.channels_last if len(spec.main) > 1 else torch.contiguous_format
    backbone.to(memory_format=memory_format)
    pixels = torch.randint(0, 256, (batch, 3, spec.height, spec.width), dtype=torch.uint8)
    inputs = backbone.normalise(pixels.to(next(backbone.parameters()).device)).contiguous(memory_format=memory_format)

    waited: list[float] = []

    def forward(images: int) -> None:
        maps: Mapping[str, Tensor] = {}
        for start in range(0, images, batch):
            maps = backbone(inputs[: images - start])
        for values in maps.values():
            values[0, 0, 0, 0].item()  # waits until the device has computed them

    def rounds(folder: Path) -> Iterator[Mapping[str, Contender]]:
        warm_up = min(batch, size)
        yield {"bare forward": partial(forward, warm_up), "caching": partial(cache, folder / "warm-up", 0, warm_up)}
        for start in range(0, parts * size, size):
            yield {"bare forward": partial(forward, size), "caching": partial(cache, folder / f"{start}", start, size)}

    def cache(folder: Path, start: int, images: int) -> None:
        taken = slice(start, start + images)
        part = replace(dataset, images=dataset.images[taken], objects=dataset.objects[taken])
        built = build_cache(
            part,
            backbone,
            folder,
            batch_size=batch,
            on_progress=lambda step, done, _: on_progress(step, start + done, parts * size),
        )
        waited.append(built.waited)

    with tempfile.TemporaryDirectory() as folder:
        timing = take_turns(rounds(Path(folder)))
    caching, bare_forward = (size / timing.median(name) for name in ("caching", "bare forward"))
    shares = [share / seconds for share, seconds in zip(waited[1:], timing.seconds["caching"], strict=True)]
    return CacheBench(
        device=described(inputs.device),
        precision=backbone.precision,
        images=parts * size,
        batch=batch,
        caching=caching,
        bare_forward=bare_forward,
        ratio=caching / bare_forward,
        waiting=median(shares),
        peak_memory_mb=peak_memory_mb(),
    )
