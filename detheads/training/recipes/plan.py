"""From a dataset to a proven bundle as a recipe has it: the command lines, what each writes, and what it computes.

Torch-free; what head and backbone compute is told by whoever has built them.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detheads.cache.manifest import MANIFEST_NAME, Settings, StorageType
from detheads.foundation.contents import MANIFEST_NAME as BUNDLE_RECORD
from detheads.training.recipes.recipe import Recipe
from detheads.training.record import RECORD_NAME

COCO_IMAGES = (118_287, 5_000)
"""Pictures of COCO's train2017 and val2017, by which a plan counts while the dataset is not there."""
STATES = 5
"""Numbers that a run keeps for each parameter: live weights, their average and both moments of AdamW in ``last``,
the best ones in ``best``."""
BACKWARD = 3
"""Forward and backward take so many times as much as forward alone: backward has two products for each of forward."""


@dataclass(frozen=True)
class Place:
    """Where a recipe is followed from the pictures on.

    Attributes:
        data: the dataset's folder.
        splits: names of its training and validation split.
        folder: everything that is made goes there.
        weights, clip_weights: files of the backbone's and the text encoder's weights; None for a download.
        turned: features turned from left to right stand for those of mirrored images, which halves the cache.
        dtype: how features are stored.
    """

    data: Path
    folder: Path
    splits: tuple[str, str] = ("train2017", "val2017")
    weights: Path | None = None
    clip_weights: Path | None = None
    turned: bool = False
    dtype: StorageType = "fp16"


@dataclass(frozen=True)
class Costs:
    """What one image takes in a forward pass, in floating-point operations, and the learnable parameters."""

    backbone_flops: int
    backbone_parameters: int
    head_flops: int
    head_parameters: int


@dataclass(frozen=True)
class Work:
    """One command of the plan.

    Attributes:
        words: of the command line, without ``detheads``.
        makes: the file or folder that it leaves; None for one that only tells.
        done: whether that is there, whole.
        bytes: that it writes.
        flops: that it computes.
        arithmetic: of both, for a reader.
    """

    words: tuple[str, ...]
    makes: Path | None = None
    done: bool = False
    bytes: int = 0
    flops: int = 0
    arithmetic: str = field(default="", compare=False)

    @property
    def line(self) -> str:
        """As it is typed."""
        return shlex.join(("detheads", *self.words))


def plan(
    recipe: Recipe, called: str, place: Place, images: tuple[int, int], settings: Settings, costs: Costs
) -> list[Work]:
    """The commands that follow a recipe from the pictures on, in their order.

    Args:
        called: the recipe's name, or its file.
        images: of the training and the validation split.
        settings: of its caches, whatever they say of mirrored images and of the type in which they are stored.
    """
    flips = recipe.features.flips and not place.turned
    caches = [_cache(recipe, place, split, flips) for split in ("train", "val")]
    works = []
    for split, cache in enumerate(caches):
        known = settings.model_copy(update={"flips": flips and split == 0, "dtype": place.dtype})
        count, times = images[split], 2 if known.flips else 1
        words = ["cache", "build", str(place.data), "--split", place.splits[split]]
        words += ["--backbone", recipe.features.backbone, "--size", str(recipe.features.size)]
        words += ["--dtype", place.dtype] if place.dtype != "fp16" else []
        words += ["--flips"] if known.flips else []
        words += ["--weights", str(place.weights)] if place.weights else []
        works.append(
            Work(
                (*words, "-o", str(cache)),
                cache,
                (cache / MANIFEST_NAME).is_file(),
                count * known.bytes_per_image,
                count * times * costs.backbone_flops,
                f"{count:,} images x {known.bytes_per_image / 1e6:.2f} MB; x {times} x "
                f"{costs.backbone_flops / 1e9:.0f} GFLOPs",
            )
        )
    text = place.folder / f"{recipe.text.model}-{recipe.text.prompts}.npz" if recipe.text else None
    if recipe.text and text:
        words = ["text", "embed", "--data", str(place.data), "--split", place.splits[1], "--model", recipe.text.model]
        source = ["--pretrained", recipe.text.pretrained]
        words += ["--weights", str(place.clip_weights)] if place.clip_weights else source
        works.append(Work((*words, "--prompts", str(recipe.text.prompts), "-o", str(text)), text, text.is_file()))
    run, bundle = place.folder / recipe.name, place.folder / f"{recipe.name}.detheads"
    words = ["train", "--recipe", called, "--cache", str(caches[0]), "--val", str(caches[1])]
    words += ["--text", str(text)] if text else []
    words += ["--mirror", "features"] if recipe.features.flips and place.turned else []
    stages = len(recipe.stages)
    works.append(
        Work(
            (*words, "-o", str(run)),
            run,
            (run / RECORD_NAME).is_file(),
            stages * STATES * 4 * costs.head_parameters,
            images[0] * recipe.epochs * BACKWARD * costs.head_flops,
            f"{stages} runs x {STATES} x 4 bytes x {costs.head_parameters:,} parameters; {images[0]:,} images x "
            f"{recipe.epochs} epochs x {BACKWARD} x {costs.head_flops / 1e9:.1f} GFLOPs",
        )
    )
    for more in ([], ["--soft-nms"]):
        works.append(Work(("eval", str(run), "--cache", str(caches[1]), *more), flops=images[1] * costs.head_flops))
    proof = ["--data", str(place.data), "--split", place.splits[1]]
    proof += ["--weights", str(place.weights)] if place.weights else []
    both = costs.backbone_flops + costs.head_flops
    parameters = costs.backbone_parameters + costs.head_parameters
    works.append(
        Work(
            ("export", str(run), *proof, "-o", str(bundle)),
            bundle,
            (bundle / BUNDLE_RECORD).is_file(),
            2 * 4 * parameters,
            2 * images[1] * both,
            f"graph and engine x 4 bytes x {parameters:,} parameters; {images[1]:,} images x 2 sides x "
            f"{both / 1e9:.0f} GFLOPs",
        )
    )
    works.append(Work(("verify", str(bundle), "--run", str(run), *proof), flops=2 * images[1] * both))
    return works


def left(works: Sequence[Work]) -> int:
    """Bytes that are still to be written."""
    return sum(work.bytes for work in works if not work.done)


def _cache(recipe: Recipe, place: Place, split: str, flips: bool) -> Path:
    """The folder of a cache, called after what is in it, so that recipes of the same features share it."""
    parts = [split, recipe.features.backbone, str(recipe.features.size)]
    parts += ["flips"] if flips and split == "train" else []
    parts += [place.dtype] if place.dtype != "fp16" else []
    return place.folder / "-".join(parts)
