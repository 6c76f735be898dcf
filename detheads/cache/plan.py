"""How a cache build begins: one builder at a time, and a recorded plan that a later run goes on with."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.cache.manifest import ANNOTATIONS_NAME, Settings
from detheads.data.dataset import Dataset
from detheads.foundation import atomic, claims
from detheads.foundation.errors import UserError

PLAN_NAME = "build.json"
SHARD_BYTES = 64 * 2**20
"""Aimed size of a shard: small enough to lose little when killed, large enough to keep file counts low."""


class BuildPlan(BaseModel):
    """What a build began with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    images_per_shard: int = Field(ge=1)


@contextmanager
def only_builder(folder: Path) -> Iterator[None]:
    """Hold the folder's lock and clear the half files of a killed build."""
    with claims.only_process(folder, "building the cache") as locked:
        if locked:
            for stem in ("shard-*", "build", "annotations", "manifest"):
                for partial in folder.glob(f".{stem}.*.partial.*"):
                    partial.unlink(missing_ok=True)
        yield


def prepare(folder: Path, dataset: Dataset, settings: Settings) -> int:
    """Write the plan and the annotations, or check that those of an earlier run are the same.

    Returns:
        Images in a shard (as begun, even if this version would choose another number).
    """
    annotations = folder / ANNOTATIONS_NAME
    coco = dataset.coco_json()
    if (folder / PLAN_NAME).is_file():
        plan = _read_plan(folder / PLAN_NAME)
        recorded, wanted = plan.settings.model_dump(mode="json"), settings.model_dump(mode="json")
        for key, value in wanted.items():
            if recorded[key] != value:
                raise UserError(
                    f"{folder} was begun with {key}={recorded[key]}, not {value}; "
                    "choose another folder or delete that one."
                )
        killed_in_between = not annotations.exists() and not any(folder.glob("shard-*"))
        if not killed_in_between:
            if not annotations.is_file() or atomic.read_json(annotations) != coco:
                raise UserError(
                    f"{folder} was begun with other images or boxes; choose another folder or delete that one."
                )
            return plan.images_per_shard
    else:
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no feature cache; choose another folder.")
        require_space(folder, len(dataset.images) * settings.bytes_per_image)
        per_shard = max(1, min(256, SHARD_BYTES // settings.bytes_per_image))
        plan = BuildPlan(settings=settings, images_per_shard=per_shard)
        atomic.write_json(folder / PLAN_NAME, plan.model_dump(mode="json"))
    atomic.write_json(annotations, coco, indent=None)
    return plan.images_per_shard


def _read_plan(path: Path) -> BuildPlan:
    try:
        return BuildPlan.model_validate(atomic.read_json(path))
    except ValidationError:
        raise UserError(f"{path} is not a build plan of this version; choose another folder for the cache.") from None


def require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the cache needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free; "
            "use --dtype int8, a smaller --size or another disk."
        )
