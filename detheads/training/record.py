"""What a finished run records of itself: which files it ended with. It outranks what lies beside a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json

RECORD_NAME = "finished.json"


class Record(BaseModel):
    """A finished run.

    Attributes:
        checkpoints: SHA-256 of each checkpoint by its file name.
        epochs: trained in all.
        metrics: COCO statistics of the best evaluation, with its epoch.
        seconds: wall time in the training loop.
        validated_on_trained: pictures of the validation cache that were trained on too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    checkpoints: dict[str, str]
    epochs: int = Field(ge=0)
    metrics: dict[str, Any]
    seconds: float = Field(ge=0, allow_inf_nan=False)
    validated_on_trained: int = Field(ge=0)


def read_record(run: Path) -> Record | None:
    """The record of a run; None while it has not finished (or was made by hand).

    Raises:
        UserError: when the file is damaged.
    """
    path = run / RECORD_NAME
    if not path.is_file():
        return None
    try:
        return Record.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{path} is damaged ({where}: {fault['msg']}); restore it, or train again.") from None


def write_record(run: Path, checkpoints: Sequence[Path], **known: Any) -> None:
    """Record which files a run ended with; ``known`` are the other fields of :class:`Record`."""
    record = Record(checkpoints={path.name: atomic.sha256_of(path) for path in checkpoints}, **known)
    atomic.write_json(run / RECORD_NAME, record.model_dump())


def is_recorded(path: Path, record: Record) -> bool:
    """Whether a checkpoint file is the one that its run finished with."""
    return path.is_file() and atomic.sha256_of(path) == record.checkpoints.get(path.name)


def require_recorded(path: Path) -> None:
    """Refuse a checkpoint of a finished run that is not the one it finished with.

    Raises:
        UserError: in that case.
    """
    record = read_record(path.parent)
    if record is not None and path.is_file() and not is_recorded(path, record):
        raise UserError(
            f"{path} is not the file that the run finished with (its SHA-256 differs from {RECORD_NAME}'s): it was "
            "damaged or replaced; the same 'detheads train' again mends it where it can."
        )


def require_last(last: Path) -> None:
    """Refuse to begin a finished run again, over its best weights, because its last checkpoint is not there.

    Raises:
        UserError: in that case.
    """
    if not last.is_file() and read_record(last.parent) is not None:
        raise UserError(
            f"{last.parent} is a finished run whose {last.name} is missing, so it cannot go on; its best weights serve "
            "as they are, and a training from the start needs another folder with -o."
        )
