"""Speed of caching against the bare forward passes of its backbone."""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from detheads.backbones.backbone import Backbone
from detheads.bench.memory import peak_memory_mb
from detheads.cache.builder import build_cache
from detheads.data.dataset import Dataset
from detheads.foundation.progress import Progress
from detheads.foundation.timing import Contender, take_turns

PARTS = 5
"""Into how many parts the images are divided, so that caching and the bare backbone take turns."""


@dataclass(frozen=True)
class CacheBench:
    """Caching against the bare backbone; images a second, medians over the parts of the dataset.

    ``ratio`` is ``caching / bare_forward``. Baseline: forward passes on as many images that stay in memory. ``images``
    are those that were measured, up to four fewer than the dataset's because all parts have one size.
    """

    images: int
    batch: int
    caching: float
    bare_forward: float
    ratio: float
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

    def forward(images: int) -> None:
        for start in range(0, images, batch):
            backbone(inputs[: images - start])

    def rounds(folder: Path) -> Iterator[Mapping[str, Contender]]:
        warm_up = min(batch, size)
        yield {"bare forward": partial(forward, warm_up), "caching": partial(cache, folder / "warm-up", 0, warm_up)}
        for start in range(0, parts * size, size):
            yield {"bare forward": partial(forward, size), "caching": partial(cache, folder / f"{start}", start, size)}

    def cache(folder: Path, start: int, images: int) -> None:
        taken = slice(start, start + images)
        part = replace(dataset, images=dataset.images[taken], objects=dataset.objects[taken])
        build_cache(
            part,
            backbone,
            folder,
            batch_size=batch,
            on_progress=lambda step, done, _: on_progress(step, start + done, parts * size),
        )

    with tempfile.TemporaryDirectory() as folder:
        timing = take_turns(rounds(Path(folder)))
    caching, bare_forward = (size / timing.median(name) for name in ("caching", "bare forward"))
    return CacheBench(parts * size, batch, caching, bare_forward, caching / bare_forward, peak_memory_mb())
