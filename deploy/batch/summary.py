"""What a finished batch run says of itself, and its parts as one COCO file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from detheads.deploy.batch.part import PartResult, result_of
from detheads.deploy.batch.plan import Job, Lists
from detheads.deploy.detections import Detections
from detheads.deploy.detector import all_classes
from detheads.deploy.inputs import IMAGES_NAME, RESULTS_NAME
from detheads.deploy.writers import CocoResults, Record
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError

NAME: Final = "summary.json"


@dataclass(frozen=True)
class Summary:
    """What all parts that are done hold together.

    Attributes:
        full: pictures that filled the graph's table of rows.
        unreadable: pictures that could not be read; each is listed in the record of its part.
        parts: how many are done.
        failed: parts that were given up -> why; the next start begins them again.
    """

    pictures: int
    detections: int
    full: int
    unreadable: int
    parts: int
    failed: dict[int, str]


def summarise(job: Job, lists: Lists, failed: dict[int, str]) -> Summary:
    """Write ``summary.json`` from the records of the parts."""
    output = Path(job.output)
    done = list(_done(output, lists))
    summary = Summary(
        sum(part.pictures for part in done),
        sum(part.detections for part in done),
        sum(part.full for part in done),
        sum(len(part.unreadable) for part in done),
        len(done),
        failed,
    )
    rows = [
        {"part": part.part, "file": part.file, "sha256": part.sha256, "first_id": part.first_id,
         "pictures": part.pictures, "detections": part.detections, "unreadable": len(part.unreadable)}
        for part in done
    ]  # fmt: skip
    document = {
        "bundle": Path(job.bundle).name,
        "graph": job.graph,
        "complete": len(done) == lists.parts,
        "pictures": summary.pictures,
        "detections": summary.detections,
        "full_tables": summary.full,
        "unreadable": summary.unreadable,
        "failed": [{"part": part, "reason": reason} for part, reason in sorted(failed.items())],
        "parts": rows,
    }
    atomic.write_json(output / NAME, document)
    return summary


def merge_coco(job: Job, lists: Lists) -> tuple[Path, Path]:
    """Write ``detections.json`` (COCO results) and ``images.json`` (a COCO file without annotations) from all parts.

    Raises:
        UserError: when a part is not done, or its file is not as it was written.
    """
    output, manifest = Path(job.output), read_manifest(job.bundle)
    classes = all_classes(manifest.heads if job.head is None else [manifest.head_named(job.head)])
    results, images = output / RESULTS_NAME, output / IMAGES_NAME
    skipped: list[str] = []
    with atomic.replacing(results) as partial, atomic.replacing(images) as table:
        writer = CocoResults(partial, [entry.id for entry in classes])
        try:
            with table.open("w", encoding="utf-8") as stream:
                separator = '{"images": ['
                for part in _done(output, lists):
                    skipped += [entry["reason"] for entry in part.unreadable]
                    for record in _records(output, part):
                        writer.write(record)
                        row = {
                            "id": record.id,
                            "file_name": record.name,
                            "width": record.width,
                            "height": record.height,
                        }
                        stream.write(separator + json.dumps(row))
                        separator = ", "
                rest = {"categories": [{"id": entry.id, "name": entry.name} for entry in classes], "skipped": skipped}
                stream.write(separator if separator.startswith("{") else "")
                stream.write("], " + json.dumps(rest).removeprefix("{") + "\n")
        finally:
            writer.close()
    return results, images


def _done(output: Path, lists: Lists) -> Iterator[PartResult]:
    return (result for part in range(lists.parts) if (result := result_of(output, part)) is not None)


def _records(output: Path, part: PartResult) -> Iterator[Record]:
    path = output / part.file
    if atomic.sha256_of(path) != part.sha256:
        raise UserError(f"{path} was changed after it was written; remove it and run the same command again.")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            rows = said["detections"]
            found = Detections(
                np.array([row["box"] for row in rows], np.float64).reshape(-1, 4),
                np.array([row["score"] for row in rows], np.float32),
                np.array([row["label"] for row in rows], np.int32),
                tuple(row["name"] for row in rows),
                said["full"],
            )
            yield Record(said["id"], said["image"], said["width"], said["height"], found)
