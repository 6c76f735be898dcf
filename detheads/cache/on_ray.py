"""A cache build by the workers of a Ray cluster: each makes parts, which become the cache that one process makes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from detheads.backbones.backbone import Backbone, load_backbone
from detheads.backbones.own import load_backbone_file
from detheads.backbones.spec import Precision
from detheads.cache.annotate import compare_pictures
from detheads.cache.builder import BuildResult, build_cache, settings_for
from detheads.cache.manifest import MANIFEST_NAME, Settings, StorageType, read_manifest
from detheads.cache.merge import merge_parts
from detheads.cache.parts import Part, most_parts
from detheads.cache.plan import CACHE, require_equal_settings
from detheads.cache.sizes import require_space
from detheads.data import read_dataset
from detheads.data.dataset import Dataset
from detheads.foundation import locks
from detheads.foundation.claims import Kind, claimed
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark
from detheads.foundation.ray_cluster import Tally, Tell, Workers, run_parts
from detheads.ops.devices import pick_device, use_threads

DIVISION: Final = Kind("division.json", "a divided build", "caching in")
PARTS_A_WORKER: Final = 4
"""So that workers of unlike speed end at about the same time."""

PartWork = Callable[[int, Tell], tuple[BuildResult, list[str]]]


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to know to make a part. All machines see the same files under the same paths.

    Attributes:
        folder, split, skip_bad, limit: of the dataset; the first ``limit`` pictures, all when None.
        backbone, backbone_file, size, weights, random_weights, blocks: as for :func:`load_backbone`.
        device: torch's name of it, on the worker's machine.
    """

    folder: Path
    split: str
    skip_bad: bool
    limit: int | None
    backbone: str
    backbone_file: Path | None
    size: tuple[int, int] | None
    weights: Path | None
    random_weights: bool
    blocks: tuple[int, ...]
    dtype: StorageType
    flips: bool
    precision: Precision
    batch_size: int
    device: str


def build_on_ray(
    dataset: Dataset,
    backbone: Backbone,
    output: Path,
    recipe: Recipe,
    workers: Workers,
    *,
    on_progress: Progress,
    on_remark: Remark,
    on_picture: Remark,
) -> BuildResult:
    """Build the cache that :func:`build_cache` builds of the same pictures, byte for byte on equal processors.

    The parts lie in a folder beside ``output``; a killed worker's part, and a killed build, go on behind the shards
    that are finished there. It is removed when the cache is whole.

    Args:
        dataset, backbone: as ``recipe`` says, read by this process.
        on_remark: told which part is begun again.
        on_picture: told what looks wrong about a picture.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        UserError: as :func:`build_cache`; when ``output`` holds a cache that one process began, or a finished one of
            other pictures; when there is no cluster, it has not what a worker needs, or a part was given up.
    """
    settings, folder = settings_for(backbone, recipe.dtype, recipe.flips), output.with_name(output.name + ".parts")
    if (output / MANIFEST_NAME).is_file():
        return _again(dataset, backbone, output, recipe, folder, on_progress)
    if (output / CACHE.record).is_file() and not (folder / DIVISION.record).is_file():
        raise UserError(
            f"{output} was begun by one process; finish it without --workers, or choose another folder with -o."
        )
    described = {
        "settings": settings.model_dump(mode="json"),
        "dataset": f"{dataset.name}/{dataset.split}",
        "images": len(dataset.images),
    }
    of = min(most_parts(dataset, settings), PARTS_A_WORKER * workers.count)
    with claimed(folder, DIVISION, described, {"parts": of}) as recorded:
        parts = [Part(number, int(recorded["parts"])) for number in range(1, int(recorded["parts"]) + 1)]
        there = sum(path.stat().st_size for path in folder.glob("part-*/shard-*.safetensors"))
        require_space(folder, len(dataset.images) * settings.bytes_per_image - there, settings)
        sizes = {part.number: len(part.of_dataset(dataset, settings).images) for part in parts}
        results = _run(recipe, settings, folder, sizes, workers, on_progress, on_remark)
        manifest = merge_parts([folder], output, on_progress)
    locks.remove(folder)
    for _, sentences in results:
        for sentence in sentences:
            on_picture(sentence)
    built = [result for result, _ in results]
    return BuildResult(
        folder=output,
        images=len(manifest.images),
        extracted=sum(result.extracted for result in built),
        resumed=sum(result.resumed for result in built),
        replaced=tuple(name for result in built for name in result.replaced),
        skipped={name: why for result in built for name, why in result.skipped.items()},
        bytes=sum((output / shard.file).stat().st_size for shard in manifest.shards),
    )


def _run(
    recipe: Recipe,
    settings: Settings,
    folder: Path,
    sizes: dict[int, int],
    workers: Workers,
    on_progress: Progress,
    on_remark: Remark,
) -> list[tuple[BuildResult, list[str]]]:
    """What became of all parts, in their order."""
    tally = Tally("caching", sizes, on_progress)
    results: dict[int, tuple[BuildResult, list[str]]] = {}
    failures: list[str] = []

    def on_part(number: int, failure: str, result: tuple[BuildResult, list[str]]) -> None:
        if failure:
            failures.append(f"part {number} of {len(sizes)} was given up: {failure.rstrip('.')}")
            return
        results[number] = result
        tally.finish(number)

    prepare = partial(_prepared, recipe, settings, folder.resolve(), len(sizes), workers.threads)
    run_parts(prepare, list(sizes), workers, on_part, on_far=tally.far, on_remark=on_remark)
    if failures:
        raise UserError(f"{failures[0]}; the same command goes on, behind the finished shards.")
    return [results[number] for number in sizes]


def _prepared(recipe: Recipe, settings: Settings, folder: Path, of: int, threads: int) -> PartWork:
    """What a worker does with a part, with the backbone loaded and the annotations read."""
    if recipe.backbone_file is not None:
        load_backbone_file(recipe.backbone_file)
    backbone = load_backbone(
        recipe.backbone,
        recipe.size,
        weights=recipe.weights,
        random_weights=recipe.random_weights,
        blocks=recipe.blocks,
    ).to(pick_device(recipe.device))
    backbone.computing_in(recipe.precision)
    if settings_for(backbone, recipe.dtype, recipe.flips) != settings:
        raise UserError(f"{recipe.backbone} or its weights are others on a worker's machine than here; give --weights.")
    dataset = read_dataset(recipe.folder, recipe.split, skip_bad=recipe.skip_bad)
    dataset = replace(dataset, images=dataset.images[: recipe.limit], objects=dataset.objects[: recipe.limit])

    def work(number: int, tell: Tell) -> tuple[BuildResult, list[str]]:
        use_threads(threads)  # of the thread that calls
        sentences: list[str] = []
        result = build_cache(
            dataset,
            backbone,
            folder,
            dtype=recipe.dtype,
            flips=recipe.flips,
            batch_size=recipe.batch_size,
            skip_bad=recipe.skip_bad,
            part=Part(number, of),
            on_progress=lambda step, done, total: tell(done, total) if step == "caching" else None,
            on_remark=sentences.append,
        )
        return result, sentences

    return work


def _again(
    dataset: Dataset, backbone: Backbone, output: Path, recipe: Recipe, folder: Path, on_progress: Progress
) -> BuildResult:
    """A finished cache is given the boxes of now; what is to be extracted needs no cluster, or another folder."""
    if (folder / DIVISION.record).is_file():  # of a build that was killed at its very end
        locks.remove(folder)
    require_equal_settings(output, read_manifest(output).settings, settings_for(backbone, recipe.dtype, recipe.flips))
    difference = compare_pictures(output, dataset, on_progress)
    if difference:
        raise UserError(
            f"{output} is finished, and the pictures are others now ({difference.sentence}); the same command without "
            "--workers extracts only those."
        )
    return build_cache(dataset, backbone, output, dtype=recipe.dtype, flips=recipe.flips, on_progress=on_progress)
