"""What an arena writes down: its setting, one row a head, and where the files lie. Torch-free."""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json
from detheads.headkit.options import to_text

SETTING_NAME = "arena.json"


class Setting(BaseModel):
    """What all heads of an arena have in common. A restarted arena must have the same.

    Attributes:
        dataset: name of the training data.
        backbone, height, width: the features; input pixels.
        classes: names by label.
        train_images, val_images: number of images.
        train_cache, val_cache: folders of the caches.
        train_sha256, val_sha256: digests of their manifests.
        training: the training configuration of every head; its seed is the first of ``seeds``, and its budget is
            ``epochs``, ``steps`` or ``minutes``.
        seeds: each head is trained once with each.
        text_sha256: digest of the class embeddings, None without.
        machine: cores and processor the arena was started on.
        versions: of detheads and torch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    backbone: str
    height: int
    width: int
    classes: tuple[str, ...]
    train_images: int
    val_images: int
    train_cache: str
    val_cache: str
    train_sha256: str
    val_sha256: str
    training: dict[str, Any]
    seeds: tuple[int, ...] = ()
    text_sha256: str | None
    machine: str
    versions: dict[str, str]


class ControlOf(BaseModel):
    """Which idea of which head a control lacks.

    Attributes:
        head, idea: by their names.
        claim, options, metric, allowance: as in :class:`detheads.headkit.controls.Control`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str
    idea: str
    claim: str
    options: dict[str, Any]
    metric: str
    allowance: float = 0.0

    @property
    def name(self) -> str:
        """Of the control among the heads of an arena."""
        return f"{self.head}-without-{self.idea}"

    @property
    def turned_off(self) -> str:
        """The options as ``-O`` takes them."""
        return " ".join(f"{name}={to_text(value)}" for name, value in self.options.items())


class SeedResult(BaseModel):
    """What one seed of a head reached; as in :class:`Row`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    metrics: dict[str, float | None]
    best_epoch: int
    seconds: float


Status = Literal["done", "stopped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
"""In the order of the tables."""


class Row(BaseModel):
    """How one head did.

    Attributes:
        head: its name; of a control that of :class:`ControlOf`.
        summary: what it is, in one line.
        control: of which idea it is the control, None for a head as it is.
        status: ``done``, or ``failed`` or ``stopped`` early with ``error`` saying why in one sentence.
        options: the head's resolved configuration.
        parameters, gflops, candidates, nms_free: what it costs (one image), None when it could not be built.
        metrics: the twelve COCO statistics by name on the validation cache (None where undefined), at the best epoch,
            and what it costs to find half of the objects: ``precision`` and ``false_detections`` an image.
        per_class: AP by class name.
        errors: AP50 that the repair of each kind of error alone would gain (see :mod:`detheads.report.errors`).
        best_epoch: 1-based; of the first seed.
        seeds: what each seed reached; metrics, per_class and errors are their means.
        spread: sample standard deviation of AP over the seeds; None for one seed.
        steps: of each seed's training.
        seconds: wall time of training and evaluations.
        milliseconds: of the head and its decoding in ONNX Runtime, one image, one thread, without backbone and
            suppression; None when not measured.
        latency_remark: why milliseconds are missing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: str
    summary: str = ""
    control: ControlOf | None = None
    status: Status
    error: str | None = None
    options: dict[str, Any] = {}
    parameters: int | None = None
    gflops: float | None = None
    candidates: int | None = None
    nms_free: bool | None = None
    metrics: dict[str, float | None] = {}
    per_class: dict[str, float | None] = {}
    errors: dict[str, float | None] = {}
    best_epoch: int | None = None
    steps: int | None = None
    seconds: float | None = None
    seeds: tuple[SeedResult, ...] = ()
    spread: float | None = None
    milliseconds: float | None = None
    latency_remark: str | None = None


def run_folder(arena: Path, head: str, seed: int | None = None) -> Path:
    """The training run of a head: ``log.jsonl``, ``best.safetensors``, ``config.json``.

    Args:
        seed: of a further run; None for the first one.
    """
    return arena / "runs" / (head if seed is None else f"{head}.seed-{seed}")


def row_path(arena: Path, head: str) -> Path:
    return arena / "rows" / f"{head}.json"


def pace_path(arena: Path, head: str) -> Path:
    """How many steps fit into the minutes of the budget, where it is in minutes."""
    return arena / "paces" / f"{head}.json"


def detections_path(arena: Path, head: str) -> Path:
    """COCO results of the head's best weights on the validation cache (xywh, original pixels)."""
    return arena / "detections" / f"{head}.json"


def log_path(arena: Path, head: str) -> Path:
    """What the head's process printed, with the traceback of a crash."""
    return arena / "logs" / f"{head}.log"


def read_setting(arena: Path) -> Setting:
    """The setting of an arena folder.

    Raises:
        UserError: when the folder holds no arena or the file is damaged.
    """
    path = arena / SETTING_NAME
    if not path.is_file():
        raise UserError(f"{arena} holds no arena; run one with 'detheads arena run ... -o {arena}' first.")
    try:
        return Setting.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({_first(error)}); delete it and run the arena again.") from None


def read_row(arena: Path, head: str) -> Row | None:
    """The row of a head, None while it has none.

    Raises:
        UserError: when the file is damaged.
    """
    path = row_path(arena, head)
    if not path.is_file():
        return None
    try:
        return Row.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"{path} is damaged ({_first(error)}); delete it and run the arena again.") from None


def read_rows(arena: Path) -> list[Row]:
    """All rows of an arena, best AP first, stopped and failed ones last."""
    rows = [read_row(arena, path.stem) for path in sorted((arena / "rows").glob("*.json"))]
    return sorted((row for row in rows if row is not None), key=rank_key)


def write_row(arena: Path, row: Row) -> None:
    atomic.write_json(row_path(arena, row.head), row.model_dump())


def rank_key(row: Row) -> tuple[int, float, str]:
    """Orders rows by descending AP, undefined ones behind, then those that were stopped, then failed ones; by name."""
    ap = row.metrics.get("AP")
    return STATUSES.index(row.status), 1.0 if ap is None else -ap, row.head


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
