"""One part of a batch run: its pictures in, its lines out, exactly once.

``parts/NNNNNN.jsonl`` is written beside its place and renamed, and so is then ``parts/NNNNNN.json``, which makes the
part a done one. Who is killed in between leaves a part that is not done; it is done again, and gives the same bytes.
"""

import errno
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from detheads.deploy.batch.plan import Job, images_of
from detheads.deploy.detector import Detector, Prepared
from detheads.deploy.inputs import InputImage
from detheads.deploy.writers import JsonLines, Record
from detheads.foundation import atomic
from detheads.foundation.ahead import map_ahead
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.reading import LARGEST_MANIFEST, read_json

PARTS: Final = "parts"
MOST_DECODERS: Final = 8
"""Threads of a worker that decode."""
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


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota has no room left."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


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


def run_part(detector: Detector, job: Job, part: int) -> PartResult:
    """Run the pictures of a part and write its files.

    Raises:
        UserError: when a source is not there at all, as on a machine that has not mounted it: its pictures are then
            not called unreadable.
        OSError: when the files cannot be written.
    """
    begin = time.perf_counter()
    images = images_of(job, part)
    for source in job.sources:
        if not Path(source).exists():
            raise UserError(f"{source} is not there on this machine; all workers need to see the same folders.")
    output = Path(job.output)
    lines = output / PARTS / f"{part:06d}.jsonl"
    remarks: Counter[str] = Counter()
    unreadable: list[dict[str, Any]] = []
    detections = full = 0
    with atomic.replacing(lines) as partial:
        writer = JsonLines(partial)
        try:
            for image, found in _detected(detector, images, job, remarks):
                if isinstance(found, str):
                    unreadable.append({"id": image.id, "image": image.name, "reason": found})
                    continue
                writer.write(found)
                detections, full = detections + len(found.found), full + found.found.full
        finally:
            writer.close()
        digest, size = atomic.sha256_of(partial), partial.stat().st_size
    result = PartResult(
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
    atomic.write_json(_record(output, part), asdict(result))
    return result


def _record(output: Path, part: int) -> Path:
    return output / PARTS / f"{part:06d}.json"


@dataclass(frozen=True)
class _Ready:
    image: InputImage
    prepared: Prepared | None
    failure: str
    remarks: Sequence[str]


def _detected(
    detector: Detector, images: Sequence[InputImage], job: Job, remarks: Counter[str]
) -> Iterator[tuple[InputImage, Record | str]]:
    """Each picture with its record, or with the reason why it cannot be read; decoding is ahead of the graph.

    A batch is of neighbours, whether or not they can be read, so that it is the same whoever works on the part.
    """
    threads = job.threads or min(available_cores(), MOST_DECODERS)

    def decode(image: InputImage) -> _Ready:
        said: list[str] = []
        try:
            return _Ready(image, detector.prepare(image.load(said.append)), "", said)
        except UserError as error:
            return _Ready(image, None, str(error), said)

    decoded = map_ahead(decode, images, ahead=job.batch + threads, threads=threads)
    while chunk := list(islice(decoded, job.batch)):
        found = iter(detector.run([ready.prepared for ready in chunk if ready.prepared is not None]))
        for ready in chunk:
            remarks.update(sentence.replace(str(ready.image.path), "a picture") for sentence in ready.remarks)
            if ready.prepared is None:
                yield ready.image, ready.failure
                continue
            letterbox = ready.prepared[1]
            kept = next(found).above(job.score)
            yield (
                ready.image,
                Record(ready.image.id, ready.image.name, letterbox.image_width, letterbox.image_height, kept),
            )
