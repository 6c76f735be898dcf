"""One part of a batch run: its pictures in, its lines out, exactly once.

``parts/NNNNNN.jsonl`` is written beside its place and renamed, and so is then ``parts/NNNNNN.json``, which makes the
part a done one. Who is killed in between leaves a part that is not done; it is done again, and gives the same bytes.
"""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from detheads.deploy.batch.plan import Job, images_of
from detheads.deploy.detector import Detector
from detheads.deploy.pipeline import Pipeline, Timing
from detheads.deploy.writers import JsonLines
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Tell
from detheads.foundation.reading import LARGEST_MANIFEST, read_json

PARTS: Final = "parts"
MOST_REMARKS: Final = 20
"""Different sentences about pictures that a part keeps."""


@dataclass(frozen=True)
class PartResult:
    """What ``parts/NNNNNN.json`` says.

    Attributes:
        file: its lines, one for each picture that could be read.
        full: pictures that filled the graph's table of rows.
        unreadable: id, name and reason of each picture that could not be read.
        remarks: sentences about pictures -> how many.
    """

    part: int
    file: str
    sha256: str
    bytes: int
    first_id: int
    pictures: int
    detections: int
    full: int
    unreadable: list[dict[str, Any]]
    remarks: dict[str, int]
    runtime: str
    seconds: float


def open_detector(job: Job) -> Detector:
    """The detector of a worker.

    Raises:
        UserError: when the bundle does not run here, or is not the one that the run was begun with.
    """
    detector = Detector(job.bundle, backend=job.backend, threads=job.threads, head=job.head)
    if detector.manifest.onnx.sha256 != job.graph:
        raise UserError(f"{job.bundle} is another bundle than the run was begun with; put that one back.")
    return detector


def result_of(output: Path, part: int) -> PartResult | None:
    """What a part came to; None where it is not done."""
    path = _record(output, part)
    if not path.is_file():
        return None
    try:
        result = PartResult(**read_json(path, LARGEST_MANIFEST))
        lines = atomic.inside(output, result.file)
        return result if lines.stat().st_size == result.bytes else None
    except (TypeError, OSError):
        return None


def run_part(detector: Detector, job: Job, part: int, tell: Tell = lambda *far: None) -> PartResult:
    """Run the pictures of a part and write its files.

    Args:
        tell: called after each picture.

    Raises:
        UserError: when a source is not there at all, as on a machine that has not mounted it: its pictures are then
            not called unreadable.
        OSError: when the files cannot be written.
    """
    begin = time.perf_counter()
    images = images_of(job, part)
    for place in job.sources:
        if not Path(place).exists():
            raise UserError(f"{place} is not there on this machine; all workers need to see the same folders.")
    output = Path(job.output)
    lines = output / PARTS / f"{part:06d}.jsonl"
    remarks: Counter[str] = Counter()
    unreadable: list[dict[str, Any]] = []
    detections = full = 0
    pipeline = Pipeline(
        detector, lambda found: found.above(job.score), job.batch, tiling=None, annotated=None, timing=Timing()
    )
    with atomic.replacing(lines) as partial:
        writer = JsonLines(partial)
        try:
            for number, done in enumerate(pipeline.run(images), start=1):
                tell(number, len(images))
                source, result = done.source, done.result
                remarks.update(sentence.replace(str(source.path), "a picture") for sentence in done.remarks)
                if isinstance(result, str):
                    unreadable.append({"id": source.id, "image": source.name, "reason": result})
                    continue
                writer.write(result)
                detections, full = detections + len(result.found), full + result.found.full
        finally:
            writer.close()
        digest, size = atomic.sha256_of(partial), partial.stat().st_size
    finished = PartResult(
        part=part,
        file=f"{PARTS}/{lines.name}",
        sha256=digest,
        bytes=size,
        first_id=images[0].id,
        pictures=len(images),
        detections=detections,
        full=full,
        unreadable=unreadable,
        remarks=dict(remarks.most_common(MOST_REMARKS)),
        runtime=detector.session.runtime,
        seconds=round(time.perf_counter() - begin, 3),
    )
    atomic.write_json(_record(output, part), asdict(finished))
    return finished


def _record(output: Path, part: int) -> Path:
    return output / PARTS / f"{part:06d}.json"
